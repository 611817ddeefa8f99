"""What the arguments of an attention call must be, in PyTorch's error class and wording.

The compiled operators check their arguments too. They are fast and know only their own names, so
`four_dimensional` and `varlen` are run after one of them refused a call, to say it in the words
that PyTorch uses and with the names and shapes of the arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqkern.core.dtypes import cpp_type_name

_POSITIONS = {"query": 1, "key": 2, "value": 3}
CAUSAL = (None, "top_left", "bottom_right")
_ENDLESS = 2**40  # more than any sequence is long: positions plus a window stay within 64 bits


def types(function: str, optional: Sequence[str] = ("attn_mask",), **tensors: Any) -> None:
    """Raises TypeError for what is no Tensor, in the words of PyTorch's argument parser."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) or (tensor is None and name in optional):
            continue
        position = f" (position {_POSITIONS[name]})" if name in _POSITIONS else ""
        raise TypeError(
            f"{function}(): argument '{name}'{position} must be Tensor, not {type(tensor).__name__}"
        )


def options(
    dropout_p: float,
    is_causal: bool,
    causal: str | None,
    window: tuple[int, int] | None,
    softcap: float | None,
) -> tuple[bool, tuple[int, int], float]:
    """Checks the options and returns them as the operators take them: is_causal, window, softcap.

    Raises:
        RuntimeError: dropout_p is no probability (PyTorch's words).
        ValueError: `causal`, `window` or `softcap` is not what it can be.
    """
    if not 0 <= dropout_p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if causal not in CAUSAL:
        raise ValueError(f"causal must be None, 'top_left' or 'bottom_right', got {causal!r}")
    if is_causal and causal == "bottom_right":
        raise ValueError(
            "is_causal=True aligns the causal mask at the top left and causal='bottom_right' at "
            "the bottom right: give one of them"
        )
    left, right = -1, -1
    if window is not None:
        left, right = _sides(window)
    if causal == "bottom_right":
        right = 0
    if softcap is None:
        softcap = 0.0
    elif not 0 <= softcap < math.inf:
        raise ValueError(f"softcap must be a positive number, or 0 or None for none; got {softcap}")
    return is_causal or causal == "top_left", (left, right), softcap


def _sides(window: Any) -> tuple[int, int]:
    """`window` as two integers, -1 where it has no end that matters."""
    try:
        left, right = (int(side) for side in window)
        whole = (left, right) == tuple(window) and min(left, right) >= -1
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ValueError(
            f"window must be (left, right), two integers of which -1 is unlimited; got {window}"
        )
    return left if left < _ENDLESS else -1, right if right < _ENDLESS else -1


def inputs(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None) -> None:
    """Raises RuntimeError for what PyTorch's attention checks first: dtypes, devices, ranks (at
    least 2), the mask's dtype, lengths and features."""
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: "
            f"{cpp_type_name(query.dtype)} key.dtype: {cpp_type_name(key.dtype)} and value.dtype: "
            f"{cpp_type_name(value.dtype)} instead."
        )
    if not query.device == key.device == value.device:
        raise RuntimeError(
            "Expected query, key, and value to have the same device type, but got query.device: "
            f"{query.device} key.device: {key.device} and value.device: {value.device} instead."
        )
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{query.dim()} key.dim: {key.dim()} and value.dim: {value.dim()} instead."
        )
    if attn_mask is not None:
        mask_dtype(query, attn_mask)
        device(query, "attn_mask", attn_mask)
    lengths(query, key, value)


def mask_dtype(query: Tensor, attn_mask: Tensor) -> None:
    """Raises RuntimeError unless attn_mask is boolean, of query's dtype, or float32."""
    if attn_mask.dtype not in (torch.bool, query.dtype, torch.float32):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"attn_mask.dtype: {cpp_type_name(attn_mask.dtype)} and  query.dtype: "
            f"{cpp_type_name(query.dtype)} instead."
        )


def device(query: Tensor, name: str, tensor: Tensor) -> None:
    """Raises RuntimeError unless a tensor is on query's device."""
    if tensor.device != query.device:
        raise RuntimeError(
            f"Expected query and {name} to have the same device type, but got query.device: "
            f"{query.device} and {name}.device: {tensor.device} instead."
        )


