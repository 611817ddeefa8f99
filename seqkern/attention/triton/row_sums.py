"""The log-sum-exp and delta of small sequences in 16 bits, anew from their scores.

The backward usually takes delta = rowsum(dO * O). Where O is rounded to 16 bits that is not the sum
of P * dP, and dP - delta, a difference of nearly equal numbers where one key has nearly all the
weight, multiplies what rounding left. Where it costs little one more pass over the keys computes::

    lse_i = log sum_j exp(s_ij)      delta_i = sum_j P_ij dP_ij - dlse_i

so that dS sums to 0 over the keys but for float32's own rounding, as it does in PyTorch where that
computes in float32. The CPU's kernels do the same (csrc/attention/cpu/row_sums.h).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqkern.attention.triton.operands import (
    Dropout,
    Lines,
    Operands,
    Place,
    Rows,
    Sizes,
    Window,
    padded,
    precision,
    programs,
    sinks_of,
)
from seqkern.attention.triton.tiles import (
    inner,
    kept,
    keys_at,
    limits,
    line_at,
    logits,
    rows_at,
    sequence,
    spans,
)
from seqkern.attention.triton.tuning import tiles_for
from seqkern.core.triton import support

# Sequences of so few queries, and those that are no longer than SMALL on either side: the rule of
# the CPU's kernels. In float32 the sums are no nearer to the reference than what the forward
# leaves.
FEW_QUERIES = 8
SMALL = 64


def sums_rows(queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
    """Which sequences of so many queries and keys get sums of their own."""
    if dtype.itemsize > 2:
        return torch.zeros_like(queries, dtype=torch.bool)
    return (queries <= FEW_QUERIES) | ((queries <= SMALL) & (keys <= SMALL))


@triton.jit(
    do_not_specialize=[
        "most_queries", "most_keys", "heads", "group", "left", "right", "seed", "threshold",
        "factor", "line_batch", "line_head",
    ]
)  # fmt: skip
def attention_row_sums_kernel(
    query, key, value, grad_output, grad_lse_at, lse_at, delta_at, scores, sinks, packed,
    most_queries, most_keys, heads, group, left, right, seed, threshold, factor,
    line_batch, line_head,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
    FEW_QUERIES: tl.constexpr, SMALL: tl.constexpr,
):  # fmt: skip
    """Programs: tiles of QUERIES of every head of every sequence; of packed sequences those that
    are not small are left as they are."""
    sizes = Sizes(most_queries, most_keys, heads, group)
    window = Window(left, right)
    dropout = None
    if factor is not None:
        dropout = Dropout(tl.load(seed), threshold, factor)
    tiles = tl.cdiv(sizes.queries, QUERIES)
    i0 = tl.program_id(0) % tiles * QUERIES
    h = tl.program_id(0) // tiles % sizes.heads
    b = tl.program_id(0) // tiles // sizes.heads
    first_q, first_k, queries, keys = sequence(packed, sizes, b)
    is_small = (queries <= FEW_QUERIES) | (tl.maximum(queries, keys) <= SMALL)
    if (i0 < queries) & is_small:
        low, high = limits(window, queries, keys, CAUSAL)
        bh = b * sizes.heads + h
        kv = h // sizes.group
        place = Place(b, h, kv, bh, first_q, first_k, queries, keys, low, high, window)
        i = i0 + tl.arange(0, QUERIES)[:, None]
        q = rows_at(query, b, h, first_q + i0, first_q + queries, QUERIES, WIDTH, PADDED, True)
        do = rows_at(
            grad_output, b, h, first_q + i0, first_q + queries, QUERIES, VALUE_WIDTH, VALUE_PADDED,
            True,
        )  # fmt: skip
        top = tl.full((QUERIES,), -float("inf"), tl.float32)
        mass = tl.zeros((QUERIES,), tl.float32)
        weighted = tl.zeros((QUERIES,), tl.float32)
        HAS_LOW: tl.constexpr = window.left is not None
        HAS_HIGH: tl.constexpr = CAUSAL or window.right is not None
        last = tl.minimum(i0 + QUERIES, queries) - 1
        start, _, _, end = spans(i0, last, keys, low, high, HAS_LOW, HAS_HIGH, KEYS)
        for j0 in tl.range(start, end, KEYS):
            j = j0 + tl.arange(0, KEYS)[None, :]
            k = keys_at(key, None, place, j0, KEYS, WIDTH, PADDED, True)
            s = inner(q, k, PRECISION, INTERPRETED)
            s, attends, tanh_of_cap = logits(s, scores, place, i, j, CAUSAL, True, FOLDED)
            if FOLDED:
                s = s * scores.scale
            s = tl.where(attends, s, -float("inf"))
            v = keys_at(value, None, place, j0, KEYS, VALUE_WIDTH, VALUE_PADDED, True)
            dp = inner(do, v, PRECISION, INTERPRETED)
            if dropout is not None:
                dp = tl.where(kept(dropout, place.bh, i, j0, KEYS), dp * dropout.factor, 0.0)
            higher = tl.maximum(top, tl.max(s, axis=1))
            finite = tl.where(higher == -float("inf"), 0.0, higher)
            p = tl.exp2(s - finite[:, None])
            shrink = tl.exp2(top - finite)
            mass = mass * shrink + tl.sum(p, axis=1)
            weighted = weighted * shrink + tl.sum(tl.where(attends, p * dp, 0.0), axis=1)
            top = higher
        if sinks is not None:
            sink = tl.load(sinks.at + h) * 1.4426950408889634
            higher = tl.maximum(top, sink)
            finite = tl.where(higher == -float("inf"), 0.0, higher)
            mass = mass * tl.exp2(top - finite) + tl.exp2(sink - finite)
            weighted = weighted * tl.exp2(top - finite)
            top = higher
        mass = tl.where(mass == 0, 1.0, mass)  # of a row that saw nothing: top is -inf
        delta = weighted / mass
        r = i0 + tl.arange(0, QUERIES)
        if grad_lse_at is not None:
            grad_lse = Lines(grad_lse_at, line_batch, line_head)
            delta -= line_at(grad_lse, b, h, first_q, r, queries, 0.0)
        at = b.to(tl.int64) * line_batch + h.to(tl.int64) * line_head + first_q + r
        lse = (top + tl.log2(mass)) * 0.6931471805599453
        tl.store(lse_at + at, lse, mask=r < queries)
        tl.store(delta_at + at, delta, mask=r < queries)


def sum_rows(
    call: Operands,
    query: Tensor,
    grad_output: Rows,
    grad_lse: Tensor | None,
    sinks: Tensor | None,
    lse: Tensor,
    delta: Tensor,
) -> None:
    """Fills lse and delta, for the small ones of packed sequences only."""
    sizes = call.sizes
    tiles = tiles_for("row sums", call, query)
    count = triton.cdiv(sizes.queries, tiles.queries) * sizes.heads * call.batch
    if not count:
        return
    attention_row_sums_kernel[programs(count)](
        call.query,
        call.key,
        call.value,
        grad_output,
        grad_lse,
        lse,
        delta,
        call.scores,
        sinks_of(sinks, sizes.heads),
        call.packed,
        *call.numbers,
        *call.lines,
        WIDTH=call.width,
        VALUE_WIDTH=call.value_width,
        PADDED=padded(call.width),
        VALUE_PADDED=padded(call.value_width),
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        CAUSAL=call.is_causal,
        FOLDED=call.folded,
        PRECISION=precision(query),
        INTERPRETED=support.INTERPRETED,
        FEW_QUERIES=FEW_QUERIES,
        SMALL=SMALL,
        **tiles.options,
    )
