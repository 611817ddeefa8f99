"""Docstrings of public names: every parameter, result and error is described."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from typing import Any

import pytest
import torch

from docs.making import public

NAMES = {
    f"{module}.{name}": getattr(importlib.import_module(module), name)
    for module in public.MODULES
    for name in public.names(module)
}
FUNCTIONS = [name for name, value in NAMES.items() if inspect.isfunction(value)]
CLASSES = [name for name, value in NAMES.items() if inspect.isclass(value)]
RAISE_NOTHING = {
    "seqkern.info",
    "seqkern.text.documentation_text",
    "seqkern.unfreeze_",
    "seqkern.unprepack_",
}
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def sections(documentation: str) -> dict[str, str]:
    """The text of each section by its name."""
    return {match[1]: match[2] for match in SECTION.finditer(documentation)}


def parameters(value: Any) -> list[str]:
    return [name for name in inspect.signature(value).parameters if name != "self"]


def is_named(parameter: str, section: str) -> bool:
    """Whether a section has the entry `parameter: ...`, alone or in a list of names."""
    return re.search(rf"(?<!\w){parameter}(, \w+)*: ", section) is not None


def test_sections_and_entries_are_found() -> None:
    documentation = (
        "Adds.\n\nArgs:\n    first, second: numbers.\n    other: one\n        more.\n\n"
        "Returns:\n    The sum.\n\nMore text.\n"
    )
    found = sections(documentation)
    assert set(found) == {"Args", "Returns"} and "More text" not in found["Returns"]
    assert all(is_named(name, found["Args"]) for name in ("first", "second", "other"))
    assert not is_named("one", found["Args"]) and not is_named("third", found["Args"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function = NAMES[name]
    found = sections(inspect.getdoc(function) or "")
    unnamed = [p for p in parameters(function) if not is_named(p, found.get("Args", ""))]
    assert not unnamed, f"Args of {name} lack {unnamed}"
    assert found.get("Returns", "").strip(), f"{name} lacks Returns"
    assert bool(found.get("Raises", "").strip()) != (name in RAISE_NOTHING), f"Raises of {name}"


def referred_to(section: str) -> set[str]:
    """The constructor parameters of the classes that a section refers to: those of torch by their
    full names, ours in backquotes."""
    ours = {other.rpartition(".")[2]: cls for other, cls in NAMES.items() if inspect.isclass(cls)}
    classes = [
        getattr(getattr(torch, module), found)
        for module, found in re.findall(r"torch\.(nn|optim)\.(\w+)", section)
    ]
    classes += [ours[found] for found in re.findall(r"`(\w+)`", section) if found in ours]
    return {parameter for cls in classes for parameter in inspect.signature(cls).parameters}


def described_fields(cls: type) -> set[str]:
    """The fields of a NamedTuple or dataclass that a string follows."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    pairs = zip(body.body, body.body[1:], strict=False)
    return {
        field.target.id
        for field, text in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    """The constructor's parameters; where they are another class's, a reference to it is enough."""
    cls = NAMES[name]
    documentation = cls.__doc__ or ""
    assert documentation.strip(), name
    if issubclass(cls, BaseException):
        return
    found = sections(inspect.cleandoc(documentation))
    entries = found.get("Args", "") + found.get("Attributes", "")
    covered = described_fields(cls) | referred_to(found.get("Args", ""))
    unnamed = [p for p in parameters(cls) if not is_named(p, entries) and p not in covered]
    assert not unnamed, f"Args of {name} lack {unnamed}"


def test_what_users_catch_and_read_is_public() -> None:
    for name in (
        "seqkern.Explanation",
        "seqkern.SwapReport",
        "seqkern.UserError",
        "seqkern.VerificationError",
        "seqkern.text.CorpusFormatError",
        "seqkern.text.MissingTextFileError",
        "seqkern.text.TextFileError",
        "seqkern.text.TextFormatError",
        "seqkern.word2vec.CorpusError",
        "seqkern.word2vec.DivergenceError",
        "seqkern.word2vec.FormatError",
    ):
        assert name in NAMES
