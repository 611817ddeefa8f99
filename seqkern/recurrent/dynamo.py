"""Lets `torch.compile` and strict `torch.export` trace the layers.

Dynamo refuses every instance of `torch.nn.RNN`, `LSTM` and `GRU`, and ours are such. Its switch,
`torch._dynamo.config.allow_rnn`, would admit torch.nn's own layers as well, which silently lose
their dropout there. So it is on only while Dynamo traces a layer of ours: that is one method of its
`VariableBuilder`, the same in torch 2.11 to 2.14. On a torch without it, Dynamo still refuses, by a
graph break or, with `fullgraph=True`, an error.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

BUILDER = "torch._dynamo.variables.builder"


def admit(layers: type) -> None:
    """Lets Dynamo trace instances of `layers`, from now on or from when it is imported on.

    Importing Dynamo takes seconds, so only programs that compile do it.
    """
    if BUILDER in sys.modules:
        # Not sys.modules[...]: this waits for another thread that is importing it.
        patch_builder(importlib.import_module(BUILDER), layers)
    else:
        sys.meta_path.insert(0, _AfterImport(BUILDER, lambda module: patch_builder(module, layers)))


def patch_builder(builder: Any, layers: type) -> None:
    """`admit` for the module of Dynamo that decides."""
    config = getattr(builder, "config", None)
    if config is not None and not hasattr(config, "allow_rnn"):
        return  # a Dynamo that refuses nothing
    variable_builder = getattr(builder, "VariableBuilder", None)
    wrap = getattr(variable_builder, "wrap_module", None)
    if config is None or variable_builder is None or wrap is None:
        warnings.warn(
            "seqkern does not know this version of torch's compiler, which will not trace "
            "seqkern.nn.RNN, LSTM and GRU: they run uncompiled, and fullgraph=True raises",
            RuntimeWarning,
            stacklevel=2,
        )
        return

    @functools.wraps(wrap)
    def wrap_module(self: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(value, layers):
            return wrap(self, value, *args, **kwargs)
        with config.patch(allow_rnn=True):
            return wrap(self, value, *args, **kwargs)

    variable_builder.wrap_module = wrap_module


class _AfterImport(MetaPathFinder):
    """Calls a function with a module as soon as that has been imported.

    It stays in `sys.meta_path`: if it were removed, another thread that iterates over the list
    could miss the finder after it.
    """

    def __init__(self, name: str, then: Callable[[Any], None]) -> None:
        self._name = name
        self._then = then

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        others = [
            finder.find_spec
            for finder in sys.meta_path
            if finder is not self and hasattr(finder, "find_spec")
        ]
        specs = (find_spec(name, path, target) for find_spec in others)
        spec = next((spec for spec in specs if spec is not None), None)
        # A loader that has no such method, or does not allow another one, cannot be followed; it
        # loads.
        with contextlib.suppress(AttributeError):
            self._shadow_exec_module(spec.loader)  # type: ignore[union-attr]
        return spec

    def _shadow_exec_module(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            if module.__name__ == self._name:  # some loaders serve many modules
                del loader.exec_module
                self._then(module)

        loader.exec_module = exec_module
