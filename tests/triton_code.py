"""The code of a Triton kernel, as far as a change of it changes what is compiled."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from types import ModuleType
from typing import Any

import triton.language as tl
from triton.runtime.jit import JITFunction


def code_of(kernel: JITFunction) -> str:
    """Of a kernel and all that it calls, without comments and docstrings, and with the values of
    the constants and the fields of the tuples that it takes from its module."""
    functions: dict[int, JITFunction] = {}
    others: set[str] = set()
    waiting = [kernel]
    while waiting:
        function = waiting.pop()
        if id(function) in functions:
            continue
        functions[id(function)] = function
        for name, value in _globals(function):
            if isinstance(value, JITFunction):
                if not _is_tritons(value.fn.__module__):
                    waiting.append(value)
            elif isinstance(value, tl.constexpr | int | float | str):
                others.add(f"{name} = {getattr(value, 'value', value)!r}")
            elif isinstance(value, type) and hasattr(value, "_fields"):
                others.add(f"{name}: {value._fields}")
    return "\n".join([*sorted(_dump(f) for f in functions.values()), *sorted(others)])


@functools.cache
def _tree(function: JITFunction) -> ast.FunctionDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function.fn))).body
    assert isinstance(node, ast.FunctionDef)
    if ast.get_docstring(node) is not None:
        del node.body[0]
    return node


@functools.cache
def _dump(function: JITFunction) -> str:
    return ast.dump(_tree(function))


def _globals(function: JITFunction) -> list[tuple[str, Any]]:
    """What the names of its module that it uses stand for, and those of other modules of ours."""
    found = function.fn.__globals__
    named: dict[str, Any] = {}
    for node in ast.walk(_tree(function)):
        if isinstance(node, ast.Name) and node.id in found:
            named[node.id] = found[node.id]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = found.get(node.value.id)
            if isinstance(module, ModuleType) and not _is_tritons(module.__name__):
                named[f"{node.value.id}.{node.attr}"] = getattr(module, node.attr)
    return sorted(named.items(), key=lambda item: item[0])


def _is_tritons(module: str) -> bool:
    return module.partition(".")[0] == "triton"
