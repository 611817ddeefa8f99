"""Scaled dot-product attention with PyTorch's signature, and what PyTorch lacks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.attention import (
    autograd,
    causal_bias,
    checks,
    choice,
    dense_autograd,
    nested,
    overrides,
)
from seqkern.attention.folding import folded
from seqkern.attention.ops import (
    cast_for_autocast,
    default_scale,
    in_score_dtype,
    run_attention,
    unsupported_by_torch,
)
from seqkern.attention.seeds import draw_seed
from seqkern.attention.torch_backend import call_torch, merged

_runs_directly = choice.runs_directly
_kernel = autograd.attention
_lean = dense_autograd.attention
_compiling = torch.compiler.is_compiling
_tracing = torch._C._get_tracing_state  # torch.jit's, which knows no optional results
_dispatch_modes = torch._C._len_torch_dispatch_stack
# Checked here before `is_overridden` does: a Python call costs as much as both.
_overridden = torch.overrides.has_torch_function_variadic
_modes = torch._C._len_torch_function_stack


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    causal: str | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    return_lse: bool = False,
    sinks: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""softmax(scale * query key^T + mask) value, for every batch entry and head (Vaswani et al.
    2017, "Attention Is All You Need", equation 1).

    Signature and meaning are those of `torch.nn.functional.scaled_dot_product_attention`; the
    keyword-only arguments are seqkern's. Their conventions are flash-attn's: with N queries and M
    keys, query i is at key position i + M - N for `window`, `alibi_slopes` and
    causal="bottom_right". The equations are in `seqkern.attention.reference`.

    Args:
        query: (..., H, N, D), 2 dimensions or more, any strides. float32, float64, bfloat16 and
            float16 run on seqkern's kernels on the CPU, all else on PyTorch's. May be a
            `torch.nested` tensor, jagged or strided, and so then are key and value.
        key: (..., H, M, D).
        value: (..., H, M, Dv). The leading dimensions of all three broadcast as in PyTorch.
        attn_mask: broadcastable to (..., H, N, M). Boolean: True takes part. Floating (query's
            dtype or float32): added to the scores; its gradient is computed if it requires one.
            `causal_upper_left` and `causal_lower_right` of `torch.nn.attention.bias` are
            causal="top_left" and "bottom_right", and computed as such.
        dropout_p: probability to drop a weight, always applied; drawn from torch's generator of the
            call's device.
        is_causal: query i attends to keys 0 to i, aligned at the top left. Given together with
            attn_mask or `window`, both take part.
        scale: 1 / sqrt(D) if None.
        enable_gqa: key and value may have fewer heads than query, a divisor of H; neighbouring
            heads of query share one.
        causal: None; "top_left", the same as is_causal; or "bottom_right", query i attends to keys
            0 to i + M - N.
        window: (left, right), query i attends to keys i + M - N - left to i + M - N + right; -1 is
            unlimited.
        softcap: c, which makes a scaled score s into c * tanh(s / c), before masks are added.
        alibi_slopes: (H,) or (..., H); adds `-slope * abs(i + M - N - j)` to the scores.
        return_lse: also return the log of the sum of the exponentials of the scores.
        sinks: (H,), one logit for each head that takes part in the softmax and has no value. Slopes
            and sinks are floating and computed in float32 (float64 for float64).

    Returns:
        (..., H, N, Dv) in query's dtype; with `return_lse` (output, lse), where lse is (..., H, N)
        in float32, or float64 for float64. All of query, key, value, a floating attn_mask,
        alibi_slopes and sinks get gradients, also through lse, any number of times. A query that
        attends to no key gives 0, lse -inf, and no gradient; a key that is masked out contributes
        nothing even where it holds NaN.

    Raises:
        RuntimeError, IndexError, TypeError: what PyTorch raises for arguments that do not fit
            together, in its words; RuntimeError also where no backend, or not the one chosen with
            `seqkern.use_backend`, can run the call.
        ValueError: `causal`, `window` or `softcap` is not what it can be, or a causal mask of
            `torch.nn.attention.bias` is given together with `is_causal` or `causal`; for nested
            tensors also what PyTorch raises, for an attn_mask for instance.

    A TorchFunctionMode, and an argument whose type overrides `__torch_function__`, sees the call as
    one of PyTorch's function; with an argument that only ours has, as one of this function.

    >>> q = torch.randn(2, 8, 100, 64)  # doctest: +SKIP
    >>> output = scaled_dot_product_attention(q, q, q, is_causal=True)  # doctest: +SKIP
    """
    if (
        type(query) is type(key) is type(value) is Tensor
        and (attn_mask is None or (type(attn_mask) is Tensor and attn_mask.is_cpu))
        and dropout_p == 0
        and enable_gqa is False
        and not return_lse
        and causal is window is softcap is alibi_slopes is sinks is None
        and query.dim() == 4
        and key.is_cpu
        and value.is_cpu
        and _runs_directly(query)
        and not _compiling()  # which knows none of the next
        and not _modes()
        and not _dispatch_modes()
        and not _tracing()
    ):
        try:
            return _lean(query, key, value, attn_mask, scale, is_causal)
        except dense_autograd.DoesNotFit:
            pass  # the other ways know what to do, or to say
    seen = (query, key, value, attn_mask, alibi_slopes, sinks)
    if (_overridden(*seen) or _modes()) and overrides.is_overridden(*seen):
        options = _given(
            attn_mask=attn_mask, dropout_p=dropout_p or None, is_causal=is_causal or None,
            scale=scale, enable_gqa=enable_gqa or None,
        )  # fmt: skip
        extras = _given(
            causal=causal, window=window, softcap=softcap, alibi_slopes=alibi_slopes,
            return_lse=return_lse or None, sinks=sinks,
        )  # fmt: skip
        tensors = (query, key, value)
        return overrides.dispatch(_OURS, scaled_dot_product_attention, tensors, options, extras)
    if (
        isinstance(query, Tensor)
        and _runs_directly(query)
        and _fits(query, key, value, enable_gqa)
        and (attn_mask is None or _mask_fits(query, key, attn_mask))
    ):
        mask = bias = seed = None
        if attn_mask is not None:
            if attn_mask.dim() != 4:
                attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
            if attn_mask.dtype == torch.bool:
                mask = attn_mask
            else:
                bias = attn_mask
        sides, cap = (-1, -1), 0.0
        if dropout_p or causal is not None or window is not None or softcap is not None:
            is_causal, sides, cap = checks.options(dropout_p, is_causal, causal, window, softcap)
            seed = draw_seed(query.device) if dropout_p else None
        if alibi_slopes is not None or sinks is not None:
            checks.per_head(query, query.shape[1], query.shape[:2], alibi_slopes, sinks)
            alibi_slopes, sinks = in_score_dtype(query, alibi_slopes), in_score_dtype(query, sinks)
        output, lse = _kernel(
            query, key, value, mask, bias, alibi_slopes, sinks, None, None, seed,
            query.shape[3] ** -0.5 if scale is None else scale, cap, dropout_p,
            is_causal, sides[0], sides[1],
        )  # fmt: skip
        return (output, lse) if return_lse else output
    return _any_call(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa,
        causal, window, softcap, alibi_slopes, return_lse, sinks,
    )  # fmt: skip


