"""Activation checkpointing with dropout: the same weights and implementation, or an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import seqkern
from seqkern.nn import functional as SF

BACKENDS = ("auto", "cpu", "torch", "reference")


def sdpa(x: Tensor) -> Tensor:
    return SF.scaled_dot_product_attention(x, x, x, dropout_p=0.5)


def varlen(x: Tensor) -> Tensor:
    packed = x.flatten(0, 1)
    offsets = torch.tensor([0, 5, 12])
    return SF.varlen_attention(packed, packed, packed, offsets, offsets, dropout_p=0.5)


def module(need_weights: bool):
    torch.manual_seed(0)
    attention = seqkern.nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    return lambda x: attention(*[x.flatten(2)] * 3, need_weights=need_weights)[0]


def encoder():
    torch.manual_seed(0)
    layer = seqkern.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    return lambda x: layer(x.flatten(2))


CALLS = {
    "sdpa": sdpa,
    "varlen": varlen,
    "module": module(False),
    "module with weights": module(True),
    "encoder": encoder(),
}


def gradient(call, first: str, second: str, **how: bool) -> Tensor:
    """Of a call on one backend, recomputed on another if it is a checkpoint."""
    torch.manual_seed(1)
    x = torch.randn(2, 6, 2, 4, requires_grad=True)
    with seqkern.use_backend(first):
        output = checkpoint(call, x, **how) if how else call(x)
    torch.rand(7)  # whatever else draws in between
    with seqkern.use_backend(second):
        output.square().sum().backward()
    return x.grad


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("second", BACKENDS)
@pytest.mark.parametrize("first", BACKENDS)
@pytest.mark.parametrize("call", CALLS)
def test_every_pair_of_backends(call, first, second, reentrant):
    if call == "varlen" and "torch" in (first, second):
        pytest.skip("PyTorch has no such operator on the CPU")
    same = first == second or {first, second} == {"auto", "cpu"}
    if not same:
        with pytest.raises(RuntimeError, match="torch.utils.checkpoint"):
            gradient(CALLS[call], first, second, use_reentrant=reentrant)
        return
    right = gradient(CALLS[call], first, first)
    mine = gradient(CALLS[call], first, second, use_reentrant=reentrant)
    torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_backend_chosen_inside_is_chosen_again(reentrant):
    def call(x: Tensor) -> Tensor:
        with seqkern.use_backend("torch"):
            first = sdpa(x)
        return sdpa(first)

    right = gradient(call, "auto", "auto")
    torch.testing.assert_close(gradient(call, "auto", "auto", use_reentrant=reentrant), right)


def test_a_checkpoint_in_a_checkpoint():
    def outer(x: Tensor) -> Tensor:
        return checkpoint(sdpa, sdpa(x), use_reentrant=True)

    right = gradient(lambda x: sdpa(sdpa(x)), "auto", "auto")
    torch.testing.assert_close(gradient(outer, "auto", "auto", use_reentrant=True), right)
    with pytest.raises(RuntimeError, match="first run was by 'cpu'"):
        gradient(outer, "auto", "torch", use_reentrant=True)
