"""Attention of nested tensors: batches of sequences of unequal length without padding.

As PyTorch users pass them: (B, H, j, D), the transposed view of a (B, j, H, D) made from a jagged
or strided `torch.nested` tensor; or (B, j, D), sequences without heads. They are taken apart into
what `run_varlen` takes, and the result is nested as query is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.attention import choice
from seqkern.attention.ops import default_scale, unsupported_by_torch
from seqkern.attention.packing import Packed, ragged_dim, sequences
from seqkern.attention.seeds import draw_seed
from seqkern.attention.torch_backend import call_torch
from seqkern.attention.varlen import run_varlen


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
    extras = unsupported_by_torch(alibi_slopes, sinks, softcap, window, return_lse)
    backend = choice.choose(query, (key, value, alibi_slopes, sinks), extras)
    if backend == "torch":
        return call_torch(
            query, key, value, None, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    q, k, v = _as_packed(query, "query"), _as_packed(key, "key"), _as_packed(value, "value")
    q_values, k_values, v_values = (_with_heads(packed) for packed in (q, k, v))
    if len(q.offsets) != len(k.offsets):
        raise RuntimeError(
            "query and key must hold the same number of sequences, got "
            f"{len(q.offsets) - 1} and {len(k.offsets) - 1}"
        )
    compiling = torch.compiler.is_compiling()
    if k.offsets is not v.offsets and not compiling and not torch.equal(k.offsets, v.offsets):
        raise RuntimeError("the sequences of key and value must have the same lengths")
    if not enable_gqa and not q_values.shape[1] == k_values.shape[1] == v_values.shape[1]:
        raise RuntimeError(
            "query, key and value must have the same number of heads unless enable_gqa is given, "
            f"got {q_values.shape[1]}, {k_values.shape[1]} and {v_values.shape[1]}"
        )
    output, lse = run_varlen(
        backend, q_values, k_values, v_values, q.offsets, k.offsets, alibi_slopes, sinks,
        draw_seed(query.device) if dropout_p > 0 else None,
        default_scale(q_values.shape[-1]) if scale is None else scale,
        softcap, dropout_p, is_causal, window[0], window[1],
    )  # fmt: skip
    nested = _nested_like(output, q)
    return (nested, _nested_like(lse.transpose(0, 1), q)) if return_lse else nested


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
    dims = [ragged_dim(t) for t in (query, key, value)]
    if not dims[0] == dims[1] == dims[2]:
        raise ValueError(
            "Expected query, key, and value to all be ragged on the same dimension, but got ragged "
            f"dims {dims[0]}, {dims[1]}, and {dims[2]}, respectively."
        )
    if attn_mask is not None:
        raise ValueError("Masks are not yet supported! The lengths of nested tensors replace them.")


def ragged_batch(*tensors: Tensor) -> bool:
    """Whether the tensors are (B, j, N, D), with a second batch dimension that is ragged and
    sequences that are not. PyTorch takes them so, as a dense call on all their values."""
    return all(t.is_nested and t.dim() == 4 and ragged_dim(t) == 1 for t in tensors)


def with_values(values: Tensor, like: Tensor) -> Tensor:
    """Other values in a jagged tensor that is ragged in dimension 1."""
    offsets, lengths = like.offsets(), like.lengths()  # type: ignore[attr-defined]
    return torch.nested.nested_tensor_from_jagged(values, offsets, lengths)


def _as_packed(nested: Tensor, name: str) -> Packed:
    """(B, H, j, D) or (B, j, D) as its sequences (total, H, D) or (total, D). Differentiable."""
    if ragged_dim(nested) != nested.dim() - 2:
        raise ValueError(
            f"Expected {name} to be ragged in dimension {nested.dim() - 2}, its lengths, but it is "
            f"in {ragged_dim(nested)}"
        )
    return sequences(nested.transpose(1, 2) if nested.dim() == 4 else nested)


def _with_heads(packed: Packed) -> Tensor:
    """(total, H, D); sequences without heads have one."""
    return packed.values if packed.values.dim() == 3 else packed.values[:, None]


def _nested_like(values: Tensor, like: Packed) -> Tensor:
    """A result (total, H, ...) nested as query was."""
    if like.source.dim() == 3:
        return like.nested(values[:, 0])
    if like.source.layout == torch.jagged:
        return like.nested(values).transpose(1, 2)
    parts = [part.transpose(0, 1) for part in values.split(like.offsets.diff().tolist())]
    return torch.nested.as_nested_tensor(parts, layout=torch.strided)
