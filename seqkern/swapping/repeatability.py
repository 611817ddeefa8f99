"""Parametrizations that do not repeat their values, and how to hold these for a comparison.

`spectral_norm` continues its power iteration at each access in training, others draw random
numbers. torch.nn's recurrent layers access them several times a forward and seqkern's once, so the
values differ, and so does what the rest of the model draws, whatever the kernels do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils import parametrize

from seqkern.swapping.snapshot import Snapshot


class Held:
    """One parametrized tensor, with a value that it had once."""

    def __init__(self, parametrization: torch.nn.Module, value: torch.Tensor) -> None:
        self._parametrization = parametrization
        self._value = value

    def install(self) -> torch.Tensor:
        """Makes the module read one new leaf, which is returned, until `remove`."""
        leaf = self._value.detach().requires_grad_(self._value.requires_grad)
        vars(self._parametrization)["forward"] = lambda: leaf
        return leaf

    def remove(self) -> None:
        """Restores the parametrization."""
        vars(self._parametrization).pop("forward", None)


def changing_parametrizations(model: torch.nn.Module) -> dict[str, Held]:
    """By their names the parametrized tensors whose value, buffers or attributes an access changes,
    or whose access draws random numbers. Each is computed twice; the state is put back."""
    found = {}
    with torch.enable_grad():
        for path, module in model.named_modules():
            if not parametrize.is_parametrized(module):
                continue
            parametrizations: Any = module.parametrizations
            for name, parametrization in parametrizations.items():
                snapshot = Snapshot(parametrization)
                try:
                    first = parametrization()
                    repeats = snapshot.unchanged() and torch.equal(first, parametrization())
                finally:
                    snapshot.restore()
                if not repeats:
                    found[f"{path}.{name}" if path else name] = Held(parametrization, first)
    return found


@contextmanager
def holding(held: Mapping[str, Held]) -> Iterator[dict[str, torch.Tensor]]:
    """Within the block the tensors keep their values; yields the leaves that replace them, whose
    gradients are what the kernels computed."""
    try:
        yield {name: one.install() for name, one in held.items()}
    finally:
        for one in held.values():
            one.remove()
