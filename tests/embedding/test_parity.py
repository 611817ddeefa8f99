"""Losses and gradients against plain PyTorch, for every kind of call."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seqkern
from seqkern.nn import functional as SF
from tests.embedding.cases import KERNEL_DTYPES, Case, check, data, gradients, loss

CASES = [
    Case(),
    Case(negatives=None),
    Case("cbow"),
    Case("cbow", negatives=None),
    Case("cbow", mean=False),
    Case(padding_idx=0),
    Case(padding_idx=39, negatives=None),
    Case("cbow", padding_idx=7),
    Case("cbow", padding_idx=7, negatives=None, mean=False),
    Case(features=1),
    Case(features=100),
    Case(features=300, negatives=17),
    Case("cbow", features=129, window=13),
    Case(negatives=0),
    Case(negatives=1, examples=1),
    Case(words=3, examples=200, negatives=20),
    Case(words=2, negatives=None),
    Case(words=1, negatives=2, examples=3),
    Case(examples=0),
    Case("cbow", window=0),
    Case("cbow", examples=0, negatives=None),
    Case(words=3000, examples=10),
    Case(scale=4.0),
    Case(scale=0.01),
]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(case, dtype, isa):
    check(case, dtype)


@pytest.mark.parametrize("dtype", [*KERNEL_DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference(case, dtype):
    with seqkern.use_backend("reference"):
        check(case, dtype)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.builds(
        Case,
        model=st.sampled_from(["skipgram", "cbow"]),
        words=st.integers(2, 70),
        features=st.integers(1, 280),
        examples=st.integers(0, 80),
        window=st.integers(0, 9),
        negatives=st.one_of(st.none(), st.integers(0, 40)),
        padding_idx=st.one_of(st.none(), st.integers(0, 1)),
        mean=st.booleans(),
    ),
    st.sampled_from(KERNEL_DTYPES),
    st.integers(0, 1000),
)
def test_random_shapes(case, dtype, seed):
    torch.manual_seed(seed)
    check(case, dtype)


def test_shapes_of_a_batch():
    """Any leading dimensions, windows of context words, negatives of a pair or of a center."""
    v, u = torch.randn(9, 5), torch.randn(9, 5)
    center, context = torch.randint(9, (2, 3)), torch.randint(9, (2, 3, 4))
    own, shared = torch.randint(9, (2, 3, 4, 2)), torch.randint(9, (2, 3, 2))
    each = [
        SF.skipgram_loss(v, u, center[i, j], context[i, j, c], own[i, j, c])
        for i in range(2)
        for j in range(3)
        for c in range(4)
    ]
    found = SF.skipgram_loss(v, u, center, context, own)
    torch.testing.assert_close(found, torch.stack(each).mean())
    torch.testing.assert_close(
        SF.skipgram_loss(v, u, center, context, shared),
        SF.skipgram_loss(v, u, center, context, shared[:, :, None].expand(2, 3, 4, 2)),
    )
    flat = [t.flatten(0, 1) for t in (center, context, shared)]
    torch.testing.assert_close(
        SF.cbow_loss(v, u, center, context, shared), SF.cbow_loss(v, u, *flat)
    )
    torch.testing.assert_close(
        SF.skipgram_loss(v, u, center.int(), context.int(), own.int()), found
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_tables_of_any_strides(sparse):
    case = Case()
    d = data(case)
    right = d.tables(torch.float32)
    expected = gradients(loss(case, d, right), right)
    wide = torch.full((40, 50), torch.nan)
    padded = [wide.clone()[:, :20].copy_(t).requires_grad_() for t in (d.in_weight, d.out_weight)]
    turned = [t.t().contiguous().t().requires_grad_() for t in (d.in_weight, d.out_weight)]
    for tables in (padded, turned):
        for mine, other in zip(
            gradients(loss(case, d, tables, sparse=sparse), tables), expected, strict=True
        ):
            torch.testing.assert_close(mine, other)


def test_sparse_gradients_are_coalesced():
    case = Case(padding_idx=3)
    d = data(case)
    tables = d.tables(torch.float32)
    grads = torch.autograd.grad(loss(case, d, tables, sparse=True), tables)
    kept = (d.center != 3) & (d.context != 3)
    touched = [d.center[kept], torch.cat([d.context[kept], d.negatives[kept].flatten()])]
    for grad, words in zip(grads, touched, strict=True):
        assert grad.layout == torch.sparse_coo and grad.is_coalesced()
        assert grad._indices()[0].tolist() == sorted(set(words.tolist()) - {3})
        torch.sparse_coo_tensor(grad._indices(), grad._values(), grad.shape, check_invariants=True)


@pytest.mark.parametrize("case", [Case(), Case("cbow", negatives=None)], ids=str)
def test_what_is_left_out_may_hold_nan(case, isa):
    case = Case(**{**case.__dict__, "padding_idx": 4})
    d = data(case)
    results = []
    for filling in (0.0, torch.nan):
        d.in_weight[4] = filling
        if case.negatives is not None:
            d.out_weight[4] = filling
        tables = d.tables(torch.float32)
        results.append(gradients(loss(case, d, tables), tables))
        with seqkern.use_backend("reference"):
            results.append(gradients(loss(case, d, tables), tables))
    for result in results:
        for mine, other in zip(result, results[0], strict=True):
            assert mine.isfinite().all()
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_propagate_as_in_pytorch(bad, isa):
    v, u = torch.randn(6, 20), torch.randn(6, 20)
    v[1, 3] = bad
    center, context = torch.tensor([1, 2]), torch.tensor([3, 4])
    negatives = torch.tensor([[0], [5]])
    results = []
    for backend in ("cpu", "reference"):
        with seqkern.use_backend(backend):
            tables = (v.clone().requires_grad_(), u.clone().requires_grad_())
            results.append(gradients(SF.skipgram_loss(*tables, center, context, negatives), tables))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True)


@pytest.mark.parametrize("score", [0.0, 1.0, 20.0, 60.0, 200.0, 5000.0])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_scores(score, sign, dtype, isa):
    """log sigma neither overflows nor loses its digits."""
    tables = (torch.tensor([[sign * score]], dtype=dtype), torch.ones(1, 1, dtype=dtype))
    zero = torch.zeros(1, dtype=torch.int64)
    found = SF.skipgram_loss(*tables, zero, zero, zero[None, :0])
    reference = -torch.nn.functional.logsigmoid(tables[0].double()[0, 0])
    torch.testing.assert_close(found.double(), reference, rtol=3e-7, atol=1e-15)
