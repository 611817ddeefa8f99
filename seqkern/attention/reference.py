r"""The reference for attention: its equations in plain PyTorch.

This file is the specification. Every kernel is measured against it in float64; it runs in any
floating dtype and on any device, can be differentiated any number of times and works under
`torch.func`. 16-bit tensors are computed in float32 and the output is rounded at the end.

For every sequence b of the batch and every head h (Vaswani et al. 2017)::

    s_ij = scale * q_i . k_j                          scores, scale = 1 / sqrt(D) unless given
    s_ij = c * tanh(s_ij / c)                         with softcap c (Gemma 2, 2024)
    s_ij = s_ij + bias_ij                             with an additive mask
    s_ij = s_ij - slope * |i + M - N - j|             with ALiBi (Press, Smith & Lewis 2022)
    s_ij = -inf                                       where query i does not attend to key j
    lse_i = log(exp(sink) + sum_j exp(s_ij))          with sinks (gpt-oss, 2025), else only the sum
    P_ij = exp(s_ij - lse_i)                          softmax; sinks are in the denominator only
    P_ij = P_ij * keep_ij / (1 - p)                   with dropout of probability p
    o_i = sum_j P_ij v_j

Query i attends to key j unless

- `mask` is False there, or `bias` is -inf;
- with `is_causal`, j > i (aligned at the top left, PyTorch's convention);
- with `window` = (left, right), j lies outside i + M - N - left ... i + M - N + right (aligned at
  the bottom right, flash-attn's convention; -1 is unlimited). (-1, 0) is causal attention aligned
  at the bottom right.

A key that a query does not attend to contributes nothing to it, even where it holds NaN. A query
that attends to no key has the output 0, the lse -inf (or that of its sink alone), and no gradient.

Shapes: query (B, H, N, D), key (B, Hkv, M, D), value (B, Hkv, M, Dv) where Hkv divides H and
H / Hkv neighbouring query heads share one of key and value (Ainslie et al. 2023); `mask` (bool) and
`bias` (B, H, N, M), each of these dimensions may be 1; `alibi_slopes` (H,) or (B, H); `sinks` (H,);
`seed` int64 without dimensions. Results: output (B, H, N, Dv) in the dtype of query, lse (B, H, N)
in float32 or float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.attention.philox import kept

_functorch = torch._C._functorch


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
    sequence: int = 0,
) -> tuple[Tensor, Tensor]:
    """Returns (output, lse); see the module's docstring. `sequence` is the number b of the first
    entry of the batch, for dropout.

    Raises:
        RuntimeError: dropout_p is not 0 and seed is None.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v = query.to(wide), _per_head(key.to(wide), heads), _per_head(value.to(wide), heads)
    if scale is None:
        scale = width**-0.5 if width else 1.0
    i = torch.arange(queries, device=query.device)[:, None]
    j = torch.arange(keys, device=query.device)
    attends = _attends(i, j, mask, bias, is_causal, window)
    if attends is not None:
        seen = attends.any(-2)[..., None]  # by some query
        k, v = torch.where(seen, k, 0), torch.where(seen, v, 0)

    s = scale * _scores(q, k, attends)
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    if bias is not None:
        s = s + bias
    if alibi_slopes is not None:
        s = s - alibi_slopes.to(wide)[..., None, None] * (i + keys - queries - j).abs()
    if attends is not None:
        s = s.masked_fill(~attends, -torch.inf)

    logits = s
    if sinks is not None:
        column = sinks.to(wide)[:, None, None].expand(batch, heads, queries, 1)
        logits = torch.cat([s, column], dim=-1)
    empty = (logits == -torch.inf).all(-1, keepdim=True)
    logits = logits.masked_fill(empty, 0)  # any value: its softmax is not used
    lse = torch.logsumexp(logits, dim=-1).masked_fill(empty[..., 0], -torch.inf)
    p = torch.softmax(logits, dim=-1)[..., :keys]
    p = p.masked_fill(empty if attends is None else empty | ~attends, 0)

    if dropout_p:
        if seed is None:
            raise RuntimeError("seed must be an int64 number where dropout_p is not 0, got None")
        keep = kept(
            seed.to(query.device), dropout_p, batch, heads, queries, keys, first_batch=sequence
        )
        p = p * keep / (1 - dropout_p) if dropout_p < 1 else p * 0
    return _weighted_sum(p, v, attends).to(query.dtype), lse