def lengths(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raises RuntimeError unless query and key have the same features, key and value the same
    length."""
    batch = math.prod(query.shape[:-2])
    if key.shape[-1] != query.shape[-1]:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{batch}, "
            f"{query.shape[-1]}] but got: [{batch}, {key.shape[-1]}]. query and key must have the "
            f"same last dimension, got {_shapes(query=query, key=key)}"
        )
    if value.shape[-2] != key.shape[-2]:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{batch}, "
            f"{key.shape[-2]}] but got: [{batch}, {value.shape[-2]}]. key and value must have the "
            f"same length (dimension -2), got {_shapes(key=key, value=value)}"
        )


def grouped_heads(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raises RuntimeError unless the heads (dimension -3) of key and value divide those of query,
    IndexError where a tensor has no such dimension."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() < 3:
            raise IndexError(
                "Dimension out of range (expected to be in range of [-2, 1], but got -3): with "
                f"enable_gqa {name} needs a dimension of heads, got {name}.shape "
                f"{list(tensor.shape)}"
            )
    heads = query.shape[-3]
    for tensor in (key, value):
        if (tensor.shape[-3] == 0 and heads) or (tensor.shape[-3] and heads % tensor.shape[-3]):
            raise RuntimeError(
                "Number of heads in key and value must divide the number of heads in query, got "
                f"{key.shape[-3]} and {value.shape[-3]} for {heads}: "
                f"{_shapes(query=query, key=key, value=value)}"
            )


def broadcast(a: Sequence[int], b: Sequence[int], **tensors: Tensor) -> list[int]:
    """The shape to which two shapes broadcast; dimensions are counted as in whole tensors. Raises
    RuntimeError where they do not."""
    rank = max(len(a), len(b))
    a = [1] * (rank - len(a)) + list(a)
    b = [1] * (rank - len(b)) + list(b)
    for dim in reversed(range(rank)):
        if a[dim] != b[dim] and a[dim] != 1 and b[dim] != 1:
            raise RuntimeError(
                f"The size of tensor a ({a[dim]}) must match the size of tensor b ({b[dim]}) at "
                f"non-singleton dimension {dim}: the leading dimensions of "
                f"{' and '.join(tensors)} must broadcast, got {_shapes(**tensors)}"
            )
    return [y if x == 1 else x for x, y in zip(a, b, strict=True)]


def mask_shape(name: str, mask: Tensor, weights: Sequence[int]) -> None:
    """Raises RuntimeError unless the mask broadcasts to `weights`, the shape (..., N, M) of the
    scores."""
    shape = list(mask.shape)
    for dim in range(1, min(len(shape), len(weights)) + 1):
        if shape[-dim] not in (1, weights[-dim]):
            raise RuntimeError(
                f"The size of tensor a ({weights[-dim]}) must match the size of tensor b "
                f"({shape[-dim]}) at non-singleton dimension {len(weights) - dim}: {name} must "
                f"broadcast to the attention weights, got {name}.shape {shape} for "
                f"{list(weights)}"
            )
    if len(shape) > len(weights):
        raise RuntimeError(
            f"output with shape {list(weights)} doesn't match the broadcast shape {shape}: {name} "
            "must broadcast to the attention weights and not the other way round"
        )


def per_head(
    query: Tensor,
    heads: int,
    lead: Sequence[int],
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
) -> None:
    """Raises unless slopes are (H,) or of shape `lead`, (..., H), and sinks (H,): RuntimeError, or
    TypeError for what is no Tensor."""
    for name, tensor in (("alibi_slopes", alibi_slopes), ("sinks", sinks)):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a Tensor or None, not {type(tensor).__name__}")
        device(query, name, tensor)
        if not tensor.is_floating_point():
            raise RuntimeError(f"{name} must be floating-point numbers, got {tensor.dtype}")
        allowed = [(heads,)] if name == "sinks" else [(heads,), tuple(lead)]
        if tuple(tensor.shape) not in allowed:
            raise RuntimeError(
                f"{name} must have shape {' or '.join(str(list(s)) for s in allowed)}, one number "
                f"for each head of query, got {list(tensor.shape)}"
            )


def four_dimensional(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
) -> None:
    """Raises RuntimeError with what is wrong with the arguments of `ops.attention`, whose shapes
    and dtypes it checks; silent if nothing is."""
    inputs(query, key, value, None)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise RuntimeError(
                f"{name} must have 4 dimensions, got {name}.shape {list(tensor.shape)}"
            )
    grouped_heads(query, key, value)
    if not query.shape[0] == key.shape[0] == value.shape[0] or key.shape[1] != value.shape[1]:
        raise RuntimeError(
            "query, key and value must have the same batch size, key and value the same heads; got "
            f"{_shapes(query=query, key=key, value=value)}"
        )
    weights = (*query.shape[:3], key.shape[2])
    for name, added in (("mask", mask), ("bias", bias)):
        if added is None:
            continue
        device(query, name, added)
        if added.dim() != 4:
            raise RuntimeError(f"{name} must have 4 dimensions, got {list(added.shape)}")
        mask_shape(name, added, weights)
    if mask is not None and mask.dtype != torch.bool:
        raise RuntimeError(f"mask must be boolean, got {mask.dtype}")
    if bias is not None:
        if bias.dtype == torch.bool:
            raise RuntimeError("bias must be floating-point numbers, got torch.bool")
        mask_dtype(query, bias)
    per_head(query, query.shape[1], query.shape[:2], alibi_slopes, sinks)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
) -> None:
    """Raises RuntimeError with what is wrong with the tensors of a `varlen_attention` call, whose
    shapes and dtypes it checks; silent if nothing is."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 3:
            raise RuntimeError(
                f"{name} must have 3 dimensions, (total, heads, features), got {name}.shape "
                f"{list(tensor.shape)}"
            )
    inputs(query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), None)
    grouped_heads(query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))
    if key.shape[1] != value.shape[1]:
        raise RuntimeError(
            f"key and value must have the same heads, got {_shapes(key=key, value=value)}"
        )
    if torch.compiler.is_compiling():  # values are not known there; the kernel checks them
        per_head(
            query, query.shape[1], (cu_seqlens_q.numel() - 1, query.shape[1]), alibi_slopes, sinks
        )
        return
    sequences = cumulative_lengths("cu_seqlens_q", cu_seqlens_q, "query", query.shape[0])
    others = cumulative_lengths("cu_seqlens_k", cu_seqlens_k, "key", key.shape[0])
    if sequences != others:
        raise RuntimeError(
            "cu_seqlens_q and cu_seqlens_k must be of the same length, the number of sequences + 1,"
            f" got {sequences + 1} and {others + 1}"
        )
    per_head(query, query.shape[1], (sequences, query.shape[1]), alibi_slopes, sinks)


