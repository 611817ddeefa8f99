"""The pointwise half of an LSTM step, the operator that shows the way for CUDA kernels."""

from __future__ import annotations

import math

import numpy as np
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


def ulps(found: Tensor, truth: np.ndarray) -> float:
    """The largest distance from the truth, in units of the last place of the found type."""
    info = torch.finfo(found.dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(truth), info.tiny)))
    distance = np.abs(found.double().numpy().astype(np.longdouble) - truth)
    return float(np.max(distance / (info.eps * np.exp2(exponent))))


def of_pointwise(x: Tensor, forget: Tensor, output: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(h, c_new) with a candidate of 0, so that c_new = sigmoid(forget) c, in one row."""
    gates = torch.cat([torch.zeros_like(x), forget, torch.zeros_like(x), output])
    h, c_new = torch.ops.seqkern.lstm_pointwise(gates[None], c[None])
    return h[0], c_new[0]


# What gates and their derivatives s (1 - s) and 1 - t^2 see: the closer to 1, the more accurate.
@pytest.mark.parametrize("dtype", KERNEL_DTYPES[:2], ids=str)
@pytest.mark.parametrize("low, high, most", [(-80, -1, 3), (-1, 3, 2.5), (3, 20, 2), (40, 1e4, 0)])
def test_sigmoid_is_accurate(isa, dtype, low, high, most):
    x = torch.linspace(low, high, 20011, dtype=dtype)
    one = torch.ones_like(x)
    _, found = of_pointwise(x, x, x, one)
    truth = 1 / (1 + np.exp(-x.double().numpy().astype(np.longdouble)))
    if most == 0:
        assert torch.equal(found, one)
    else:
        assert ulps(found, truth) <= most


@pytest.mark.parametrize("dtype", KERNEL_DTYPES[:2], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("low, high, most", [(1e-30, 0.55, 4), (0.55, 1.5, 3), (1.5, 1e3, 1)])
def test_tanh_is_accurate(isa, dtype, low, high, most, sign):
    x = sign * torch.logspace(math.log10(low), math.log10(high), 20011, dtype=dtype)
    wide = torch.full_like(x, 1e4)  # whose sigmoid is 1
    found, c = of_pointwise(x, wide, wide, x)
    assert torch.equal(c, x)
    assert ulps(found, np.tanh(x.double().numpy().astype(np.longdouble))) <= most
    assert float(found.abs().max()) <= 1


@pytest.mark.parametrize("sign", [1, -1])
def test_bfloat16_rounds_to_nearest_even(isa, sign):
    """c + 1 for every c in [1, 2): half of the sums lie midway between two numbers of bfloat16."""
    c = sign * (1 + torch.arange(128) / 128).bfloat16()
    wide = torch.full_like(c, 1e4)  # whose sigmoid and tanh are 1
    gates = torch.cat([wide, wide, sign * wide, wide])
    _, c_new = torch.ops.seqkern.lstm_pointwise(gates[None], c[None])
    assert torch.equal(c_new[0], (c.float() + sign).bfloat16())


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
