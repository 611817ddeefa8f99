"""The state of a model that running it changes, saved and restored."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch


class Snapshot:
    """The state of a model and of the random generators, to be restored any number of times.

    It holds the attributes of every module (shallowly: an object that an attribute names is not
    copied), the values of the buffers, and the generators of torch, Python and NumPy. Parameters
    and their gradients are not included.

    Args:
        model: the model; its modules must stay the same ones.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        modules = list(model.modules())
        self._attributes = [(vars(module), dict(vars(module))) for module in modules]
        self._buffers = [
            (module._buffers, name, buffer, buffer.detach().clone())
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self._python = random.getstate()
        self._numpy = _numpy_state()

    def unchanged(self) -> bool:
        """Whether everything is as it was: attributes are the same objects, buffers and generators
        have the same values."""
        cuda = torch.cuda.get_rng_state_all() if self._cuda is not None else None
        return (
            all(_same_objects(current, saved) for current, saved in self._attributes)
            and all(
                buffers.get(name) is buffer and torch.equal(buffer, value)
                for buffers, name, buffer, value in self._buffers
            )
            and torch.equal(torch.get_rng_state(), self._torch)
            and all(map(torch.equal, cuda or [], self._cuda or []))
            and random.getstate() == self._python
            and (self._numpy is None or _plain(_numpy_state()) == _plain(self._numpy))
        )

    def restore(self) -> None:
        """Put everything back. Buffers keep their identity."""
        for current, saved in self._attributes:
            current.clear()
            current.update(saved)
        with torch.no_grad():
            for buffers, name, buffer, value in self._buffers:
                buffer.copy_(value)
                buffers[name] = buffer
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)


def _numpy_state() -> Any:
    return sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None


def _plain(state: Any) -> list[Any]:
    """NumPy's state without an array in it, which `==` would compare element by element."""
    return [part.tolist() if hasattr(part, "tolist") else part for part in state]


def _same_objects(current: dict[str, Any], saved: dict[str, Any]) -> bool:
    return current.keys() == saved.keys() and all(current[key] is saved[key] for key in saved)