def varlen_attention(
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
    """`attention` for each of S concatenated sequences.

    Shapes: query (total_q, H, D), key (total_k, Hkv, D), value (total_k, Hkv, Dv); sequence b has
    the rows cu_seqlens_q[b] to cu_seqlens_q[b + 1] of query and those of cu_seqlens_k of key and
    value; cu_seqlens are integers (S + 1,). `alibi_slopes` (H,) or (S, H). Returns output
    (total_q, H, Dv) and lse (H, total_q), in the dtypes of `attention`.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    nothing = query[:0].sum(-1)  # (0, H), and part of the graph even where S = 0
    outputs = [nothing[..., None].expand(0, -1, value.shape[2])]
    lses = [nothing.transpose(0, 1).to(wide)]
    starts_q, starts_k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    for b in range(len(starts_q) - 1):
        slopes = alibi_slopes
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[b]
        output, lse = attention(
            query[starts_q[b] : starts_q[b + 1]].transpose(0, 1)[None],
            key[starts_k[b] : starts_k[b + 1]].transpose(0, 1)[None],
            value[starts_k[b] : starts_k[b + 1]].transpose(0, 1)[None],
            alibi_slopes=slopes,
            sinks=sinks,
            scale=scale,
            softcap=softcap,
            dropout_p=dropout_p,
            is_causal=is_causal,
            window=window,
            seed=seed,
            sequence=b,
        )
        outputs.append(output[0].transpose(0, 1))
        lses.append(lse[0])
    return torch.cat(outputs), torch.cat(lses, dim=1)


def _per_head(x: Tensor, heads: int) -> Tensor:
    """Key or value with one head for each head of query."""
    shared = heads // x.shape[1] if x.shape[1] else 1
    return x if shared == 1 else x.repeat_interleave(shared, dim=1)


def _attends(
    i: Tensor,
    j: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    is_causal: bool,
    window: tuple[int, int],
) -> Tensor | None:
    """Which query attends to which key, (B, H, N, M) with dimensions of 1; None: each to all."""
    left, right = window
    at = i + j.shape[0] - i.shape[0]  # len() would fix the lengths in torch.export
    conditions = [
        mask,
        None if bias is None else bias != -torch.inf,
        (j <= i)[None, None] if is_causal else None,
        (j >= at - left)[None, None] if left >= 0 else None,
        (j <= at + right)[None, None] if right >= 0 else None,
    ]
    attends = None
    for condition in conditions:
        if condition is not None:
            attends = condition if attends is None else attends & condition
    return attends


def _scores(q: Tensor, k: Tensor, attends: Tensor | None) -> Tensor:
    """q_i . k_j for every pair that counts."""
    if attends is None or not _needs_pairwise_products(k, attends):
        return q @ k.transpose(-2, -1)
    return (q[..., None, :] * torch.where(attends[..., None], k[..., None, :, :], 0)).sum(-1)


def _weighted_sum(p: Tensor, v: Tensor, attends: Tensor | None) -> Tensor:
    """sum_j p_ij v_j over the keys that count."""
    if attends is None or not _needs_pairwise_products(v, attends):
        return p @ v
    return (p[..., None] * torch.where(attends[..., None], v[..., None, :, :], 0)).sum(-2)


def _needs_pairwise_products(x: Tensor, attends: Tensor) -> bool:
    """Whether each pair of query and key has to be multiplied separately, at D times the memory.

    0 * NaN is NaN, so a matrix product carries the NaN of a key into every query. That matters
    where some queries attend to the key and others do not. Values cannot be tested under vmap and
    in a compiled function; there a NaN is kept out only where no query attends to its key.
    """
    if attends.shape[-2] == 1 or torch.compiler.is_compiling() or x.is_meta:
        return False
    inner = x
    while _functorch.is_functorch_wrapped_tensor(inner):
        if _functorch.is_batchedtensor(inner):
            return False
        inner = _functorch.get_unwrapped(inner)
    return not bool(torch.isfinite(x).all())
