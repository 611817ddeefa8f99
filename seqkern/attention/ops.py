"""Attention on 4-D tensors: `reference.attention` with the fastest backend that can run it.

For the modules and for the functions of `seqkern.nn.functional`, which bring their callers'
shapes into this form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.attention import autograd, checks, choice, torch_backend
from seqkern.attention.recomputation import check_implementation
from seqkern.core.dispatch import without_autocast
from seqkern.core.dtypes import accumulation_dtype

_runs_directly = choice.runs_directly


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    window: tuple[int, int] = (-1, -1),
    seed: Tensor | None = None,
    need_lse: bool = True,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention; the equations are in `seqkern.attention.reference`.

    Args:
        query: (B, H, N, D), any strides. float32, float64, bfloat16, float16 (through float32)
            on the CPU; on other devices whatever the chosen backend takes, Triton's kernels
            float32, bfloat16 and float16.
        key: (B, Hkv, M, D), value: (B, Hkv, M, Dv), dtype of query; Hkv divides H, and H / Hkv
            neighbouring heads of query share one of key and value.
        mask: bool, True where a query attends to a key; 4-D, each dimension that of the scores
            (B, H, N, M) or 1.
        bias: added to the scores; the same shapes, in query's dtype or float32. May come together
            with `mask`.
        alibi_slopes: (H,) or (B, H). sinks: (H,). Both computed in float32 (float64 for float64).
        scale: 1 / sqrt(D) unless given.
        softcap: 0.0 for none.
        dropout_p, seed: the probability to drop, and what `draw_seed` gave where it is not 0.
        is_causal: query i attends to the keys 0 to i.
        window: (left, right), query i attends to the keys i + M - N - left to i + M - N + right;
            -1 is unlimited.
        need_lse: whether the caller uses lse. If not, PyTorch's operator, which gives none,
            may run too, and lse is then empty.
        backend: what `choice.choose` gave for the call, from a caller that had to know it before.

    Returns:
        output (B, H, N, Dv), its heads inside the positions in memory where query has them so,
        and lse (B, H, N). Under CPU autocast their dtypes are those of PyTorch's operator.

    Raises:
        RuntimeError: the arguments do not fit together, or the backend chosen with
            `seqkern.use_backend` cannot run the call.
    """
    if scale is None:
        scale = default_scale(query.shape[-1])
    if _runs_directly(query):
        if alibi_slopes is not None or sinks is not None:
            alibi_slopes, sinks = in_score_dtype(query, alibi_slopes), in_score_dtype(query, sinks)
        try:
            return autograd.attention(
                query, key, value, mask, bias, alibi_slopes, sinks, None, None, seed,
                scale, softcap, dropout_p, is_causal, window[0], window[1],
            )  # fmt: skip
        except RuntimeError:
            checks.four_dimensional(query, key, value, mask, bias, alibi_slopes, sinks)
            raise
    if backend is None:
        extras = unsupported_by_torch(alibi_slopes, sinks, softcap, window, need_lse)
        backend = choice.choose(query, (key, value, bias, alibi_slopes, sinks), extras)
    if backend == "torch":
        output = torch_backend.attention(query, key, value, mask, bias, scale, dropout_p, is_causal)
        return output, output.new_empty(0)
    query, key, value, bias = cast_for_autocast(query, key, value, bias)  # type: ignore[assignment]
    checks.four_dimensional(query, key, value, mask, bias, alibi_slopes, sinks)
    return run_attention(
        backend, query, key, value, mask, bias, alibi_slopes, sinks, None, None, seed,
        scale, softcap, dropout_p, is_causal, window[0], window[1],
    )  # fmt: skip


def run_attention(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seed: Tensor | None,
    scale: float,
    softcap: float,
    dropout_p: float,
    is_causal: bool,
    window_left: int,
    window_right: int,
) -> tuple[Tensor, Tensor]:
    """`autograd.attention` on a backend already chosen, of arguments already checked.

    The backend is "cpu", "triton" or "reference". Everything else is as in `autograd.attention`,
    but float16 is taken on the CPU too, and slopes and sinks in any floating dtype.
    """
    alibi_slopes, sinks = in_score_dtype(query, alibi_slopes), in_score_dtype(query, sinks)
    if backend == "reference":
        if dropout_p:
            check_implementation(backend)
        options = (scale, softcap, dropout_p, is_causal, window_left, window_right)
        run = autograd.Specification(mask, cu_seqlens_q, cu_seqlens_k, seed, options)
        with without_autocast(query.device.type):
            return run(query, key, value, bias, alibi_slopes, sinks)
    dtype = query.dtype
    if backend == "cpu" and dtype == torch.float16:  # autograd sees the casts
        query, key, value = query.float(), key.float(), value.float()
        bias = None if bias is None else bias.float()
    output, lse = autograd.attention(
        query, key, value, mask, bias, alibi_slopes, sinks, cu_seqlens_q, cu_seqlens_k, seed,
        scale, softcap, dropout_p, is_causal, window_left, window_right, backend,
    )  # fmt: skip
    return output.to(dtype), lse


def default_scale(width: int) -> float:
    """1 / sqrt(D); without features every score is 0, whatever the scale."""
    return width**-0.5 if width else 1.0


def cast_for_autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype that autocast gives them, where it is on: PyTorch's attention is on
    its list for the lower precision, which spares float64 and what is not floating. The first one
    says for which device."""
    kind = "cuda" if tensors[0] is not None and tensors[0].is_cuda else "cpu"
    if not torch._C._is_any_autocast_enabled() or not torch.is_autocast_enabled(kind):
        return tensors
    lower = torch.get_autocast_dtype(kind)
    return tuple(
        t.to(lower)
        if t is not None
        and t.device.type == kind
        and t.is_floating_point()
        and t.dtype != torch.float64
        else t
        for t in tensors
    )


def unsupported_by_torch(
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    softcap: float,
    window: tuple[int, int],
    need_lse: bool,
) -> str:
    """The first argument that PyTorch's attention has no equal of; "" if there is none."""
    if window != (-1, -1):
        return "window (nor a causal mask aligned at the bottom right)"
    if softcap:
        return "softcap"
    if alibi_slopes is not None:
        return "alibi_slopes"
    if sinks is not None:
        return "sinks"
    return "lse to return" if need_lse else ""


def in_score_dtype(query: Tensor, numbers: Tensor | None) -> Tensor | None:
    """Slopes and sinks in the dtype in which scores are computed."""
    if numbers is None:
        return None
    return numbers.to(accumulation_dtype(query.dtype))
