"""Measuring one case of whatever domain."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from seqkern.swapping.comparison import TOLERANCE

from .bandwidth import BEYOND_CACHES, read_bandwidth
from .cases import Case, thread_count
from .gemm import gemm_peak
from .pair import Pair


def measure(pair: Pair, case: Case, **info: Any) -> None:
    """Measure one case with its number of threads.

    Args:
        pair: the fixture.
        case: what is measured.
        info: what else is recorded: the ``table`` that shows it, or the ``sweep`` to which it
            belongs and the place ``at`` which it stands there.
    """
    with thread_count(case.threads):
        ours, theirs = case.contestants()
        pair(
            ours,
            theirs,
            tolerance=TOLERANCE[case.dtype],
            reference=lambda: case.reference(theirs),
            stand_in=case.stand_in(),
            domain=case.domain,
            row=case.row,
            mode=case.mode,
            shape=case.size,
            batch=case.batch,
            threads=case.threads,
            backend=ours.backend(),
            flops=case.flops,
            peak_gflops=gemm_peak(case.dtype),
            target=asdict(case.target) if case.target else None,
            **_reading(case),
            **info,
        )


def _reading(case: Case) -> dict[str, float]:
    """The bytes that a case has to read, and how fast this machine reads so many of them."""
    if case.bytes_read is None:
        return {}
    return {
        "bytes": case.bytes_read,
        "peak_gbs": read_bandwidth(case.bytes_read),
        "memory_gbs": read_bandwidth(BEYOND_CACHES),
    }
