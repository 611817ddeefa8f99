"""Triton's attention loads no tile that nobody attends to, and loads by descriptors what it can.
Interpreted, a tile has 32 queries and 32 keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch

import seqkern
from seqkern.core.triton import support
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from tests.attention.cases import Case, check
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton
interpreted = pytest.mark.skipif(not support.INTERPRETED, reason="counts interpreted work")


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(DEVICE), seqkern.use_backend("triton"):
        yield


@contextmanager
def products() -> Iterator[list[None]]:
    """One entry for every product of tiles within the block."""
    from triton.runtime.interpreter import InterpreterBuilder

    found: list[None] = []
    original = InterpreterBuilder.create_dot

    def counted(*arguments, **options):
        found.append(None)
        return original(*arguments, **options)

    with mock.patch.object(InterpreterBuilder, "create_dot", counted):
        yield found


def padded(keys: int, *allowed: int) -> torch.Tensor:
    """(1, 1, 1, keys), True for one key in each of these tiles."""
    mask = torch.zeros(1, 1, 1, keys, dtype=torch.bool)
    mask[..., [32 * tile + 5 for tile in allowed]] = True
    return mask


@interpreted
@pytest.mark.parametrize("added", [False, True])
def test_tiles_of_padding_are_skipped_wherever_they_stand(added):
    q, k, v = (torch.randn(1, 1, n, 16).requires_grad_() for n in (40, 150, 150))
    mask = padded(150, 0, 3)
    given = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) if added else mask
    with products() as forward:
        output = sdpa(q, k, v, given)
    assert len(forward) == 2 * 2 * 2  # tiles of queries, of keys, products
    weight = torch.randn(output.shape)
    with products() as backward:
        found = torch.autograd.grad(output, (q, k, v), weight)
    assert len(backward) == 2 * 2 * (3 + 4)
    with seqkern.use_backend("reference"):
        expected = sdpa(q, k, v, given)
        gradients = torch.autograd.grad(expected, (q, k, v), weight)
    for mine, right in zip((output, *found), (expected, *gradients), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-5, atol=1e-5)


@interpreted
def test_padding_causality_and_a_window_together():
    q, k, v = (torch.randn(1, 1, 96, 16) for _ in range(3))
    with products() as found:
        output = sdpa(q, k, v, padded(96, 0, 2), is_causal=True, window=(20, 0))
    assert len(found) == 2 * 3  # tiles (0, 0), (1, 0) and (2, 2): (2, 0) is beyond the window
    with seqkern.use_backend("reference"):
        expected = sdpa(q, k, v, padded(96, 0, 2), is_causal=True, window=(20, 0))
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@interpreted
def test_decoding_skips_padding_too():
    q, k, v = torch.randn(1, 4, 1, 16), torch.randn(1, 2, 320, 16), torch.randn(1, 2, 320, 16)
    mask = padded(320, 1, 4, 9)
    with products() as found:
        output = sdpa(q, k, v, mask, enable_gqa=True)
    assert len(found) == 2 * 3 * 2  # heads of keys, tiles, products
    with seqkern.use_backend("reference"):
        expected = sdpa(q, k, v, mask, enable_gqa=True)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@interpreted
def test_a_shared_bias_takes_no_tile_of_padding_for_its_gradient():
    q, k, v = (torch.randn(2, 1, n, 16) for n in (32, 96, 96))
    bias = torch.zeros(1, 1, 1, 96).masked_fill(~padded(96, 1), -torch.inf).requires_grad_()
    output = sdpa(q, k, v, bias)
    with products() as found:
        (gradient,) = torch.autograd.grad(output.sum(), bias)
    assert len(found) == 2 * 2  # sequences, products
    assert gradient.isfinite().all()


@pytest.mark.parametrize("queries", [40, 2])
def test_nobody_looks_at_anything(queries):
    leaves = [torch.randn(1, 2, n, 16).requires_grad_() for n in (queries, 300, 300)]
    output, lse = sdpa(*leaves, padded(300), return_lse=True)
    assert (output == 0).all() and (lse == -torch.inf).all()
    assert all((g == 0).all() for g in torch.autograd.grad(output.sum(), leaves))


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 2, 40, 100, 16, mask="keys"),  # a list for each head
        Case(2, 4, 2, 300, 16, mask="keys", Hkv=2),  # decoding: no list for all heads of a tile
        Case(2, 2, 40, 100, 16, mask="padding", is_causal=True, dropout=0.2, lse=True),
    ],
    ids=str,
)
def test_masks_for_all_queries(case):
    check(case, torch.float32, "triton", guards=True)


@pytest.mark.parametrize("shape", [(64, 64), (40, 24), (128, 8), (8, 256)], ids=str)
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (20, 5)}], ids=str)
def test_descriptors_load_what_pointers_load(shape, options):
    """To the bit."""
    from seqkern.attention.triton import descriptors, forward
    from seqkern.attention.triton.tuning import tiles_for

    width, value_width = shape
    q, k = (torch.randn(2, n, 2, width).bfloat16().transpose(1, 2) for n in (33, 70))
    v = torch.randn(1, 2, 70, value_width).bfloat16().repeat(2, 1, 1, 1)
    kernels = []

    def watched(kernel, *arguments):
        kernels.append(kernel)
        return tiles_for("forward", *arguments)

    with mock.patch.object(forward, "tiles_for", watched):
        found = sdpa(q, k, v, return_lse=True, **options)
        with mock.patch.object(descriptors, "suit", lambda *_: False):
            expected = sdpa(q, k, v, return_lse=True, **options)
    described = support.capability(q.device) >= (9, 0) or support.INTERPRETED
    assert kernels == ["forward by descriptors" if described else "forward", "forward"]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_a_descriptor_can_describe():
    from seqkern.attention.triton.descriptors import describable

    x = torch.zeros(2, 3, 10, 16, dtype=torch.bfloat16)
    assert describable(x) and describable(x.transpose(1, 2)) and describable(x[:, :, :, :8])
    assert describable(x[:1, :1, :1, :5])  # strides of one row count nothing
    assert not describable(x[..., 1:])  # address
    assert not describable(torch.zeros(2, 3, 10, 12, dtype=torch.bfloat16))  # strides
    assert not describable(x[:1].expand(2, -1, -1, -1)) and not describable(x[:0])
