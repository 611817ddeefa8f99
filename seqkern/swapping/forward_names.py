"""Which attributes a module's forward looks up."""

from __future__ import annotations

import ast
import functools
import inspect
from typing import Any


@functools.cache
def names_read(cls: type) -> frozenset[str] | None:
    """The names X in every `self.X` of the class's forward, and of the methods and properties that
    it calls; None where Python has no source code to read.

    What a method does with `self` by other means (`getattr`, another name for it) is not seen.
    """
    found: set[str] = set()
    seen: set[tuple[type, str]] = set()
    todo: list[tuple[str, tuple[type, ...]]] = [("forward", cls.__mro__)]
    while todo:
        name, classes = todo.pop()
        owner = next((owner for owner in classes if name in vars(owner)), None)
        if owner is None or (owner, name) in seen:
            continue
        seen.add((owner, name))
        try:
            of_self, of_super = _mentioned(vars(owner)[name])
        except OSError:
            return None
        found |= of_self
        todo += [(name, cls.__mro__) for name in of_self]
        after = cls.__mro__[cls.__mro__.index(owner) + 1 :]
        todo += [(name, after) for name in of_super]
    return frozenset(found)


def _mentioned(member: Any) -> tuple[set[str], set[str]]:
    """The names X in `self.X` and in `super().X`."""
    function = inspect.unwrap(getattr(member, "fget", None) or member)
    if not inspect.isfunction(function):
        return set(), set()
    of_self: set[str] = set()
    of_super: set[str] = set()
    me = next(iter(inspect.signature(function).parameters), None)
    source = inspect.getsource(function)
    if source[0].isspace():  # lines of a docstring need not be, so it cannot just be moved
        source = f"if True:\n{source}"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        of = node.value
        if isinstance(of, ast.Name) and of.id == me:
            of_self.add(node.attr)
        elif isinstance(of, ast.Call) and isinstance(of.func, ast.Name) and of.func.id == "super":
            of_super.add(node.attr)
    return of_self, of_super
