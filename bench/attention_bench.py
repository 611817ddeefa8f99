"""Attention and the modules around it against PyTorch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from . import attention_module_cases as modules
from . import memory, settings
from .attention_cases import (
    DECODE_FAMILIES,
    DECODE_SHAPES,
    ERROR_SHAPE,
    FAMILIES,
    MEMORY_DIMS,
    MEMORY_FAMILIES,
    MEMORY_SWEEP,
    SCORES_FAMILIES,
    SCORES_SHAPES,
    SHAPES,
    SWEEP,
    SWEEP_FAMILIES,
    Case,
    Family,
    Shape,
    grid,
)
from .cases import MODES, thread_count
from .errors import relative_errors
from .measuring import measure
from .pair import Pair

ALLOWED_MIB = 64
"""What a training step may take beyond inputs and gradients."""


def id_of(family: Family) -> str:
    """A family's name as `-k` can select it."""
    return family.name.replace(" ", "-")


@pytest.mark.parametrize("case", grid(FAMILIES, SHAPES), ids=str)
def test_attention(pair: Pair, case: Case) -> None:
    measure(pair, case, table="Attention")


@pytest.mark.parametrize("case", grid(SCORES_FAMILIES, SCORES_SHAPES), ids=str)
def test_scores(pair: Pair, case: Case) -> None:
    measure(pair, case, table="Attention with dropout or a learned bias")


@pytest.mark.parametrize("case", grid(DECODE_FAMILIES, DECODE_SHAPES), ids=str)
def test_decode(pair: Pair, case: Case) -> None:
    measure(pair, case, table="Decoding")


@pytest.mark.parametrize("case", modules.grid(), ids=str)
def test_module(pair: Pair, case: modules.Case) -> None:
    measure(pair, case, table="Attention modules")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", SWEEP_FAMILIES, ids=id_of)
@pytest.mark.parametrize("shape", SWEEP, ids=str)
def test_sweep(pair: Pair, shape: Shape, family: Family, mode: str) -> None:
    case = Case(mode, settings.THREADS[-1], family, shape)
    measure(pair, case, sweep="time", at=shape.queries)


@pytest.mark.skipif(not memory.can_measure(), reason="needs Linux's /proc/self/clear_refs")
@pytest.mark.parametrize("shape", MEMORY_SWEEP + MEMORY_DIMS, ids=str)
@pytest.mark.parametrize("family", MEMORY_FAMILIES, ids=id_of)
def test_memory(peak_memory: list[dict[str, Any]], family: Family, shape: Shape) -> None:
    if family.kind == "dropout" and shape.queries > 8192:
        pytest.skip("PyTorch's score matrices would take gigabytes")
    case = Case("training", settings.THREADS[-1], family, shape)
    small = Case("training", settings.THREADS[-1], family, Shape(1, 1, 16, shape.dim))
    (record,) = memory.records([case], small)
    # What is measured holds the gradients, but neither the inputs nor the output's gradient.
    limit = case.gradient_bytes + ALLOWED_MIB * 2**20
    record |= {"own": case.gradient_bytes, "limit": limit}
    record |= {"target": f"each ≤ gradients + {ALLOWED_MIB} MiB"}
    if shape in MEMORY_SWEEP:
        record |= {"sweep": "time", "at": shape.queries}
    peak_memory.append(record)


@pytest.mark.parametrize("kind", ["dense", "causal"])
def test_gradient_error(errors: list[dict[str, Any]], kind: str) -> None:
    case = Case("training", settings.THREADS[-1], Family(kind, torch.bfloat16), ERROR_SHAPE)
    names = ("output", "query", "key", "value")
    with thread_count(case.threads):
        reference = case.precise(torch.float64)()
        ours, theirs = (relative_errors(names, side(), reference) for side in case.contestants())
    errors.append(
        {"domain": case.domain, "row": case.row, "shape": case.size, "threads": case.threads}
        | {"ours": ours, "peer": theirs, "most": 0.5}
    )
