"""Timing two callables against each other fairly."""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
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
    """Wait for an accelerator, if there is one, so that the clock measures finished work."""
    if _has_accelerator():
        torch.accelerator.synchronize()


def timed(run: Callable[[], object]) -> float:
    """Seconds that one call of ``run`` takes, work queued on an accelerator included."""
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Shortest:
    """The shortest of several rounds of two contestants in turn, in seconds."""

    first: float
    second: float
    first_cpu: float
    """Processor time of all threads."""
    second_cpu: float
    busy: bool
    """Whether others use the machine, too; see `shortest`."""

    @property
    def ratio(self) -> float:
        """The second over the first, by processor time where the machine is busy."""
        return self.second_cpu / self.first_cpu if self.busy else self.second / self.first


BUSY = 1.3
"""From which ratio on, of a median round to the shortest or of clock to processor time, the machine
counts as busy."""


def shortest(times: PairTimes, cpu: PairTimes, accelerator: bool = False) -> Shortest:
    """The result of the rounds, by the clock and by processor time.

    The machine is busy where the rounds of both contestants took unequally long, or where the best
    round of one got clearly less processor time than the clock ran: it did not even have one core
    to itself. None of this is known where an accelerator does the work.
    """
    spreads = [statistics.median(rounds) / min(rounds) for rounds in times]
    first, second, first_cpu, second_cpu = (max(min(rounds), 1e-9) for rounds in (*times, *cpu))
    starved = max(first / first_cpu, second / second_cpu) > BUSY
    busy = not accelerator and (min(spreads) > BUSY or starved)
    return Shortest(first, second, first_cpu, second_cpu, busy)


def interleave_cpu(
    first: Callable[[], object],
    second: Callable[[], object],
    seconds: float,
    *,
    prepare_first: Callable[[], object] | None = None,
    prepare_second: Callable[[], object] | None = None,
) -> Shortest:
    """`interleave` for about so many seconds, 3 to 50 rounds, with the processor's time beside the
    clock's."""
    cpu = PairTimes([], [])

    def measured(run: Callable[[], object], record: list[float]) -> Callable[[], object]:
        def call() -> None:
            start = time.process_time()
            run()
            record.append(time.process_time() - start)

        return call

    def prepared(prepare: Callable[[], object] | None) -> None:
        if prepare is not None:
            prepare()

    prepared(prepare_second)
    second()  # warm
    prepared(prepare_first)
    guess = min(timed(first), timed(first))
    times = interleave(
        measured(first, cpu.first),
        measured(second, cpu.second),
        rounds=max(3, min(50, round(seconds / (2 * max(guess, 1e-6))))),
        prepare_first=prepare_first,
        prepare_second=prepare_second,
    )
    return shortest(times, cpu, accelerator=_has_accelerator())


def interleave(
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
    *,
    prepare_first: Callable[[], object] | None = None,
    prepare_second: Callable[[], object] | None = None,
) -> PairTimes:
    """Time two callables in turn: A B, B A, A B, ...

    On a shared machine the clock rate and the load change from second to second. Measured in turns,
    both contestants run under the same conditions, and alternating the order keeps either from
    always following the other. The garbage collector is off meanwhile.

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
