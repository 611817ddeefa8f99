"""Attention of nested tensors: batches of sequences of unequal length without padding.

As PyTorch users pass them: (B, H, j, D), the transposed view of a (B, j, H, D) made from a jagged
or strided `torch.nested` tensor; or (B, j, D), sequences without heads. They are taken apart into
what `attention_varlen` takes, and the result is nested as query is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seqkern.attention import choice
from seqkern.attention.ops import without_equal
from seqkern.attention.seeds import draw_seed
from seqkern.attention.varlen import attention_varlen


class _Sequences(NamedTuple):
    """A nested tensor taken apart: values (total, H, D), offsets (B + 1,) on the CPU, and a tensor
    of whose layout the result has to be."""

    values: Tensor
    offsets: Tensor
    source: Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    window: tuple[int, int],
    softcap: float,
    alibi_slopes: Tensor | None,
    return_lse: bool,
    sinks: Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`dense.scaled_dot_product_attention` of nested tensors, with options already checked.

    Raises:
        ValueError: in PyTorch's words, where not all are nested, are of unequal dtype or device, or
            are ragged in unequal dimensions, and for attn_mask, which the lengths replace.
    """
    _check(query, key, value, attn_mask)
    extras = without_equal(alibi_slopes, sinks, softcap, window, return_lse)
    if choice.choose(query, (key, value, alibi_slopes, sinks), extras) == "torch":
        return F.scaled_dot_product_attention(
            query, key, value, None, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    options: dict[str, Any] = {
        "alibi_slopes": alibi_slopes,
        "sinks": sinks,
        "scale": scale,
        "softcap": softcap,
        "dropout_p": dropout_p,
        "is_causal": is_causal,
        "window": window,
        "seed": draw_seed() if dropout_p > 0 else None,
    }
    q, k, v = _apart(query, "query"), _apart(key, "key"), _apart(value, "value")
    if len(q.offsets) != len(k.offsets):
        raise RuntimeError(
            "query and key must hold the same number of sequences, got "
            f"{len(q.offsets) - 1} and {len(k.offsets) - 1}"
        )
    compiling = torch.compiler.is_compiling()
    if k.offsets is not v.offsets and not compiling and not torch.equal(k.offsets, v.offsets):
        raise RuntimeError("the sequences of key and value must have the same lengths")
    if not enable_gqa and not q.values.shape[1] == k.values.shape[1] == v.values.shape[1]:
        raise RuntimeError(
            "query, key and value must have the same number of heads unless enable_gqa is given, "
            f"got {q.values.shape[1]}, {k.values.shape[1]} and {v.values.shape[1]}"
        )
    output, lse = attention_varlen(q.values, k.values, v.values, q.offsets, k.offsets, **options)
    nested = _together(output, q)
    return (nested, _together(lse.transpose(0, 1), q)) if return_lse else nested


def _check(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None) -> None:
    if not (query.is_nested and key.is_nested and value.is_nested):
        raise ValueError(
            f"Expected query, key, and value to be nested tensors, but got query.is_nested: "
            f"{query.is_nested}, key.is_nested: {key.is_nested}, and value.is_nested: "
            f"{value.is_nested} instead."
        )
    for what, name in (("dtype", "dtype"), ("device", "device type")):
        q, k, v = (getattr(t, what) for t in (query, key, value))
        if not q == k == v:
            raise ValueError(
                f"Expected query, key, and value to have the same {name}, but got query.{what}: "
                f"{q}, key.{what}: {k}, and value.{what}: {v} instead."
            )
    if not {query.dim(), key.dim(), value.dim()} <= {3, 4} or query.dim() != key.dim():
        raise ValueError(
            "Expected query, key, and value to all be 3 or all be 4 dimensional, but got "
            f"query.dim: {query.dim()}, key.dim: {key.dim()} and value.dim: {value.dim()} instead."
        )
    dims = [_ragged_dim(t) for t in (query, key, value)]
    if not dims[0] == dims[1] == dims[2]:
        raise ValueError(
            "Expected query, key, and value to all be ragged on the same dimension, but got ragged "
            f"dims {dims[0]}, {dims[1]}, and {dims[2]}, respectively."
        )
    if attn_mask is not None:
        raise ValueError("Masks are not yet supported! The lengths of nested tensors replace them.")


def _ragged_dim(nested: Tensor) -> int:
    """Which dimension has its own size in each sequence."""
    if nested.layout != torch.jagged:
        return nested.dim() - 2
    return nested._ragged_idx  # type: ignore[attr-defined]


def ragged_batch(*tensors: Tensor) -> bool:
    """Whether the tensors are (B, j, N, D), with a second batch dimension that is ragged and
    sequences that are not. PyTorch takes them so, as a dense call on all their values."""
    return all(t.is_nested and t.dim() == 4 and _ragged_dim(t) == 1 for t in tensors)


def with_values(values: Tensor, like: Tensor) -> Tensor:
    """Other values in a jagged tensor that is ragged in dimension 1."""
    offsets, lengths = like.offsets(), like.lengths()  # type: ignore[attr-defined]
    return torch.nested.nested_tensor_from_jagged(values, offsets, lengths)


def _apart(nested: Tensor, name: str) -> _Sequences:
    """(B, H, j, D) or (B, j, D) as its sequences one after another. Differentiable."""
    if nested.layout != torch.jagged:
        parts = nested.unbind()
        if nested.dim() == 4:
            parts = tuple(part.transpose(0, 1) for part in parts)
        lengths = [0, *(part.shape[0] for part in parts)]
        offsets = torch.tensor(lengths, device="cpu").cumsum(0)
        values = torch.cat(parts)
        return _Sequences(values if nested.dim() == 4 else values[:, None], offsets, nested)
    ragged = _ragged_dim(nested)
    if ragged != nested.dim() - 2:
        raise ValueError(
            f"Expected {name} to be ragged in dimension {nested.dim() - 2}, its lengths, but it is "
            f"in {ragged}"
        )
    upright = nested.transpose(1, 2) if nested.dim() == 4 else nested  # ragged in dimension 1
    if upright.lengths() is not None:  # type: ignore[attr-defined]
        # Sequences with holes between them: move them together.
        upright = torch.nested.as_nested_tensor(list(upright.unbind()), layout=torch.jagged)
    values = upright.values()
    offsets = upright.offsets().cpu()  # type: ignore[attr-defined]
    return _Sequences(values if nested.dim() == 4 else values[:, None], offsets, upright)


def _together(values: Tensor, like: _Sequences) -> Tensor:
    """A result (total, H, ...) nested as query was."""
    if like.source.layout != torch.jagged:
        parts = list(values.split(like.offsets.diff().tolist()))
        parts = [part.transpose(0, 1) if like.source.dim() == 4 else part[:, 0] for part in parts]
        return torch.nested.as_nested_tensor(parts, layout=torch.strided)
    # The very same offsets: by them PyTorch knows that two ragged sizes are equal.
    offsets = like.source.offsets()  # type: ignore[attr-defined]
    if like.source.dim() == 3:
        return torch.nested.nested_tensor_from_jagged(values[:, 0], offsets)
    return torch.nested.nested_tensor_from_jagged(values, offsets).transpose(1, 2)
