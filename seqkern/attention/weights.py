"""The attention weights that `need_weights=True` returns, beside an output computed without them:
where `multi_head.attend` does not make both at once, and for gradients through them.

The operator leaves, for each query, the log-sum-exp of its scores. One product of queries and keys
and one exponential give the weights::

    P_ij = exp(scale * q_i . k_j + bias_ij - lse_i),    0 where a mask excludes j

No softmax over rows is needed. So where only the mean over the heads is wanted, and no gradient
of it, a few rows of all heads are computed at a time, in cache, and B x H x N x M numbers are never
allocated.

PyTorch's operator returns no log-sum-exp; `by_torch` is for the calls that it runs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from seqkern.attention import choice
from seqkern.attention.philox import kept
from seqkern.attention.recomputation import check_implementation
from seqkern.core.dispatch import without_autocast

_BLOCK = 1 << 19  # scores computed at a time, 2 MiB of float32


def attention_weights(
    query: Tensor,
    key: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
    average: bool,
) -> Tensor:
    """The softmax after dropout, as torch.nn.MultiheadAttention returns it.

    Args:
        query, key: (B, H, N, D) and (B, H, M, D).
        lse: (B, H, N), from the operator; -inf for a query that attends to no key: its weights are
        0.
        mask, bias, dropout_p, seed: those of the operator's call.
        average: the mean over the heads.

    Returns:
        (B, H, N, M), or (B, N, M) if averaged, in query's dtype, or float32 under autocast on a
        GPU. Differentiable with respect to query, key, bias and, through lse, whatever else it
        depends on.
    """
    dtype, count = _dtype_of_softmax(query), lse.numel() * key.shape[2]
    inputs = [t for t in (query, key, lse, bias) if t is not None]
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    plain = not graph and choice.runs_directly(query) and not torch.compiler.is_compiling()
    query, key = query.to(lse.dtype), key.to(lse.dtype)  # lse is finer than 16 bits
    if mask is not None or bias is not None:
        # exp(score - inf) is the 0 that an empty row needs; exp(score - -inf) would not be.
        lse = torch.where(lse == -math.inf, math.inf, lse)
    key, mask, added = _additive(key, mask, bias, plain)
    if average and plain and dropout_p == 0 and count > _BLOCK:
        return _mean_in_blocks(query, key, lse, mask, added).to(dtype)
    weights = _exponentials(query, key, lse, mask, added)
    if dropout_p > 0:
        assert seed is not None
        if choice.runs_directly(query):
            keep = torch.ops.seqkern.attention_dropout_mask(seed, dropout_p, *weights.shape)
        else:
            keep = kept(seed, dropout_p, *weights.shape).to(weights.device)
        weights = (weights * keep).mul_(1 / (1 - dropout_p) if dropout_p < 1 else 0.0)
    return (weights.mean(1) if average else weights).to(dtype)


def _additive(
    key: Tensor, mask: Tensor | None, bias: Tensor | None, plain: bool
) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """Key, mask and what to add to the scores, with the mask among the latter where that is exact:
    where no excluded key holds a NaN. To add -inf is several times as fast as `masked_fill`."""
    added = [] if bias is None else [bias]
    if mask is None:
        return key, None, added
    key = torch.where(mask.any(2)[..., None], key, 0)  # a key that no query attends to
    if mask.shape[2] != 1 and not (plain and bool(torch.isfinite(key).all())):
        return key, mask, added
    zeros = torch.zeros(mask.shape, dtype=key.dtype, device=key.device)
    return key, None, [*added, zeros.masked_fill_(~mask, -math.inf)]


def _exponentials(
    query: Tensor, key: Tensor, lse: Tensor, mask: Tensor | None, added: list[Tensor]
) -> Tensor:
    """(B, H, N, M) all at once."""
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    with without_autocast(query.device.type):
        if torch.compiler.is_exporting():
            # To merge batch and heads makes torch.export, until 2.12, refuse dynamic lengths.
            scores = torch.matmul(query * width**-0.5, key.transpose(2, 3)) - lse[..., None]
        else:
            scores = torch.baddbmm(
                lse.reshape(batch * heads, queries, 1),
                query.reshape(batch * heads, queries, width),
                key.reshape(batch * heads, keys, width).transpose(1, 2),
                beta=-1,
                alpha=width**-0.5,
            ).view(batch, heads, queries, keys)
    for tensor in added:
        scores = scores.add_(tensor)
    if mask is not None:
        scores = scores.masked_fill_(~mask, -math.inf)
    return scores.exp_()


def _mean_in_blocks(
    query: Tensor, key: Tensor, lse: Tensor, mask: Tensor | None, added: list[Tensor]
) -> Tensor:
    """(B, N, M), some rows of one sequence at a time, and of their keys none after the last one
    attended to."""
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    result = torch.zeros(batch, queries, keys, dtype=lse.dtype)
    rows = max(1, _BLOCK // (heads * keys))
    for b in range(batch):
        end = _last(added, b, keys)

        def part(tensor: Tensor, first: int, b: int = b, end: int = end) -> Tensor:
            tensor = tensor[b if tensor.shape[0] > 1 else 0]
            if tensor.shape[1] > 1:
                tensor = tensor[:, first : first + rows]
            return tensor[..., :end] if tensor.shape[2] > 1 else tensor

        for first in range(0, queries, rows):
            here = slice(first, first + rows)
            scores = torch.baddbmm(
                lse[b, :, here, None],
                query[b, :, here],
                key[b, :, :end].transpose(1, 2),
                beta=-1,
                alpha=width**-0.5,
            )
            for tensor in added:
                scores.add_(part(tensor, first))
            if mask is not None:
                scores.masked_fill_(~part(mask, first), -math.inf)
            torch.sum(scores.exp_(), 0, out=result[b, here, :end])
    return result.div_(heads)


def _last(added: list[Tensor], b: int, keys: int) -> int:
    """How many of sequence b's keys are left when those excluded at its end, for all, are cut."""
    for tensor in added:
        if tensor.shape[1:3] == (1, 1) and tensor.shape[3] == keys:
            there = tensor[b if tensor.shape[0] > 1 else 0, 0, 0] != -math.inf
            keys = min(keys, int((there * torch.arange(1, len(there) + 1)).amax()))
    return keys


def by_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    dropout_p: float,
    average: bool,
) -> tuple[Tensor, Tensor]:
    """Output (B, H, N, D) and weights (B, H, N, M), or (B, N, M) if averaged, by the operators that
    torch.nn.MultiheadAttention uses. Arguments as in `attention_weights`, value (B, H, M, D)."""
    if dropout_p:
        check_implementation("torch")
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    empty = (scores == -math.inf).all(-1, keepdim=True)
    weights = scores.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0)
    weights = weights.to(_dtype_of_softmax(query))
    weights = F.dropout(weights, dropout_p)
    return weights @ value, weights.mean(1) if average else weights


def _dtype_of_softmax(query: Tensor) -> torch.dtype:
    """The softmax is on the list of what PyTorch's autocast computes in float32 on a GPU, not on
    the CPU's."""
    if query.is_cuda and torch.is_autocast_enabled("cuda"):
        return torch.promote_types(query.dtype, torch.float32)
    return query.dtype
