"""Recurrent layers and cells against PyTorch's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch

from seqkern import explain
from seqkern.comparison import TOLERANCE

from . import memory, settings
from .gemm import gemm_peak
from .pair import Pair
from .recurrent_cases import (
    CELL_FAMILIES,
    CELL_SHAPES,
    FAMILIES,
    SHAPES,
    SWEEPS,
    Case,
    Contestant,
    Family,
    Shape,
    contestants,
    grid,
    truth_of,
)


@pytest.mark.parametrize("case", grid(FAMILIES, SHAPES), ids=str)
def test_layer(pair: Pair, case: Case) -> None:
    measure(pair, case, table="Recurrent layers")


@pytest.mark.parametrize("case", grid(CELL_FAMILIES, CELL_SHAPES), ids=str)
def test_cell(pair: Pair, case: Case) -> None:
    measure(pair, case, table="Recurrent cells")


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    ("sweep", "shape"),
    [
        pytest.param(sweep, shape, id=f"{sweep}-{shape}")
        for sweep, shapes in SWEEPS.items()
        for shape in shapes
    ],
)
def test_sweep(pair: Pair, sweep: str, shape: Shape, kind: str, mode: str) -> None:
    if settings.QUICK and (shape.hidden > 256 or shape.time > 128):
        pytest.skip("too long for BENCH_QUICK")
    case = Case(Family(kind), shape, mode, settings.THREADS[-1])
    measure(pair, case, sweep=sweep, at=getattr(shape, sweep))


@pytest.mark.skipif(not memory.can_measure(), reason="needs Linux's /proc/self/clear_refs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_memory(peak_memory: list[dict[str, Any]], kind: str, dtype: torch.dtype) -> None:
    family = Family(kind, dtype)
    shapes = [shape for shape in SHAPES if not settings.QUICK or shape.hidden <= 128]
    ours, theirs = (memory.measure(side, family, shapes) for side in memory.SIDES)
    for shape, our_peak, their_peak in zip(shapes, ours, theirs, strict=True):
        peak_memory.append(
            {"row": family.name, "shape": str(shape), "ours": our_peak, "peer": their_peak}
        )


def measure(pair: Pair, case: Case, **info: Any) -> None:
    """Measure one case with its number of threads."""
    with thread_count(case.threads):
        ours, theirs = contestants(case)
        target = case.family.targets.get(case.mode)
        pair(
            ours,
            theirs,
            tolerance=TOLERANCE[case.family.dtype],
            truth=lambda: truth_of(case, theirs),
            row=case.family.name,
            mode=case.mode,
            shape=str(case.shape),
            batch=case.shape.batch,
            threads=case.threads,
            backend=backend_of(ours, case),
            flops=case.flops,
            peak_gflops=gemm_peak(case.family.dtype),
            target=asdict(target) if target else None,
            **info,
        )


def backend_of(contestant: Contestant, case: Case) -> str:
    """The backend on which seqkern runs the case."""
    with torch.set_grad_enabled(case.mode == "training"):
        return explain(contestant.module, contestant.input).backend


@contextlib.contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Run with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
