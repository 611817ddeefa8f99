"""What is public: everything in ``__all__`` of the modules that users import from."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection

MODULES = (
    "seqkern",
    "seqkern.models",
    "seqkern.nn",
    "seqkern.nn.functional",
    "seqkern.optim",
    "seqkern.text",
    "seqkern.word2vec",
)
"""The modules that users import from, each with a page in ``docs/api``."""


def names(module: str) -> list[str]:
    """What a module has in ``__all__``, without modules and dunder names."""
    loaded = importlib.import_module(module)
    return [
        name
        for name in loaded.__all__
        if not name.startswith("__") and not inspect.ismodule(getattr(loaded, name))
    ]


def missing(documented: Collection[str]) -> list[str]:
    """The public names that are not among those documented, all of them full names."""
    full = [f"{module}.{name}" for module in MODULES for name in names(module)]
    return [name for name in full if name not in documented]
