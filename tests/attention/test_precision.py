"""Gradients where rounding is multiplied: few queries, and a softmax that is saturated.

dS = P * (dP - delta) is a small difference of large numbers where one key has nearly all the
weight, and a single query averages nothing. The rule is that of `tests.parity`, with its
tolerances.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from seqkern.nn.functional import varlen_attention
from tests.attention.cases import KERNEL_DTYPES, Case, check
from tests.parity import TINY, assert_all_parity
from tests.triton_device import DEVICE

NAMES = ("output", "query", "key", "value")
# Standard deviations of the scores; what each does to a softmax over 64 keys: even, peaked, and
# nearly all of the weight on one key.
SPREADS = (1, 3, 10)


@pytest.fixture
def by_triton() -> Iterator[None]:
    """Triton's kernels, on small cases: interpreted, each takes a second."""
    with seqkern.use_backend("triton"), torch.device(DEVICE):
        yield


def run(function, dtype: torch.dtype, tensors: list[Tensor], weight: Tensor, **options):
    inputs = [t.detach().to(dtype).requires_grad_() for t in tensors]
    output = function(*inputs, **options)
    return [output, *torch.autograd.grad(output, inputs, weight.to(dtype))]


def hold_to_the_rule(dtype: torch.dtype, tensors: list[Tensor], weight: Tensor, **options) -> None:
    theirs = F.scaled_dot_product_attention
    with seqkern.use_backend("reference"):
        reference = run(sdpa, torch.float64, tensors, weight, **options)
    found = run(sdpa, dtype, tensors, weight, **options)
    assert_all_parity(found, run(theirs, dtype, tensors, weight, **options), reference, NAMES)


def few_queries(queries: int, keys: int, spread: float, seeds: int) -> None:
    for seed in range(seeds):
        torch.manual_seed(seed)
        q, weight = torch.randn(2, 3, queries, 64) * spread, torch.randn(2, 3, queries, 64)
        k, v = (torch.randn(2, 3, keys, 64) for _ in range(2))
        hold_to_the_rule(torch.float32, [q, k, v], weight)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("keys", [8, 64, 300, 1500])
@pytest.mark.parametrize("queries", [1, 2, 8])
def test_few_queries_in_float32(isa, queries, keys, spread):
    few_queries(queries, keys, spread, seeds=4)


@pytest.mark.triton
@pytest.mark.parametrize("spread", SPREADS[:2])  # the log-sum-exp is one float32 number
@pytest.mark.parametrize("queries", [1, 8])
def test_few_queries_in_float32_by_triton(by_triton, queries, spread):
    few_queries(queries, 64, spread, seeds=1)


