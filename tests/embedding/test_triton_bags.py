"""Subword bags and SparseAdam by Triton's kernels, against PyTorch's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.library import opcheck

import seqkern
from seqkern.embedding import ops
from seqkern.optim import SparseAdam
from tests.embedding.test_bags import bags, check_bags
from tests.embedding.test_sparse_adam import gradient, run
from tests.parity import assert_parity
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton
OPS = torch.ops.seqkern
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIZES = [(1, True), (33, False), (130, True)]


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(DEVICE), seqkern.use_backend("triton"):
        yield


@pytest.fixture(params=[False, True], ids=["atomic", "sorted"])
def sums(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("features, mean", SIZES)
@pytest.mark.usefixtures("guarded_launches")
def test_float32(features, mean, sums):
    check_bags(features, torch.float32, mean, count=9)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.usefixtures("guarded_launches")
def test_other_dtypes(dtype):
    check_bags(20, dtype, True, count=8)


def test_expanded_gradients_and_no_words():
    made = bags(5, 9, 4)
    weight = torch.randn(9, 6, requires_grad=True)
    (expanded,) = torch.autograd.grad(ops.bag_sum(weight, *made, torch.arange(5)).sum(), weight)
    found = ops.bag_sum(weight, *made, torch.arange(5))
    (full,) = torch.autograd.grad(found, weight, torch.ones(5, 6))
    torch.testing.assert_close(expanded, full)
    for sparse in (False, True):
        empty = ops.bag_sum(weight, *made, torch.zeros(0, dtype=torch.int64), sparse=sparse)
        (grad,) = torch.autograd.grad(empty.sum(), weight)
        assert not grad.to_dense().any()


def test_the_operators_contract():
    weight = torch.randn(7, 3)
    offsets, rows = torch.tensor([0, 2, 2, 6]), torch.tensor([0, 5, 6, 1, 6, 6]).int()
    words = torch.tensor([2, 0, 2, 1])
    tests = ("test_schema", "test_faketensor")
    for mean in (True, False):
        opcheck(
            OPS.embedding_bags_triton.default,
            (weight, offsets, rows, words, mean),
            test_utils=tests,
        )
    back = (torch.randn(4, 3), weight, offsets, rows, words)
    opcheck(OPS.embedding_bags_backward_triton.default, back, test_utils=tests)
    opcheck(OPS.embedding_bags_backward_sparse_triton.default, back, test_utils=tests)
    tables = (weight, torch.zeros_like(weight), torch.zeros_like(weight))
    touched, values = torch.tensor([1, 4]), torch.randn(2, 3)
    arguments = (*tables, touched, values, 0.9, 0.99, 1e-8, 0.1)
    opcheck(OPS.sparse_adam_triton_.default, arguments, test_utils=tests)


@pytest.mark.skipif(DEVICE != "cpu", reason="there it is a device-side assertion")
def test_errors():
    right = bags(5, 9, 4)
    weight = torch.randn(9, 6)
    with pytest.raises(IndexError, match=r"words\[1\] is 5, it should be in \[0, 5\)"):
        ops.bag_sum(weight, *right, torch.tensor([0, 5]))
    every = torch.arange(5)
    for offsets, rows, says in (
        (right.offsets + 1, right.rows, "bags.offsets must start with 0"),
        (right.offsets, right.rows + 9, r"bags.rows must be in \[0, 9\)"),
        (right.offsets, right.rows - 9, r"bags.rows must be in \[0, 9\)"),
        (right.offsets.int(), right.rows, "bags.offsets must be a Tensor of torch.int64"),
    ):
        with pytest.raises(RuntimeError, match=says):
            ops.bag_sum(weight, offsets, rows, every)
    with pytest.raises(RuntimeError, match=r"grad should have the shape \[5, 6\]"):
        OPS.embedding_bags_backward_triton(torch.randn(4, 6), weight, *right, every)


ADAMS = [
    ({"lr": 0.1, "betas": (0.5, 0.6), "eps": 1e-3}, True),
    ({"maximize": True}, False),
]


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("options, repeated", ADAMS)
@pytest.mark.usefixtures("guarded_launches")
def test_sparse_adam(dtype, options, repeated):
    shape = (20, 37)
    start = [torch.randn(shape).to(dtype)]
    grads = [[gradient(shape, dtype, 6, repeated)] for _ in range(3)]
    (ours,), optimizer = run(SparseAdam, start, grads, **options)
    assert seqkern.explain(optimizer).backend == "triton"
    (theirs,), _ = run(torch.optim.SparseAdam, start, grads, **options)
    (exact,), _ = run(torch.optim.SparseAdam, [start[0].double()], grads, **options)
    assert_parity(ours, theirs, exact, "weight")
    untouched = (exact == start[0].double()).all(1)
    assert untouched.any() and torch.equal(ours[untouched], start[0][untouched])


def test_sparse_adam_refuses_what_does_not_fit():
    optimizer = SparseAdam([torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64))])
    assert "no kernel for torch.float64" in seqkern.explain(optimizer).reasons["triton"]
    table, rows = torch.randn(4, 3), torch.tensor([1, 2])
    rest = (0.9, 0.99, 1e-8, 0.1)
    with pytest.raises(RuntimeError, match=r"exp_avg should have the shape \[4, 3\]"):
        OPS.sparse_adam_triton_(table, table[:3], table.clone(), rows, table[:2], *rest)
    with pytest.raises(RuntimeError, match=r"values should have the shape \[2, 3\]"):
        OPS.sparse_adam_triton_(table, table.clone(), table.clone(), rows, table[:3], *rest)


def test_sanitizer():
    check_bags(20, torch.float32, True, count=6)
    check_bags(20, torch.bfloat16, False, count=6)
    run(SparseAdam, [torch.randn(9, 20)], [[gradient((9, 20), torch.float32, 4, True)]])
