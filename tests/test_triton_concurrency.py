"""Programs that wait for each other, in the interpreter: what goes wrong there shows here."""

from __future__ import annotations

import pytest
import torch

from seqkern.core.triton import support
from tests.triton_concurrency import programs_at_once

if support.missing:
    pytest.skip(support.missing, allow_module_level=True)

import triton
import triton.language as tl

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not support.INTERPRETED, reason="about the interpreter"),
]
MEMBERS, STEPS = 4, 6
SEEDS = range(5)


@triton.jit
def meet(arrived, expected, GIVE: tl.constexpr, TAKE: tl.constexpr, SCOPE: tl.constexpr):
    tl.atomic_add(arrived, 1, sem=GIVE, scope=SCOPE)
    while tl.atomic_add(arrived, 0, sem=TAKE, scope=SCOPE) < expected:
        pass


@triton.jit
def add_up(
    values, arrived, members, steps, excess, READ: tl.constexpr, WRITTEN: tl.constexpr,
    GIVE: tl.constexpr, TAKE: tl.constexpr, SCOPE: tl.constexpr,
):  # fmt: skip
    """At each step each program's value becomes its number plus half the sum of all values."""
    me = tl.program_id(0)
    everybody = tl.arange(0, 4)
    expected = 0
    for _ in range(0, steps):
        total = tl.sum(tl.load(values + everybody), 0)
        if READ:
            expected += members + excess
            meet(arrived, expected, GIVE, TAKE, SCOPE)
        tl.store(values + me, total / 2 + me)
        if WRITTEN:
            expected += members + excess
            meet(arrived, expected, GIVE, TAKE, SCOPE)


def is_right(seed: int, apart: bool, excess: int = 0, **change: object) -> bool:
    values = torch.arange(1.0, MEMBERS + 1)
    expected = values.clone()
    for _ in range(STEPS):
        expected = expected.sum() / 2 + torch.arange(MEMBERS)
    how = {"READ": True, "WRITTEN": True, "GIVE": "release", "TAKE": "acquire", "SCOPE": "gpu"}
    with programs_at_once(seed, apart):
        add_up[(MEMBERS,)](
            values, torch.zeros(1, dtype=torch.int64), MEMBERS, STEPS, excess,
            **(how | change), launch_cooperative_grid=True,
        )  # fmt: skip
    return torch.equal(values, expected)


@pytest.mark.parametrize("apart", [True, False])
def test_what_is_right_stays_right(apart):
    assert all(is_right(seed, apart) for seed in SEEDS)


@pytest.mark.parametrize(
    "change",
    [
        {"GIVE": "relaxed"},
        {"TAKE": "relaxed"},
        {"GIVE": "acquire"},
        {"SCOPE": "cta"},
        {"WRITTEN": False},
    ],
    ids=str,
)
def test_memory_apart_shows_what_is_not_given_or_taken(change):
    assert not any(is_right(seed, True, **change) for seed in SEEDS)


@pytest.mark.parametrize("change", [{"READ": False}, {"WRITTEN": False}], ids=str)
def test_turns_show_a_missing_barrier(change):
    assert not all(is_right(seed, False, **change) for seed in SEEDS)


@pytest.mark.parametrize("apart", [True, False])
def test_programs_that_wait_for_ever_are_told_so(apart):
    from triton.runtime.errors import InterpreterError

    with pytest.raises(InterpreterError, match="every program waits for another one"):
        is_right(0, apart, excess=1)


def test_a_seed_repeats_a_run():
    def run() -> torch.Tensor:
        values = torch.ones(MEMBERS)
        with programs_at_once(3, False):
            add_up[(MEMBERS,)](
                values, torch.zeros(1, dtype=torch.int64), MEMBERS, STEPS, 0, READ=False,
                WRITTEN=False, GIVE="release", TAKE="acquire", SCOPE="gpu",
                launch_cooperative_grid=True,
            )  # fmt: skip
        return values

    assert torch.equal(run(), run())
