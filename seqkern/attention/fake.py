"""Shapes, dtypes and strides of the operators' results; see `seqkern.core.fakes`."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.attention import needs as needed
from seqkern.core.dtypes import accumulation_dtype
from seqkern.core.fakes import Fakes

_SMALL_SEQUENCE = 64  # kSmallSequence in csrc/attention/cpu/problem.h


def _laid_out_as(like: Tensor, batch: int, heads: int, length: int, width: int) -> Tensor:
    """An empty (batch, heads, length, width), with the heads inside the positions in memory where
    `like` has them so. The operators copy what has no contiguous rows; in such a copy they are
    not."""
    rows = like.shape[-1] <= 1 or like.stride(-1) == 1
    if rows and like.stride(1) < like.stride(2):
        return like.new_empty((batch, length, heads, width)).transpose(1, 2)
    return like.new_empty((batch, heads, length, width))


def _grad(like: Tensor, wanted: int, varlen: bool) -> Tensor:
    if not wanted:
        return like.new_empty(0)
    return like.new_empty(like.shape) if varlen else _laid_out_as(like, *like.shape)


def attention_forward(
    query: Tensor, value: Tensor, cu_seqlens_q: Tensor | None
) -> tuple[Tensor, Tensor]:
    """output (B, H, N, Dv) or (total_q, H, Dv), lse (B, H, N) or (H, total_q)."""
    width = value.shape[-1]
    if cu_seqlens_q is not None:
        total, heads, _ = query.shape
        output = query.new_empty((total, heads, width))
        return output, query.new_empty((heads, total), dtype=accumulation_dtype(query.dtype))
    batch, heads, queries, _ = query.shape
    output = _laid_out_as(query, batch, heads, queries, width)
    return output, query.new_empty((batch, heads, queries), dtype=accumulation_dtype(query.dtype))


def attention_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    cu_seqlens_q: Tensor | None,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and bias in their shapes and dtypes, and of the slopes, (B, H)
    or (S, H) in float32 or float64; (0,) for one whose bit `needs` lacks."""
    varlen = cu_seqlens_q is not None
    grad_bias = query.new_empty(0)
    if needs & needed.BIAS and bias is not None:
        grad_bias = bias.new_empty(bias.shape)
    grad_slopes = query.new_empty(0)
    if needs & needed.SLOPES:
        batch = query.shape[0] if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1
        grad_slopes = query.new_empty(
            (batch, query.shape[1]), dtype=accumulation_dtype(query.dtype)
        )
    return (
        _grad(query, needs & needed.QUERY, varlen),
        _grad(key, needs & needed.KEY, varlen),
        _grad(value, needs & needed.VALUE, varlen),
        grad_bias,
        grad_slopes,
    )


def attention_dense_forward(
    query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor | None]:
    """`attention_forward` of a dense call; lse is None where the backward needs none."""
    output, lse = attention_forward(query, value, None)
    small = query.shape[2] <= _SMALL_SEQUENCE and key.shape[2] <= _SMALL_SEQUENCE
    return output, None if small else lse


def attention_dense_backward(
    query: Tensor, key: Tensor, value: Tensor, needs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`attention_backward` of a dense call."""
    return attention_backward(query, key, value, None, None, needs)[:3]


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor | None,
    heads: int,
    batch_first: bool,
    weights: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """output like query with the features of one projection; lse (B, H, N) but for small calls;
    weights as asked for."""
    features = query.shape[-1] // (3 if key is None else 1)
    output = query.new_empty((*query.shape[:-1], features))

    def sizes(x: Tensor) -> tuple[int, int]:
        if x.dim() == 2:
            return 1, x.shape[0]
        return (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])

    batch, queries = sizes(query)
    keys = sizes(query if key is None else key)[1]
    lse = found = None
    if queries > _SMALL_SEQUENCE or keys > _SMALL_SEQUENCE:
        lse = query.new_empty((batch, heads, queries), dtype=accumulation_dtype(query.dtype))
    if weights:
        shape = (batch, queries, keys) if weights == 1 else (batch, heads, queries, keys)
        found = query.new_empty(shape)
    return output, lse, found


def multi_head_attention_backward(
    query: Tensor, key: Tensor | None, value: Tensor | None, bias: Tensor | None, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of the arguments, (0,) where there is none."""

    def like(x: Tensor | None) -> Tensor:
        return query.new_empty(0) if x is None else x.new_empty(x.shape)

    return like(query), like(key), like(value), like(bias if needs_bias else None)


def attention_dropout_mask(seed: Tensor, batch: int, heads: int, queries: int, keys: int) -> Tensor:
    """`philox.kept`: bool (batch, heads, queries, keys)."""
    return seed.new_empty((batch, heads, queries, keys), dtype=torch.bool)


FAKES = Fakes(
    attention_forward,
    attention_backward,
    attention_dense_forward,
    attention_dense_backward,
    multi_head_attention_forward,
    multi_head_attention_backward,
    attention_dropout_mask,
)
