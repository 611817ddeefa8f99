"""Tensors that span more than 2^31 elements, where an offset in 32 bits would wrap.

The rows lie far apart in memory that is reserved and not used, so that it costs nothing.
"""

from __future__ import annotations

import pytest
import torch

from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from seqkern.nn.functional import varlen_attention

FAR = 2**30 + 2**10 + 1
ROWS = 5


@pytest.fixture(scope="module")
def space() -> torch.Tensor:
    try:
        return torch.empty(ROWS * FAR, dtype=torch.bfloat16)
    except RuntimeError:
        pytest.skip(f"the system reserves no {ROWS * FAR * 2 / 1e9:.0f} GB of addresses")


def far_apart(space: torch.Tensor, shape: tuple[int, ...], dim: int, start: int) -> torch.Tensor:
    """Random numbers whose dimension `dim` (of ROWS) has a stride of FAR elements."""
    numbers = torch.randn(shape).bfloat16()
    strides = list(numbers.stride())
    strides[dim] = FAR
    view = space.as_strided(shape, strides, start)
    view.copy_(numbers)
    assert view.stride(dim) * (ROWS - 1) > 2**31
    return view


@pytest.mark.parametrize("dim", [0, 1, 2], ids=["batch", "heads", "length"])
def test_dense(space, dim):
    shape = [2, 2, 3, 64]
    shape[dim] = ROWS
    far = [far_apart(space, tuple(shape), dim, place * 2000) for place in range(4)]
    mask = far_apart(space, (1, 1, shape[2], shape[2]), 2, 9000) if dim == 2 else None
    results = []
    for copies in (False, True):
        q, k, v, grad = (t.contiguous() if copies else t for t in far)
        bias = mask.contiguous() if mask is not None and copies else mask
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        leaves += [] if bias is None else [bias.detach().requires_grad_()]
        output = sdpa(*leaves)
        results.append([output, *torch.autograd.grad(output, leaves, grad)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dim", [0, 1], ids=["rows", "heads"])
def test_varlen(space, dim):
    shape = [7, 3, 64]
    shape[dim] = ROWS
    far = [far_apart(space, tuple(shape), dim, place * 2000) for place in range(4)]
    starts = torch.tensor([0, 2, shape[0]])
    results = []
    for copies in (False, True):
        *qkv, grad = (t.contiguous() if copies else t for t in far)
        leaves = [t.detach().requires_grad_() for t in qkv]
        output = varlen_attention(*leaves, starts, starts)
        results.append([output, *torch.autograd.grad(output, leaves, grad)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_decoding(space):
    """One query against many keys goes another way through the kernels."""
    keys = far_apart(space, (1, ROWS, 300, 64), 1, 0)
    query = torch.randn(1, ROWS, 1, 64).bfloat16()
    assert torch.equal(sdpa(query, keys, keys), sdpa(query, keys.contiguous(), keys.contiguous()))
