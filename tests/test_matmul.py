"""The matrix product of our own kernels, which layers use where torch's library is slow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.parity import assert_parity

# Rows, depth, columns: around tiles, panels and blocks of every level, and well beyond them.
SHAPES = [
    (1, 1, 1),
    (7, 13, 5),
    (6, 512, 64),
    (9, 513, 65),
    (97, 130, 33),
    (100, 700, 130),
    (193, 1029, 129),
    (40, 300, 1000),
]


def guarded(values: Tensor, transposed: bool) -> Tensor:
    """The same matrix inside a larger one of NaN, its rows or its columns contiguous."""
    if transposed:
        return guarded(values.t(), False).t()
    rows, columns = values.shape
    around = values.new_full((rows + 2, columns + 20), torch.nan)
    around[1:-1, 7 : 7 + columns] = values
    return around[1:-1, 7 : 7 + columns]


def matmul(a: Tensor, b: Tensor, add: Tensor | None = None) -> Tensor:
    return torch.ops.seqkern.matmul(a, b, add)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity(isa, shape, layout, dtype):
    rows, depth, columns = shape
    a, b, add = (torch.randn(*s, dtype=dtype) for s in (shape[:2], shape[1:], (rows, columns)))
    left, right = guarded(a, layout[0] == "t"), guarded(b, layout[1] == "t")
    reference = a.double() @ b.double()
    torch.set_num_threads(1)
    assert_parity(matmul(left, right), a @ b, reference)
    assert_parity(matmul(left, right, guarded(add, False)), a @ b + add, reference + add)


@pytest.mark.parametrize("layout", ["nn", "tn"])
@pytest.mark.parametrize(
    "shape", [(97, 600, 70), (700, 1100, 70), (20, 700, 900), (1000, 1000, 3)], ids=str
)
def test_threads_do_not_change_the_bits(isa, shape, layout):
    rows, depth, columns = shape
    a, b = guarded(torch.randn(rows, depth), layout == "tn"), torch.randn(depth, columns)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(matmul(a, b))
    assert_parity(results[0], a @ b, a.double() @ b.double())
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)], ids=str)
def test_empty(shape):
    a, b = torch.randn(shape[:2]), torch.randn(shape[1:])
    assert torch.equal(matmul(a, b), a @ b)
    add = torch.randn(shape[0], shape[2])
    assert torch.equal(matmul(a, b, add), add)


def test_neither_rows_nor_columns_contiguous():
    a, b = torch.randn(30, 40)[::2, ::2], torch.randn(40, 60)[::2, ::2]
    assert_parity(matmul(a, b), a @ b, a.double() @ b.double())


def test_nan_and_infinity_stay_in_their_rows_and_columns(isa):
    a, b = torch.randn(20, 30), torch.randn(30, 70)
    a[3, 5], b[7, 66] = torch.nan, torch.inf
    found, expected = matmul(a, b), a @ b
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())


@pytest.mark.parametrize(
    "a, b, add, message",
    [
        (torch.ones(2), torch.ones(2, 2), None, "a and b should have 2 dimensions"),
        (torch.ones(2, 3), torch.ones(2, 2), None, "b should have as many rows as a has columns"),
        (torch.ones(2, 2).int(), torch.ones(2, 2).int(), None, "float32 or float64"),
        (torch.ones(2, 2), torch.ones(2, 2).double(), None, "should have the dtype of a"),
        (torch.ones(2, 2), torch.ones(2, 2), torch.ones(1, 2), r"add should have the shape \(2, 2"),
    ],
)
def test_errors(a, b, add, message):
    with pytest.raises(RuntimeError, match=message):
        matmul(a, b, add)
