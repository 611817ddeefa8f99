"""The directive ``public-names``: the reference of everything in a module's ``__all__``.

The pages name the modules only; what is public in them they take from the code, so that no name can
be forgotten. When the build ends, every public name must have got an entry (`missing`).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection
from types import ModuleType
from typing import Any

from docutils.nodes import Element, Node
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import seqkern

MODULES = (
    "seqkern",
    "seqkern.models",
    "seqkern.nn",
    "seqkern.nn.functional",
    "seqkern.optim",
    "seqkern.text",
    "seqkern.word2vec",
)
"""The modules that users import from."""

_LOGGER = logging.getLogger(__name__)


def public_names(module: str) -> list[str]:
    """What a module has in ``__all__``, without modules and dunder names."""
    loaded: ModuleType = importlib.import_module(module)
    return [
        name
        for name in loaded.__all__
        if not name.startswith("__") and not inspect.ismodule(getattr(loaded, name))
    ]


def missing(documented: Collection[str]) -> list[str]:
    """The public names that have no entry among those documented, which are full names."""
    names = [f"{module}.{name}" for module in MODULES for name in public_names(module)]
    return [name for name in names if name not in documented]


class PublicNames(SphinxDirective):
    """A table of a module's public names, then each of them in full; of a name that the package
    itself has, too, only where it is described. In a Markdown page it stands inside ``eval-rst``,
    because docstrings are reStructuredText."""

    required_arguments = 1

    def run(self) -> list[Node]:
        module = self.arguments[0]
        lines = [f".. currentmodule:: {module}", "", ".. autosummary::", ""]
        names = public_names(module)
        lines += [f"   {name}" for name in names] + [""]
        for name in names:
            lines += _entry(module, name, getattr(importlib.import_module(module), name))
        parent = Element()
        parent.document = self.state.document
        self.state.nested_parse(StringList(lines, f"public-names:: {module}"), 0, parent)
        return list(parent.children)


def _entry(module: str, name: str, value: Any) -> list[str]:
    full = f"{module}.{name}"
    if module != "seqkern" and getattr(seqkern, name, None) is value:
        return [f".. py:class:: {name}", "", f"   The same as :py:class:`seqkern.{name}`.", ""]
    kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
    lines = [f".. auto{kind}:: {full}"]
    if kind == "class":
        lines += ["   :members:", "   :show-inheritance:"]
    return [*lines, ""]


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        documented = {entry[0] for entry in app.env.domains["py"].get_objects()}
        for name in missing(documented):
            _LOGGER.warning("the reference has no entry for the public name %s", name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-names", PublicNames)
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True}
