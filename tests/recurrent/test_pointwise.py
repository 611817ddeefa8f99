"""The pointwise half of an LSTM step, the operator that shows the way for CUDA kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from tests.parity import assert_all_parity
from tests.recurrent.cases import KERNEL_DTYPES


def textbook(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("batch, hidden", [(1, 1), (3, 7), (2, 16), (5, 33), (4, 64), (0, 4)])
def test_parity(isa, batch, hidden, dtype):
    gates, c = (3 * torch.randn(batch, n * hidden) for n in (4, 1))
    gates, c = gates.to(dtype), c.to(dtype)
    kept = gates.clone(), c.clone()
    found = torch.ops.seqkern.lstm_pointwise(gates, c)
    truth = textbook(gates.double(), c.double())
    assert_all_parity(found, textbook(gates, c), truth, ("h", "c_new"))
    assert torch.equal(gates, kept[0]) and torch.equal(c, kept[1])


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_operator(strided, dtype):
    gates, c = torch.randn(3, 28).to(dtype), torch.randn(3, 7).to(dtype)
    if strided:
        gates, c = gates.t().contiguous().t(), c.t().contiguous().t()
    opcheck(torch.ops.seqkern.lstm_pointwise.default, (gates, c))
    for mine, right in zip(
        torch.ops.seqkern.lstm_pointwise(gates, c),
        torch.ops.seqkern.lstm_pointwise(gates.contiguous(), c.contiguous()),
        strict=True,
    ):
        assert torch.equal(mine, right)


@pytest.mark.parametrize(
    "gates, c, words",
    [
        (torch.zeros(3, 27), torch.zeros(3, 7), "gates"),
        (torch.zeros(2, 28), torch.zeros(3, 7), "gates"),
        (torch.zeros(28), torch.zeros(7), "c should have the shape"),
        (torch.zeros(3, 28).double(), torch.zeros(3, 7), "same dtype"),
        (torch.zeros(3, 28).half(), torch.zeros(3, 7).half(), "gates"),
    ],
)
def test_bad_arguments(gates, c, words):
    with pytest.raises(RuntimeError, match=words):
        torch.ops.seqkern.lstm_pointwise(gates, c)
