"""What of a kernel's code the record of resources takes for a change."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from seqkern.core.triton import support

if support.missing:
    pytest.skip(support.missing, allow_module_level=True)

from tests.triton_code import code_of

HELPERS = """
import triton

@triton.jit
def shared(x):
    return x + 1
"""
SOURCE = """
from typing import NamedTuple
import triton
import triton.language as tl
import helpers

FACTOR = tl.constexpr(2)

class Pair(NamedTuple):
    left: int
    right: int

@triton.jit
def helper(x):
    return x * FACTOR

@triton.jit
def apart(x):
    return x

@triton.jit
def kernel(at, n):
    '''Words.'''
    pair = Pair(n, n)  # more words
    tl.store(at, helper(helpers.shared(pair.left)))
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The code of `kernel` in a module of this source."""
    count = 0

    def load(name: str, source: str) -> ModuleType:
        nonlocal count
        count += 1
        path = tmp_path / f"{name}{count}.py"  # inspect remembers the lines of a file
        path.write_text(source)
        module = ModuleType(name)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, path, "exec"), module.__dict__)
        return module

    def of(source: str = SOURCE, helpers: str = HELPERS) -> str:
        load("helpers", helpers)
        return code_of(load("kernels", source).kernel)

    return of


def test_words_are_no_change(code):
    assert "Words" not in code() and "helper" in code()
    assert code(SOURCE.replace("Words", "Other words").replace("more words", "")) == code()


def test_what_the_kernel_does_not_call_is_no_change(code):
    assert code(SOURCE.replace("    return x\n", "    return -x\n")) == code()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("Pair(n, n)", "Pair(n, n + 1)", id="its own code"),
        pytest.param("x * FACTOR", "x / FACTOR", id="a function's"),
        pytest.param("constexpr(2)", "constexpr(3)", id="a constant"),
        pytest.param("left: int", "first: int", id="a tuple's fields"),
    ],
)
def test_a_change(code, before, after):
    assert before in SOURCE
    assert code(SOURCE.replace(before, after)) != code()


def test_a_change_of_another_module(code):
    assert code(helpers=HELPERS.replace("x + 1", "x + 2")) != code()


def test_the_kernels_that_ship_have_code():
    folder = Path(__file__).resolve().parent.parent / "seqkern"
    from seqkern.attention.triton.forward import attention_forward_kernel

    found = code_of(attention_forward_kernel)
    assert "Programs: tiles" in (folder / "attention/triton/forward.py").read_text()
    assert "attention_forward_kernel" in found and "Programs: tiles" not in found
    assert "'sweep'" in found and "name='logits'" in found  # called by what it calls
