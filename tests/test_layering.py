"""Who may import whom: rules for folders, and no two modules in a circle."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "seqkern"
DOMAINS = ("recurrent", "attention", "embedding")

# A folder, or a module that is alone, and what its modules import beside their own folder.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "_version": (),
    "core": ("_version",),
    **dict.fromkeys(DOMAINS, ("core", "_version")),
    **{f"{domain}.triton": (domain, "core") for domain in DOMAINS},
    **{f"{domain}.triton.kernels": ("core.triton",) for domain in DOMAINS},
    "nn": DOMAINS,
    "optim": ("core", "embedding"),
    "swapping": ("nn", "core", *DOMAINS),
    "text": ("core",),
    "word2vec": ("text", "core", "embedding"),
    "models": ("nn", "text", "core"),
    "demo": ("word2vec", "text", "models", "swapping", "nn", "core", "embedding"),
    "cli": ("demo", "word2vec", "core", "_version"),
    "": (
        "nn",
        "optim",
        "swapping",
        "word2vec",
        "text",
        "core",
        "recurrent",
        "attention",
        "_version",
    ),
    "__main__": ("cli", "core"),
}
# Inside a domain, only the kernels' launches know the kernels; the operators load them by name.
LAUNCHED = {domain: f"{domain}.triton" for domain in DOMAINS}


def modules() -> list[str]:
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    names = (".".join(path.parts) for path in paths)
    return sorted(name.removesuffix("__init__").rstrip(".") for name in names)


def source(module: str) -> Path | None:
    path = PACKAGE.joinpath(*module.split("."))
    found = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in found if file.is_file()), None)


def imports(module: str) -> Iterator[str]:
    """The full names of what a module imports anywhere in its code."""
    path = source(module)
    assert path is not None
    package = ["seqkern", *(part for part in module.split(".") if part)]
    package = package if path.stem == "__init__" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{name.name}" for name in node.names)


def imported_modules(module: str) -> set[str]:
    """The modules of the package among them; "" is the package itself."""
    found = set()
    for name in imports(module):
        if name == "seqkern" or name.startswith("seqkern."):
            inner = name.removeprefix("seqkern").lstrip(".")
            while inner and source(inner) is None:
                inner = inner.rpartition(".")[0]
            found.add(inner)
    return found


def folder(module: str) -> str:
    """The longest name in MAY_IMPORT that a module lies in; "" for the package's own face."""
    while module and module not in MAY_IMPORT:
        module = module.rpartition(".")[0]
    return module


@pytest.mark.parametrize("module", modules())
def test_imports_what_its_folder_may(module):
    own = folder(module)
    assert own or not module, f"give {module} a folder, or a line in MAY_IMPORT"
    allowed = (own, *MAY_IMPORT[own])
    for other in imported_modules(module):
        its = folder(other)
        inside = any(its == name or (name and its.startswith(f"{name}.")) for name in allowed)
        launched = its.startswith(LAUNCHED.get(own, "nothing"))
        assert inside and not launched, f"seqkern.{module} imports seqkern.{other}"


def test_no_module_imports_itself_through_others():
    graph = {module: imported_modules(module) - {module} for module in modules()}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names them


@pytest.mark.parametrize("module", [*(f"{domain}.reference" for domain in DOMAINS)])
def test_the_reference_imports_nothing_but_torch(module):
    outside = {name for name in imports(module) if not name.startswith("seqkern")}
    roots = {name.partition(".")[0] for name in outside}
    assert roots - set(sys.stdlib_module_names) == {"torch"}
    # Attention's adds its random generator, which is as plain.
    generator = {"seqkern.attention.philox.kept"} if module == "attention.reference" else set()
    assert set(imports(module)) - outside == generator


def test_faces_define_nothing():
    for face in ("nn", "nn.functional", "optim"):
        path = source(face)
        assert path is not None
        kinds = {type(node) for node in ast.parse(path.read_text()).body}
        assert not kinds & {ast.FunctionDef, ast.ClassDef}, f"seqkern.{face} defines something"
