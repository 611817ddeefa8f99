"""Attention inside each of several concatenated sequences, without padding."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function

from seqkern.attention import autograd, checks, choice, overrides
from seqkern.attention.ops import cast_for_autocast, default_scale, in_score_dtype, run_attention
from seqkern.attention.seeds import draw_seed


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    causal: str | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention inside each of S sequences packed into one tensor.

    Sequence b has the rows cu_seqlens_q[b] to cu_seqlens_q[b + 1] of query, those of cu_seqlens_k
    of key and value, and is attended to by itself, as `scaled_dot_product_attention` would.

    Args:
        query: (total_q, H, D), any strides; float32, float64, bfloat16 or float16.
        key: (total_k, Hkv, D); Hkv divides H, and H / Hkv neighbouring heads of query share one.
        value: (total_k, Hkv, Dv).
        cu_seqlens_q, cu_seqlens_k: (S + 1,) int32 or int64, rising from 0 to total_q and total_k.
            Wanted on the CPU, fetched from elsewhere. A sequence may be empty.
        max_seqlen_q, max_seqlen_k: the longest sequence, as flash-attn wants it told; checked and
            not needed.
        alibi_slopes: (H,) or (S, H).
        dropout_p, is_causal, scale, causal, window, softcap, sinks, return_lse: as in
            `scaled_dot_product_attention`, with N and M of each sequence.

    Returns:
        (total_q, H, Dv) in query's dtype; with `return_lse` (output, lse), lse (H, total_q).
        Gradients as in `scaled_dot_product_attention`.

    Raises:
        TypeError: one of query, key, value and cu_seqlens is no Tensor.
        RuntimeError: the arguments do not fit together; cu_seqlens are negative, decrease, or end
            elsewhere than the tensors; max_seqlen is less than the longest sequence; the backend
            chosen with `seqkern.use_backend` cannot run the call.
        ValueError: `causal`, `window` or `softcap` is not what it can be.

    A TorchFunctionMode, and an argument whose type overrides `__torch_function__`, sees the call.
    """
    tensors = (query, key, value, cu_seqlens_q, cu_seqlens_k, alibi_slopes, sinks)
    if overrides.is_overridden(*tensors):
        return handle_torch_function(
            varlen_attention, overrides.overriding(tensors),
            query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
            dropout_p=dropout_p, is_causal=is_causal, scale=scale, causal=causal, window=window,
            softcap=softcap, alibi_slopes=alibi_slopes, sinks=sinks, return_lse=return_lse,
        )  # fmt: skip
    checks.types(
        "varlen_attention",
        query=query,
        key=key,
        value=value,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
    )
    is_causal, sides, cap = checks.options(dropout_p, is_causal, causal, window, softcap)
    if not (cu_seqlens_q.is_cpu and cu_seqlens_k.is_cpu):
        cu_seqlens_q, cu_seqlens_k = cu_seqlens_q.cpu(), cu_seqlens_k.cpu()
    checks.longest("max_seqlen_q", max_seqlen_q, cu_seqlens_q)
    checks.longest("max_seqlen_k", max_seqlen_k, cu_seqlens_k)
    output, lse = attention_varlen(
        query,
        key,
        value,
        cu_seqlens_q,
        cu_seqlens_k,
        alibi_slopes=alibi_slopes,
        sinks=sinks,
        scale=scale,
        softcap=cap,
        dropout_p=dropout_p,
        is_causal=is_causal,
        window=sides,
        seed=draw_seed(query.device) if dropout_p > 0 else None,
    )
    return (output, lse) if return_lse else output


def attention_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    window: tuple[int, int] = (-1, -1),
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`ops.attention` for packed sequences; cu_seqlens on the CPU. Returns (output, lse).

    Shapes and dtypes are those of `varlen_attention`, seed is what `draw_seed` gave where dropout_p
    is not 0. PyTorch has no such operator on the CPU: the kernels run it, or the reference does.

    Raises:
        RuntimeError: as `varlen_attention`.
    """
    if scale is None:
        scale = default_scale(query.shape[-1])
    if choice.runs_directly(query):
        if query.dim() == 3 and (alibi_slopes is not None or sinks is not None):
            lead = (cu_seqlens_q.numel() - 1, query.shape[1])
            checks.per_head(query, query.shape[1], lead, alibi_slopes, sinks)
        try:
            return autograd.attention(
                query, key, value, None, None,
                in_score_dtype(query, alibi_slopes), in_score_dtype(query, sinks),
                cu_seqlens_q, cu_seqlens_k, seed,
                scale, softcap, dropout_p, is_causal, window[0], window[1],
            )  # fmt: skip
        except RuntimeError:
            checks.varlen(query, key, value, cu_seqlens_q, cu_seqlens_k, alibi_slopes, sinks)
            raise
    backend = choice.choose(query, (key, value, alibi_slopes, sinks), "cu_seqlens")
    return run_varlen(
        backend, query, key, value, cu_seqlens_q, cu_seqlens_k, alibi_slopes, sinks, seed,
        scale, softcap, dropout_p, is_causal, window[0], window[1],
    )  # fmt: skip


def run_varlen(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    """`attention_varlen` on a backend already chosen; it and the options, from scale on, are those
    of `run_attention`."""
    query, key, value = cast_for_autocast(query, key, value)  # type: ignore[assignment]
    checks.varlen(query, key, value, cu_seqlens_q, cu_seqlens_k, alibi_slopes, sinks)
    return run_attention(
        backend, query, key, value, None, None, alibi_slopes, sinks, cu_seqlens_q, cu_seqlens_k,
        seed, *options,
    )  # fmt: skip
