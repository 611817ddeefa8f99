"""How exact the functions are that all cells are made of, seen through the cell of an LSTM."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recurrent.cases import KERNEL_DTYPES


def cell(gates: list[Tensor], c: Tensor) -> tuple[Tensor, Tensor]:
    """(h, c_new) of one unit with these pre-activations and states, each (n,): the product with the
    identity hands them on as they are."""
    w_ih, w_hh = torch.eye(4, dtype=c.dtype), torch.zeros(4, 1, dtype=c.dtype)
    h, c_new, _ = torch.ops.seqkern.lstm_cell_forward(
        torch.stack(gates, dim=1), None, c[:, None], w_ih, w_hh, None, None, False
    )
    return h[:, 0], c_new[:, 0]


def ulps(found: Tensor, reference: np.ndarray) -> float:
    """The largest distance from the reference, in units of the last place of the found type."""
    info = torch.finfo(found.dtype)
    exponent = np.floor(np.log2(np.maximum(np.abs(reference), info.tiny)))
    distance = np.abs(found.double().numpy().astype(np.longdouble) - reference)
    return float(np.max(distance / (info.eps * np.exp2(exponent))))


def of_pointwise(x: Tensor, forget: Tensor, output: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(h, c_new) with a candidate of 0, so that c_new = sigmoid(forget) c."""
    zeros = torch.zeros_like(x)
    return cell([zeros, forget, zeros, output], c)


# What gates and their derivatives s (1 - s) and 1 - t^2 see: the closer to 1, the more accurate.
@pytest.mark.parametrize("dtype", KERNEL_DTYPES[:2], ids=str)
@pytest.mark.parametrize("low, high, most", [(-80, -1, 3), (-1, 3, 2.5), (3, 20, 2), (40, 1e4, 0)])
def test_sigmoid_is_accurate(isa, dtype, low, high, most):
    x = torch.linspace(low, high, 20011, dtype=dtype)
    one = torch.ones_like(x)
    _, found = of_pointwise(x, x, x, one)
    reference = 1 / (1 + np.exp(-x.double().numpy().astype(np.longdouble)))
    if most == 0:
        assert torch.equal(found, one)
    else:
        assert ulps(found, reference) <= most


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
    _, c_new = cell([wide, wide, sign * wide, wide], c)
    assert torch.equal(c_new, (c.float() + sign).bfloat16())