def cumulative_lengths(name: str, cu_seqlens: Tensor, of: str, total: int) -> int:
    """The number of sequences, S for cu_seqlens (S + 1,). Raises RuntimeError unless it is int32 or
    int64 and rises from 0 to `total`."""
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise RuntimeError(f"{name} must have dtype int32 or int64, got {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] == 0:
        raise RuntimeError(
            f"{name} must have 1 dimension and the number of sequences + 1 entries, got shape "
            f"{list(cu_seqlens.shape)}"
        )
    starts = cu_seqlens.tolist()
    shown = starts if len(starts) <= 16 else f"[{', '.join(map(str, starts[:16]))}, ...]"
    if min(starts) < 0:
        raise RuntimeError(f"{name} must not be negative, got {shown}")
    if any(later < earlier for earlier, later in zip(starts, starts[1:], strict=False)):
        raise RuntimeError(f"{name} must not decrease, got {shown}")
    if starts[0] != 0 or starts[-1] != total:
        raise RuntimeError(
            f"{name} must start with 0 and end with {total}, the rows of {of}; got {shown}"
        )
    return len(starts) - 1


def longest(name: str, given: int | None, cu_seqlens: Tensor) -> None:
    """Raises RuntimeError if the maximal length that was given is less than that of a sequence."""
    if given is None or torch.compiler.is_compiling() or cu_seqlens.numel() < 2:
        return
    found = int(cu_seqlens.diff().max())
    if given < found:
        raise RuntimeError(f"{name} must be at least the longest sequence, {found}, got {given}")


def _shapes(**tensors: Tensor) -> str:
    return ", ".join(f"{name}.shape {list(tensor.shape)}" for name, tensor in tensors.items())
