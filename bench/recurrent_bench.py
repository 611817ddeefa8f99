"""Recurrent layers and cells against PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from . import memory, settings
from .cases import MODES
from .measuring import measure
from .pair import Pair
from .recurrent_cases import (
    CELL_FAMILIES,
    CELL_SHAPES,
    FAMILIES,
    SHAPES,
    SWEEPS,
    Case,
    Family,
    Shape,
    grid,
)


@pytest.mark.parametrize("case", grid(FAMILIES, SHAPES), ids=str)
def test_layer(pair: Pair, case: Case) -> None:
    measure(pair, case, table="Recurrent layers")


@pytest.mark.parametrize("case", grid(CELL_FAMILIES, CELL_SHAPES), ids=str)
def test_cell(pair: Pair, case: Case) -> None:
    measure(pair, case, table="Recurrent cells")


@pytest.mark.parametrize("mode", MODES)
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
    case = Case(mode, settings.THREADS[-1], Family(kind), shape)
    measure(pair, case, sweep=sweep, at=getattr(shape, sweep))


@pytest.mark.skipif(not memory.can_measure(), reason="needs Linux's /proc/self/clear_refs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_memory(peak_memory: list[dict[str, Any]], kind: str, dtype: torch.dtype) -> None:
    family = Family(kind, dtype)
    cases = [
        Case("training", settings.THREADS[-1], family, shape)
        for shape in SHAPES
        if not settings.QUICK or shape.hidden <= 128
    ]
    peak_memory += memory.records(cases)
