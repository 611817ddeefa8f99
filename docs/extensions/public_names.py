"""The directive ``public-names``: the reference of everything in a module's ``__all__``.

The pages name the modules only; what is public in them they take from the code, so that no name can
be forgotten. When the build ends, every public name must have got an entry, or there is a warning.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

from docutils.nodes import Element, Node
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import seqkern
from docs.making import public

_LOGGER = logging.getLogger(__name__)


class PublicNames(SphinxDirective):
    """A table of a module's public names, then each of them in full; of a name that the package
    itself has, too, only where it is described. In a Markdown page it stands inside ``eval-rst``,
    because docstrings are reStructuredText."""

    required_arguments = 1

    def run(self) -> list[Node]:
        module = self.arguments[0]
        loaded = importlib.import_module(module)
        values = {name: getattr(loaded, name) for name in public.names(module)}
        lines = [f".. currentmodule:: {module}", "", ".. list-table::", "   :widths: auto", ""]
        for name, value in values.items():
            lines += [f"   * - :py:obj:`{name}`", f"     - {_summary(value)}"]
        lines.append("")
        for name, value in values.items():
            lines += _entry(module, name, value)
        parent = Element()
        parent.document = self.state.document
        self.state.nested_parse(StringList(lines, f"public-names:: {module}"), 0, parent)
        return list(parent.children)


def _summary(value: Any) -> str:
    """The first sentence of its docstring."""
    paragraph = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
    sentence = re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]
    return sentence.replace("::", "").rstrip(".:")


def _entry(module: str, name: str, value: Any) -> list[str]:
    if module != "seqkern" and getattr(seqkern, name, None) is value:
        return [f".. py:class:: {name}", "", f"   The same as :py:class:`seqkern.{name}`.", ""]
    kind = "class" if inspect.isclass(value) else "function" if callable(value) else "data"
    options = ["   :members:"] if kind == "class" else []
    return [f".. auto{kind}:: {module}.{name}", *options, ""]


def without_factories(
    app: Sphinx,
    what: str,
    name: str,
    value: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str, str | None] | None:
    """A dataclass says `<factory>` of a default that it makes for each object, with which a
    signature is no Python and could not be laid out. None: the signature is as it should be."""
    if signature is None or "<factory>" not in signature:
        return None
    return signature.replace("<factory>", "..."), returns


def _check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        documented = {entry[0] for entry in app.env.domains["py"].get_objects()}
        for name in public.missing(documented):
            _LOGGER.warning("the reference has no entry for the public name %s", name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-signature", without_factories)
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True}
