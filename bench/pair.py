"""The fixture that measures seqkern against a peer, in turns."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from seqkern.core.timing import synchronize, timed

from . import settings

Work = Callable[[], Sequence[torch.Tensor]]
"""Does the work that is measured and returns its results, for comparison."""


class Pair:
    """Times two contestants in turn and records both in pytest-benchmark's JSON.

    pytest-benchmark times seqkern; the peer runs just before it in every other round and just
    after it in the rounds between (peer, ours | ours, peer | peer, ours ...), so that both run at
    the same clock rate and under the same load.
    """

    def __init__(self, benchmark: BenchmarkFixture) -> None:
        self._benchmark = benchmark

    def __call__(
        self,
        ours: Work,
        peer: Work,
        *,
        tolerance: float,
        reference: Work | None = None,
        stand_in: Work | None = None,
        min_rounds: int = settings.MIN_ROUNDS,
        **info: Any,
    ) -> None:
        """Check that both compute the same, then measure them.

        Where they disagree, `reference` decides: if ours are its results, the peer is measured all
        the same and recorded as wrong (`peer_wrong`). `checked_against` records with whom our
        results were compared: ``peer`` or ``stand-in``.

        Args:
            ours: seqkern's way.
            peer: the other way.
            tolerance: largest error of ours relative to the peer's, in norm, of every result.
            reference: the same results computed more precisely; called only after a disagreement.
            stand_in: compared with ours in place of the peer, with torch's generator seeded alike,
                where the peer draws other random numbers than seqkern. Of the peer's results then
                only number, shapes and dtypes are checked, and that they are no NaN.
            min_rounds: how often each is timed at the least, however long that takes.
            info: facts about the case, recorded as they are beside the measured numbers.

        Raises:
            AssertionError: our results are wrong, so the times say nothing.
        """
        start = time.perf_counter()
        info["peer_wrong"] = check_pair(ours, peer, tolerance, reference, stand_in)
        info["checked_against"] = "stand-in" if stand_in else "peer"
        seconds = time.perf_counter() - start
        if stand_in or seconds < settings.SECONDS_PER_PAIR:
            # Both are warm now: estimate again, as it was short, or most of it the stand-in's.
            seconds = timed(ours) + timed(peer)
        rounds = round(settings.SECONDS_PER_PAIR / seconds)
        rounds = max(min_rounds, min(settings.MAX_ROUNDS, rounds))

        our_times: list[float] = []
        peer_times: list[float] = []

        def run_ours() -> None:
            our_times.append(timed(ours))

        def before_ours() -> None:
            if len(our_times) % 2 == 0:
                peer_times.append(timed(peer))
            synchronize()

        def after_ours() -> None:
            if len(our_times) % 2 == 0:
                peer_times.append(timed(peer))

        collecting = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            self._benchmark.pedantic(
                run_ours, setup=before_ours, teardown=after_ours, rounds=rounds
            )
        finally:
            if collecting:
                gc.enable()
        if self._benchmark.enabled:
            self._benchmark.extra_info.update(info, **_numbers(our_times, peer_times))


def check_pair(
    ours: Work,
    peer: Work,
    tolerance: float,
    reference: Work | None = None,
    stand_in: Work | None = None,
) -> bool:
    """Whether the peer is wrong, with the arguments of `Pair`.

    Raises:
        AssertionError: our results are wrong.
    """
    if stand_in is None:
        return _peer_is_wrong(ours, peer, tolerance, reference)
    mine = _seeded(ours)
    check_results(mine, _seeded(stand_in), tolerance)
    check_results(mine, peer(), math.inf)
    return False


def _seeded(contestant: Work) -> Sequence[torch.Tensor]:
    torch.manual_seed(0)
    return contestant()


def _peer_is_wrong(ours: Work, peer: Work, tolerance: float, reference: Work | None) -> bool:
    """False if both agree, True if only ours agree with the reference, else AssertionError."""
    mine = ours()
    try:
        check_results(mine, peer(), tolerance)
    except AssertionError:
        if reference is None:
            raise
        check_results(mine, reference(), tolerance)
        return True
    return False


def check_results(
    ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor], tolerance: float
) -> None:
    """Raise AssertionError unless every result agrees with the peer's, relative in norm."""
    assert len(ours) == len(theirs), f"{len(ours)} results of ours, {len(theirs)} of the peer"
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert mine.shape == other.shape and mine.dtype == other.dtype, (
            f"result {number} is {mine.dtype} {tuple(mine.shape)}, "
            f"the peer's {other.dtype} {tuple(other.shape)}"
        )
        mine, other = mine.detach().double(), other.detach().double()
        error = ((mine - other).norm() / other.norm().clamp_min(1e-30)).item()
        assert error <= tolerance, (  # false for NaN, too
            f"result {number} deviates from the peer's by {error:.1e}, allowed {tolerance:.0e}"
        )


def _numbers(our_times: list[float], peer_times: list[float]) -> dict[str, float]:
    """What the report needs of the times: seconds, and peer over ours."""
    return {
        "rounds": len(our_times),
        "ours_min": min(our_times),
        "ours_median": statistics.median(our_times),
        "peer_min": min(peer_times),
        "peer_median": statistics.median(peer_times),
        "ratio": min(peer_times) / min(our_times),
        "ratio_of_medians": statistics.median(peer_times) / statistics.median(our_times),
    }


@pytest.fixture
def pair(benchmark: BenchmarkFixture) -> Pair:
    """Measures one pair; see :class:`Pair`."""
    return Pair(benchmark)
