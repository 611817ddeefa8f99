"""The Triton kernels against the float64 reference, forward and every gradient, all tensors between
guard bands of NaN. Interpreted, a tile has 32 queries and 32 keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import seqkern
from seqkern.nn.functional import varlen_attention
from tests.attention.cases import Case, check, double, gradients
from tests.guards import all_guarded
from tests.parity import assert_parity
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


SHAPES = [
    Case(1, 1, 1, 1, 1),
    Case(2, 2, 33, 31, 16),
    Case(1, 2, 32, 64, 20, Dv=7),
    Case(1, 1, 70, 65, 40, Dv=65),
    Case(1, 4, 5, 67, 9, Hkv=2),
    Case(1, 1, 17, 33, 256),
    Case(1, 1, 20, 33, 96, Dv=130),
]
OPTIONS = [
    Case(1, 2, 37, 37, 16, is_causal=True),
    Case(1, 1, 70, 20, 16, is_causal=True),
    Case(1, 1, 20, 70, 16, is_causal=True, lse=True),
    Case(1, 6, 10, 37, 24, Hkv=1, is_causal=True),
    Case(1, 2, 40, 70, 16, causal="bottom_right", lse=True),
    Case(1, 1, 70, 40, 16, window=(-1, 0), is_causal=True),
    Case(1, 1, 100, 100, 16, window=(20, 0)),
    Case(1, 1, 70, 110, 16, window=(8, 40)),
    Case(1, 1, 110, 70, 16, window=(5, -1), is_causal=True),
    Case(1, 1, 40, 70, 16, window=(-1, 3)),
    Case(2, 1, 18, 66, 16, mask="padding"),
    Case(1, 2, 35, 66, 16, mask="pairs", is_causal=True),
    Case(2, 2, 18, 40, 16, mask="keys"),
    Case(2, 2, 35, 40, 16, mask="full", Hkv=1),
    Case(1, 2, 35, 40, 16, mask="rows"),
    Case(2, 2, 18, 66, 16, mask="+padding"),
    Case(2, 2, 35, 40, 16, mask="+pairs"),
    Case(2, 2, 35, 40, 16, mask="+keys"),
    Case(2, 2, 35, 40, 16, mask="+full", Hkv=1),
    Case(1, 2, 40, 70, 16, mask="+pairs", window=(4, 2)),
    Case(1, 1, 20, 33, 16, scale=-0.7),
    Case(1, 1, 20, 33, 16, scale=0.0),
    Case(2, 2, 18, 40, 16, layout="positions", mask="padding", is_causal=True),
    Case(1, 2, 18, 40, 16, layout="strided"),
    Case(1, 2, 34, 34, 16, layout="packed", is_causal=True),
    Case(1, 2, 35, 40, 16, softcap=1.5),
    Case(1, 2, 35, 40, 16, softcap=30.0, is_causal=True, mask="+pairs"),
    Case(1, 2, 35, 40, 16, alibi=1),
    Case(2, 2, 40, 35, 16, alibi=2, is_causal=True, Hkv=1),
    Case(1, 2, 35, 40, 16, sinks=True),
    Case(1, 4, 35, 40, 16, sinks=True, lse=True, Hkv=2, causal="bottom_right"),
    Case(1, 2, 35, 70, 16, dropout=0.3),
    Case(2, 1, 40, 40, 16, dropout=0.1, is_causal=True, mask="padding", lse=True),
    # Decoding: 256 keys or more.
    Case(1, 2, 1, 300, 64),
    Case(1, 4, 3, 257, 20, Hkv=2, Dv=9, is_causal=True),
    Case(1, 4, 1, 300, 64, Hkv=2, window=(100, 0), softcap=9.0, alibi=1, sinks=True, lse=True),
    Case(2, 4, 2, 270, 16, Hkv=1, mask="padding", causal="bottom_right", lse=True),
    Case(2, 2, 2, 270, 16, Hkv=1, mask="+full", dropout=0.2),
]
EVERYTHING = Case(
    2, 4, 37, 40, 24, Hkv=2, mask="+padding", window=(30, 10), softcap=4.0, alibi=1,
    sinks=True, lse=True, dropout=0.2, layout="positions",
)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes(case, dtype):
    check(case, dtype, "triton", guards=True)


@pytest.mark.parametrize("case", [*OPTIONS, EVERYTHING], ids=str)
def test_options(case):
    check(case, torch.float32, "triton", guards=True)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("case", [OPTIONS[3], OPTIONS[18], OPTIONS[26]], ids=str)
def test_options_in_16_bits(case, dtype):
    check(case, dtype, "triton", guards=True)


@pytest.mark.parametrize("case", [OPTIONS[0], OPTIONS[-2], EVERYTHING], ids=str)
def test_for_the_sanitizer(case):
    """One call of every kernel: `make gpu-test` runs these under compute-sanitizer."""
    check(case, torch.float16, "triton", guards=True)


LENGTHS = [
    ([3, 40, 0, 17], [5, 33, 4, 0]),
    ([1, 2, 1], [300, 20, 270]),  # decoding
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True, "return_lse": True},
        {"causal": "bottom_right", "softcap": 3.0, "sinks": True, "alibi": 2, "dropout_p": 0.2},
        {"window": (7, 4), "alibi": 1, "return_lse": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", LENGTHS, ids=["prefill", "decode"])
def test_packed_sequences(lengths, options):
    of_queries, of_keys = ([0, *torch.tensor(n).cumsum(0).tolist()] for n in lengths)
    tensors = {
        "query": torch.randn(of_queries[-1], 4, 16),
        "key": torch.randn(of_keys[-1], 2, 16),
        "value": torch.randn(of_keys[-1], 2, 11),
    }
    options = dict(options)
    shape = {1: (4,), 2: (len(lengths[0]), 4)}.get(options.pop("alibi", 0))
    if shape is not None:
        tensors["alibi_slopes"] = torch.rand(shape)
    if options.pop("sinks", False):
        tensors["sinks"] = torch.randn(4)
    tensors = {name: t.requires_grad_() for name, t in tensors.items()}
    exact = double(tensors)
    results = {}
    for name, given, backend in (
        ("reference", exact, "reference"),
        ("ours", all_guarded(tensors), "triton"),
        ("theirs", tensors, "reference"),
    ):
        torch.manual_seed(3)
        starts = [torch.tensor(c, dtype=torch.int32, device="cpu") for c in (of_queries, of_keys)]
        places = {"cu_seqlens_q": starts[0], "cu_seqlens_k": starts[1]}
        with seqkern.use_backend(backend):
            found = varlen_attention(**given, **places, **options)
        found = list(found) if isinstance(found, tuple) else [found]
        torch.manual_seed(4)
        weights = [torch.randn(r.shape) for r in found]
        results[name] = found + gradients(found, given, weights)
    names = ["output", "lse"][: 1 + ("return_lse" in options)]
    names += [f"gradient of {name}" for name in tensors]
    for name, mine, other, right in zip(
        names, results["ours"], results["theirs"], results["reference"], strict=True
    ):
        seen = right.isfinite()
        assert torch.equal(mine.isfinite(), seen), name  # lse of queries without keys
        assert_parity(mine[seen], other[seen], right[seen], name)
