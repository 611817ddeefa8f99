"""Which part of ``seqkern`` imports which, read from the sources without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

Graph = dict[str, set[str]]
"""By part, the parts that it imports. A part is a folder of the package, or a file at its top."""


def parts(package: Path) -> Graph:
    """The graph of a package's parts, the package itself (its ``__init__``) among them.

    Args:
        package: the package's folder.
    """
    files = sorted(package.rglob("*.py"))
    modules = {_module(path, package): _part(path, package) for path in files}
    graph: Graph = {part: set() for part in sorted(set(modules.values()))}
    for path in files:
        part = _part(path, package)
        for name in _imported(path, package):
            while name and name not in modules:  # a function or a class in the module
                name = name.rpartition(".")[0]
            if name and modules[name] != part:
                graph[part].add(modules[name])
    return graph


def _module(path: Path, package: Path) -> str:
    words = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def _part(path: Path, package: Path) -> str:
    inside = path.relative_to(package)
    if len(inside.parts) > 1:
        return inside.parent.as_posix()
    return package.name if inside.stem == "__init__" else inside.stem


def _imported(path: Path, package: Path) -> Iterator[str]:
    """The full names of what a file imports anywhere in its code."""
    own = path.relative_to(package.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = own[: len(own) + 1 - node.level] if node.level else ()
            start = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*start, name.name]) for name in node.names)


def condensed(graph: Graph) -> Graph:
    """The graph with parts that import each other as one, named "a, b"; it has no cycles."""
    below = {part: _reachable(graph, part) for part in graph}
    name = {
        part: ", ".join(sorted({part} | {o for o in below[part] if part in below[o]}))
        for part in graph
    }
    joined: Graph = {name[part]: set() for part in graph}
    for part, others in graph.items():
        joined[name[part]] |= {name[other] for other in others} - {name[part]}
    return joined


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph[waiting.pop()]:
            if other not in found:
                found.add(other)
                waiting.append(other)
    return found


def without_shortcuts(graph: Graph) -> Graph:
    """The graph without those imports that a longer way implies."""
    below = {part: _reachable(graph, part) for part in graph}
    return {
        part: {o for o in others if not any(o in below[via] for via in others)}
        for part, others in graph.items()
    }


def levels(graph: Graph) -> dict[str, int]:
    """How high each part stands: 0 where it imports none, else one above the highest below it."""
    found: dict[str, int] = {}

    def level(part: str) -> int:
        if part not in found:
            found[part] = 1 + max(map(level, graph[part]), default=-1)
        return found[part]

    for part in graph:
        level(part)
    return found
