"""Timing two things against each other fairly."""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class PairTimes(NamedTuple):
    """Seconds per round of the two contestants, in the order of the rounds."""

    first: list[float]
    second: list[float]

    def medians(self) -> tuple[float, float]:
        """Median seconds of the first and of the second."""
        return statistics.median(self.first), statistics.median(self.second)


@functools.cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


def synchronize() -> None:
    """Wait for an accelerator, if there is one, so that the clock sees finished work."""
    if _has_accelerator():
        torch.accelerator.synchronize()


def timed(run: Callable[[], object]) -> float:
    """Seconds that one call of ``run`` takes, work queued on an accelerator included."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def interleave(
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
    *,
    prepare_first: Callable[[], object] | None = None,
    prepare_second: Callable[[], object] | None = None,
) -> PairTimes:
    """Time two callables in turn: A B, B A, A B, ...

    On a shared machine the clock rate and the neighbours change from second to second. Measured
    in turns, both contestants meet the same weather, and alternating who goes first keeps either
    from always following the other. The garbage collector rests meanwhile.

    Args:
        first: the first contestant.
        second: the second contestant.
        rounds: how often each runs, at least 1.
        prepare_first: runs before each call of ``first``, outside the timed part.
        prepare_second: runs before each call of ``second``, outside the timed part.

    Returns:
        The seconds of each round of each contestant.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    times = PairTimes([], [])
    turns = [(first, prepare_first, times.first), (second, prepare_second, times.second)]
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for run, prepare, record in turns:
                if prepare is not None:
                    prepare()
                record.append(timed(run))
            turns.reverse()
    finally:
        if collecting:
            gc.enable()
    return times
