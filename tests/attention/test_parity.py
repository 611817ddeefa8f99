"""Attention against PyTorch and the float64 reference: forward and every gradient."""

from __future__ import annotations

import pytest
import torch

from tests.attention.cases import (
    DTYPES,
    KERNEL_DTYPES,
    Case,
    check,
    double,
    gradients,
    inputs,
    names,
    run,
)
from tests.parity import assert_all_parity

# Around the tiles of queries, keys and features; decoding; one head for all threads.
SHAPES = [
    Case(1, 1, 1, 1, 1),
    Case(2, 3, 1, 16, 8),
    Case(1, 2, 15, 17, 8),
    Case(2, 1, 16, 16, 40),
    Case(1, 2, 17, 15, 64),
    Case(1, 2, 63, 65, 64),
    Case(1, 1, 64, 64, 64),
    Case(1, 2, 65, 63, 72),
    Case(1, 1, 127, 130, 80),
    Case(1, 1, 130, 127, 128),
    Case(1, 1, 33, 70, 256),
    Case(1, 2, 1, 300, 128),
    Case(1, 4, 3, 257, 64, Hkv=2),
    Case(1, 1, 200, 5, 64),
    Case(1, 2, 20, 33, 5, Dv=9),
    Case(1, 2, 9, 12, 64, Dv=1),
    Case(1, 1, 12, 19, 300, Dv=300),
]
OPTIONS = [
    Case(2, 3, 37, 37, 16, is_causal=True),
    Case(1, 2, 130, 130, 64, is_causal=True),
    Case(1, 2, 20, 70, 32, is_causal=True),
    Case(1, 2, 70, 20, 32, is_causal=True),
    Case(2, 4, 33, 40, 24, Hkv=2, is_causal=True),
    Case(2, 6, 10, 21, 24, Hkv=1),
    Case(2, 3, 18, 66, 32, mask="padding"),
    Case(3, 2, 70, 130, 32, mask="padding"),
    Case(2, 3, 18, 66, 32, mask="pairs"),
    Case(2, 3, 18, 66, 32, mask="keys"),
    Case(2, 3, 18, 66, 32, mask="full"),
    Case(2, 3, 18, 66, 32, mask="pairs", is_causal=True),
    Case(2, 3, 18, 66, 32, mask="+padding"),
    Case(2, 3, 18, 66, 32, mask="+pairs"),
    Case(2, 3, 18, 66, 32, mask="+keys"),
    Case(2, 4, 70, 66, 32, mask="+full", Hkv=2),
    Case(2, 3, 18, 66, 32, mask="rows"),
    Case(1, 2, 40, 40, 16, mask="+pairs", is_causal=True),
    Case(1, 2, 20, 33, 16, scale=-0.7),
    Case(1, 2, 20, 33, 16, scale=0.0),
    Case(2, 3, 18, 66, 32, layout="positions"),
    Case(2, 3, 18, 66, 32, layout="positions", mask="padding", is_causal=True),
    Case(2, 3, 18, 66, 32, layout="strided"),
    Case(2, 3, 34, 34, 32, layout="packed", is_causal=True),
]
# What PyTorch's attention lacks.
EXTRAS = [
    Case(2, 2, 18, 33, 16, lse=True),
    Case(2, 2, 70, 90, 16, causal="bottom_right", lse=True),
    Case(1, 2, 33, 33, 16, causal="top_left"),
    Case(1, 2, 70, 20, 16, is_causal=True, lse=True, window=(70, 70)),
    Case(1, 2, 130, 130, 32, window=(20, 0)),
    Case(1, 2, 130, 150, 32, window=(16, 40)),
    Case(1, 2, 70, 90, 32, window=(-1, 3)),
    Case(1, 2, 70, 90, 32, window=(5, -1), is_causal=True),
    Case(1, 2, 40, 66, 32, softcap=1.5),
    Case(1, 2, 40, 66, 32, softcap=1.5, is_causal=True, mask="+pairs"),
    Case(1, 3, 40, 66, 32, alibi=1),
    Case(2, 4, 66, 40, 32, alibi=2, is_causal=True, Hkv=2),
    Case(2, 3, 40, 66, 32, sinks=True),
    Case(2, 4, 40, 66, 32, sinks=True, lse=True, Hkv=2, causal="bottom_right"),
    Case(2, 2, 40, 66, 32, dropout=0.3),
    Case(2, 2, 70, 70, 32, dropout=0.1, is_causal=True, mask="padding", lse=True),
    Case(
        2, 4, 37, 51, 24, Hkv=2, mask="+padding", window=(30, 10), softcap=4.0, alibi=1,
        sinks=True, lse=True, dropout=0.2, layout="positions",
    ),
    Case(1, 4, 1, 300, 64, Hkv=2, window=(100, 0), softcap=9.0, alibi=1, sinks=True, lse=True),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SHAPES + OPTIONS + EXTRAS, ids=str)
def test_as_near_to_the_truth_as_pytorch(case, dtype):
    check(case, dtype)


# What each instruction-set level must get right by itself: tails in every direction.
ISA_CASES = [
    *SHAPES[:12],
    Case(1, 2, 1, 300, 72, Hkv=1, is_causal=False, mask="padding"),
    Case(1, 2, 67, 67, 40, is_causal=True, layout="positions"),
    Case(2, 2, 35, 66, 33, mask="+full"),
    EXTRAS[-2],
]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("case", ISA_CASES, ids=str)
def test_every_instruction_set_level(isa, case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "case",
    [
        Case(1, 1, 1, 1, 8),
        Case(1, 1, 200, 200, 64, is_causal=True),
        Case(1, 1, 1, 900, 64),
        Case(1, 4, 1, 900, 64, Hkv=1, mask="padding"),
        Case(2, 3, 70, 70, 32, layout="positions", mask="+padding"),
        EXTRAS[-2],
    ],
    ids=str,
)
def test_several_threads(case, dtype, threads):
    torch.set_num_threads(threads)
    check(case, dtype)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [SHAPES[3], *OPTIONS[3:9], OPTIONS[15]], ids=str)
def test_other_backends(case, dtype, backend):
    check(case, dtype, backend)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("case", [SHAPES[6], OPTIONS[0], OPTIONS[6], EXTRAS[-2]], ids=str)
def test_without_gradients(case, dtype):
    check(case, dtype, training=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradients_of_a_long_sequence(dtype):
    """Sums over many queries: in 16 bits PyTorch's dK and dV lose digits there."""
    check(Case(1, 1, 1100, 1100, 32, is_causal=True), dtype)


@pytest.mark.parametrize("bias_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_float32_mask_for_bfloat16(bias_dtype):
    case = Case(2, 2, 20, 40, 32)
    tensors = inputs(case, torch.bfloat16)
    tensors["attn_mask"] = torch.randn(2, 1, 20, 40).to(bias_dtype).requires_grad_()
    exact = double(tensors)
    reference = run(case, exact, "reference")
    weights = [torch.randn(reference[0].shape)]
    reference += gradients(reference, exact, weights)
    results = []
    for backend in ("cpu", "F"):
        found = run(case, tensors, backend)
        results.append(found + gradients(found, tensors, weights))
    assert_all_parity(*results, reference, names(case, tensors))
