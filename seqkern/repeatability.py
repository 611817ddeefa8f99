"""Parametrizations that give another value each time they are asked.

`spectral_norm` goes on with its power iteration at each access in training, others draw random
numbers. torch.nn's recurrent layers ask several times a forward and seqkern's once, so the values
differ, whatever the kernels do.
"""

from __future__ import annotations

import torch
from torch.nn.utils import parametrize


def changing_parametrizations(model: torch.nn.Module) -> list[str]:
    """The names of the parametrized tensors that do not repeat. Asking changes their buffers and
    the random generators: put those back afterwards."""
    found = []
    with torch.no_grad():
        for path, module in model.named_modules():
            if not parametrize.is_parametrized(module):
                continue
            for name in module.parametrizations:
                first, second = getattr(module, name).clone(), getattr(module, name)
                if not torch.equal(first, second):
                    found.append(f"{path}.{name}" if path else name)
    return found
