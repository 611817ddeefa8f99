"""Shapes and dtypes of operators' results, for torch.compile, torch.export and meta tensors.

A domain's `fake.py` has a function for each operator, of the operator's name and with those of its
arguments, by name, on which the results depend. What else the operator takes stands in its schema
(csrc/library.cpp), which `Fakes` asks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from seqkern.core import library


class Fakes:
    """Registers functions as fake kernels of the compiled operators of their names. Without the
    library there are none, and nothing to register."""

    def __init__(self, *functions: Callable[..., Any]) -> None:
        self._functions = {function.__name__: function for function in functions}
        if library.cpu.loaded:
            for name in self._functions:
                self.register(name, like=name)

    def register(self, operator: str, like: str) -> None:
        """The fake of an operator is that of `like`, whose schema it has."""
        torch.library.register_fake(f"seqkern::{operator}", self.kernel(like))

    def kernel(self, name: str) -> Callable[..., Any]:
        """The fake kernel of an operator: its function, called with all of its arguments."""
        run = self._functions[name]
        names = [a.name for a in getattr(torch.ops.seqkern, name).default._schema.arguments]
        wanted = list(inspect.signature(run).parameters)
        unknown = set(wanted) - set(names)
        assert not unknown, f"{name} has no arguments {unknown}"

        def fake(*arguments: Any, **named: Any) -> Any:
            given = dict(zip(names, arguments, strict=False)) | named
            return run(*[given[name] for name in wanted])

        return fake