def dispatched_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    is_causal: bool,
) -> Tensor:
    """`ops.attention` for a module's call that `is_overridden`: dispatched as a call of the
    function."""
    attn_mask, is_causal = merged(query, key, mask, bias, is_causal)
    result = scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal)
    assert isinstance(result, Tensor)  # there is no lse
    return result


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _fits(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> bool:
    """Whether the tensors are what the kernel takes, as they are. `query` is on the CPU."""
    if (
        not isinstance(key, Tensor)
        or not isinstance(value, Tensor)
        or query.is_nested
        or key.is_nested
        or value.is_nested
        or not query.dtype is key.dtype is value.dtype
        or not key.is_cpu
        or not value.is_cpu
    ):
        return False
    shape, keys, values = query.shape, key.shape, value.shape
    if len(shape) != 4 or shape[3] == 0:
        return False
    if shape == keys == values:
        return True
    batch, heads, _, width = shape
    return (
        len(keys) == 4
        and keys[0] == batch
        and keys[3] == width
        and (keys[1] == heads or (enable_gqa and keys[1] != 0 and heads % keys[1] == 0))
        and len(values) == 4
        and values[:3] == keys[:3]
    )


def _mask_fits(query: Tensor, key: Tensor, mask: Tensor) -> bool:
    """The same for a mask of four dimensions or fewer."""
    if type(mask) not in overrides.PLAIN_TYPES or mask.is_nested or not mask.is_cpu:
        return False
    shape, full = mask.shape, (*query.shape[:3], key.shape[2])
    return (
        len(shape) <= 4
        and mask.dtype in (torch.bool, torch.float32, query.dtype)
        and all(m in (1, n) for m, n in zip(shape, full[4 - len(shape) :], strict=True))
    )


def _any_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    causal: str | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    return_lse: bool = False,
    sinks: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """All other calls: any rank, broadcasting, other backends, autocast, nested tensors."""
    checks.types(
        "scaled_dot_product_attention", query=query, key=key, value=value, attn_mask=attn_mask
    )
    nests = query.is_nested or key.is_nested or value.is_nested
    aligned = None
    if causal_bias.is_causal_bias(attn_mask) and not nests:
        _check_no_other_causal(is_causal, causal)
        checks.inputs(query, key, value, None)
        aligned = causal_bias.alignment(attn_mask, query.shape[-2], key.shape[-2])
        attn_mask = None
        is_causal = aligned == causal_bias.TOP_LEFT
    is_causal, sides, cap = checks.options(dropout_p, is_causal, causal, window, softcap)
    if nests:
        if attn_mask is None and nested.ragged_batch(query, key, value):
            result = _any_call(
                query.values(), key.values(), value.values(), None, dropout_p, is_causal, scale,
                enable_gqa, None, sides, cap, alibi_slopes, return_lse, sinks,
            )  # fmt: skip
            if isinstance(result, Tensor):
                return nested.with_values(result, query)
            return nested.with_values(result[0], query), nested.with_values(result[1], query)
        return nested.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa,
            sides, cap, alibi_slopes, return_lse, sinks,
        )  # fmt: skip
    extras = unsupported_by_torch(alibi_slopes, sinks, cap, sides, return_lse)
    tensors = (key, value, attn_mask, alibi_slopes, sinks)
    backend = choice.choose(query, tensors, extras)
    if aligned == causal_bias.BOTTOM_RIGHT:
        if backend == "torch":
            queries, keys = query.shape[-2], key.shape[-2]
            attn_mask = causal_bias.allowed(aligned, queries, keys, query.device)
        else:
            sides = (sides[0], 0)
    if backend == "torch":
        return call_torch(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    boolean = attn_mask is not None and attn_mask.dtype == torch.bool
    query, key, value, attn_mask = cast_for_autocast(query, key, value, attn_mask)  # type: ignore[assignment]
    checks.inputs(query, key, value, attn_mask)
    call = folded(query, key, value, attn_mask, enable_gqa)
    checks.per_head(query, call.lead[-1] if call.lead else 1, call.lead, alibi_slopes, sinks)
    output, lse = run_attention(
        backend, call.query, call.key, call.value,
        call.mask if boolean else None, None if boolean else call.mask,
        call.per_head(alibi_slopes), call.per_head(sinks), None, None,
        draw_seed(query.device) if dropout_p > 0 else None,
        default_scale(query.shape[-1]) if scale is None else scale,
        cap, dropout_p, is_causal, sides[0], sides[1],
    )  # fmt: skip
    output = call.unfolded(output)
    return (output, call.unfolded(lse)) if return_lse else output


def _check_no_other_causal(is_causal: bool, causal: str | None) -> None:
    if is_causal:
        raise ValueError("CausalBias should not be used with causal=True")
    if causal is not None:
        raise ValueError(
            f"attn_mask is a CausalBias, which is causal by itself: give it or causal={causal!r}"
        )


_OURS = overrides.InPlaceOfTorchs(_any_call)