def three_dimensions(
    queries: int, keys: int, spread: float, dtype: torch.dtype, seeds: int
) -> None:
    """PyTorch takes three dimensions in float32, and is as exact as that."""
    for seed in range(seeds):
        torch.manual_seed(seed)
        q, weight = (torch.randn(4, queries, 8) * spread).to(dtype), torch.randn(4, queries, 8)
        k, v = (torch.randn(4, keys, 8).to(dtype) for _ in range(2))
        hold_to_the_rule(dtype, [q, k, v], weight.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("spread", (*SPREADS, 60))
@pytest.mark.parametrize(
    ("queries", "keys"), [(3, 6), (1, 64), (1, 700), (8, 300), (20, 60), (64, 64)]
)
def test_three_dimensions_in_16_bits(isa, queries, keys, spread, dtype):
    three_dimensions(queries, keys, spread, dtype, seeds=4)


@pytest.mark.triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("spread", [3, 10, 60])
@pytest.mark.parametrize(("queries", "keys"), [(3, 6), (1, 64), (8, 100), (40, 64)])
def test_three_dimensions_in_16_bits_by_triton(by_triton, queries, keys, spread, dtype):
    three_dimensions(queries, keys, spread, dtype, seeds=1)


# Of few queries, with all that a score, a weight and a log-sum-exp can go through.
FEW = [
    Case(2, 2, 1, 300, 16, scale=2.0),
    Case(2, 4, 8, 200, 33, Hkv=2, scale=1.5, mask="padding", layout="positions"),
    Case(2, 4, 3, 200, 16, Hkv=1, scale=1.5, mask="pairs", lse=True),
    Case(2, 2, 5, 200, 16, scale=1.5, mask="+pairs"),
    Case(2, 2, 5, 200, 16, Dv=9, scale=1.5, mask="+full", sinks=True, lse=True),
    Case(2, 2, 1, 300, 16, sinks=True, lse=True),
    Case(2, 2, 4, 300, 16, scale=1.5, softcap=3.0, sinks=True),
    Case(2, 2, 4, 300, 16, scale=1.5, alibi=2, window=(250, 0)),
    Case(2, 2, 7, 300, 16, scale=1.5, causal="bottom_right", dropout=0.3, lse=True),
    Case(2, 2, 7, 40, 16, scale=1.5, is_causal=True, dropout=0.3, sinks=True, lse=True),
    Case(2, 2, 7, 40, 16, softcap=3.0, mask="+pairs", alibi=1),
    Case(2, 2, 30, 50, 16, scale=1.5, mask="padding", dropout=0.3, sinks=True, lse=True),
    Case(2, 4, 30, 50, 16, Hkv=2, softcap=3.0, mask="+pairs", alibi=1, causal="bottom_right"),
]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_few_queries_with_every_option(isa, case, dtype):
    check(case, dtype)


@pytest.mark.triton
@pytest.mark.parametrize("case", FEW, ids=str)
def test_few_queries_with_every_option_by_triton(by_triton, case):
    check(case, torch.bfloat16, "triton", guards=True)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_few_queries_by_teams_of_threads(dtype, threads):
    """One head, whose keys the threads share; and heads that do not share out evenly."""
    torch.set_num_threads(threads)
    for case in (
        Case(1, 1, 1, 20000, 16, sinks=True, lse=True),
        Case(1, 4, 8, 3000, 64, Hkv=1, scale=0.5, causal="bottom_right"),
        Case(1, 1, 2, 20000, 16, softcap=3.0, dropout=0.3, window=(15000, 0)),
    ):
        check(case, dtype)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize(
    "case", [Case(1, 1, 20, 20000, 16), Case(1, 1, 20000, 20, 16)], ids=["keys", "queries"]
)
def test_sums_of_very_many(isa, case, dtype):
    """Outputs are sums over keys, and gradients of keys and values sums over queries."""
    check(case, dtype)


def packed_sequences(dtype: torch.dtype) -> None:
    """Some of the sequences are short and some are not: each is as exact as by itself."""
    queries, keys = [1, 8, 30, 0, 3, 2], [300, 200, 200, 4, 0, 5]
    starts = [torch.tensor([0, *n]).cumsum(0) for n in (queries, keys)]
    shapes = ((sum(queries), 4, 16), (sum(keys), 2, 16), (sum(keys), 2, 8))
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    weight = torch.randn(sum(queries), 4, 8).to(dtype)
    options = {"scale": 1.5, "sinks": torch.randn(4), "causal": "bottom_right"}

    def packed(q, k, v):
        return varlen_attention(q, k, v, *starts, **options)

    found = run(packed, dtype, tensors, weight)
    with seqkern.use_backend("reference"):
        theirs = run(packed, dtype, tensors, weight)
        reference = run(packed, torch.float64, tensors, weight)
    assert_all_parity(found, theirs, reference, NAMES)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_few_queries_of_packed_sequences(isa, dtype):
    packed_sequences(dtype)


@pytest.mark.triton
def test_few_queries_of_packed_sequences_by_triton(by_triton):
    packed_sequences(torch.bfloat16)


def lone_key(dtype: torch.dtype, queries: int) -> None:
    """The weight of a single key is 1 whatever its score: the gradients of q and k are 0, and not
    what rounding left."""
    for keys, options in ((1, {}), (50, {"window": (0, 0)})):
        q, v = (torch.randn(2, 3, n, 16).to(dtype) for n in (queries, keys))
        k, weight = torch.randn(2, 3, keys, 16).to(dtype), torch.randn(2, 3, queries, 16)
        _, grad_q, grad_k, _ = run(sdpa, dtype, [3 * q, k, v], weight, **options)
        for grad in (grad_q, grad_k):
            assert grad.abs().max() <= 1e-2 * TINY[dtype] * weight.abs().max()


@pytest.mark.parametrize("queries", [1, 8])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_a_lone_key_has_no_gradient_to_give(isa, dtype, queries):
    lone_key(dtype, queries)


@pytest.mark.triton
@pytest.mark.parametrize("queries", [1, 8])
def test_a_lone_key_has_no_gradient_to_give_by_triton(by_triton, queries):
    lone_key(torch.bfloat16, queries)


def test_huge_scores_of_few_queries(isa):
    """Beyond 2^14, where a sum of two numbers rounded on their own is of no use."""
    for factor in (1e5, 1e8, 1e30):
        q, weight = torch.randn(2, 2, 3, 16) * factor, torch.randn(2, 2, 3, 16)
        k, v = torch.randn(2, 2, 200, 16), torch.randn(2, 2, 200, 16)
        found = run(sdpa, torch.float32, [q, k, v], weight)
        with seqkern.use_backend("reference"):
            reference = run(sdpa, torch.float64, [q, k, v], weight)
        assert all(t.isfinite().all() for t in found)
        torch.testing.assert_close(found[0].double(), reference[0])
        torch.testing.assert_close(found[3].double(), reference[3])


@pytest.mark.parametrize("width", [1, 3, 13, 20, 64])
@pytest.mark.parametrize("queries", [1, 3, 5, 8])
@pytest.mark.parametrize("keys", [1, 6, 16])
def test_few_queries_and_keys(isa, queries, keys, width):
    """Scores are products of rows there, in whole vectors and what is left."""
    torch.manual_seed(0)
    q, weight = (torch.randn(2, 3, queries, width) for _ in range(2))
    k, v = (torch.randn(2, 3, keys, width) for _ in range(2))
    hold_to_the_rule(torch.float32, [q, k, v], weight)


@pytest.mark.parametrize(
    ("dtype", "size", "offset", "most"),
    [
        (torch.float32, 4, 1e4, 4.5e-4),  # PyTorch: 1.3e-3
        (torch.float32, 8, 1e4, 4.5e-4),  # PyTorch: 1.6e-3
        (torch.bfloat16, 4, 1e2, 1e-2),  # PyTorch: 0.27
        (torch.bfloat16, 40, 1e2, 1e-2),
    ],
    ids=str,
)
def test_values_far_from_zero(isa, dtype, size, offset, most):
    """dP is then nearly the same number for every key, which delta takes away again: what is left
    has to be right although neither of them is. Mean errors of the gradients of the queries."""
    errors = []
    for seed in range(6):
        torch.manual_seed(seed)
        q, k, weight = (torch.randn(1, 2, size, 16).to(dtype).double() for _ in range(3))
        v = (torch.randn(1, 2, size, 16) + offset).to(dtype).double()
        exact = run(F.scaled_dot_product_attention, torch.float64, [q, k, v], weight)[1]
        found = run(sdpa, dtype, [q, k, v], weight)[1]
        errors.append((found - exact).norm() / exact.norm())
    assert sum(errors) / len(errors) <= most
