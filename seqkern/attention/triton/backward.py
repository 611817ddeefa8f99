"""Attention backward in Triton: FlashAttention-2's algorithm 4, split so that nobody adds to what
another program writes, and the same call gives the same bits.

One kernel owns a tile of queries and loops over keys, for dQ (and the gradients of the slopes and
of a bias that is not broadcast); another owns a tile of keys and loops over the queries of all
heads that share it, for dK and dV. Both compute the probabilities anew from the log-sum-exp::

    P_ij = exp(s_ij - lse_i)
    dV_j = sum_i keep_ij P_ij dO_i / (1 - p)
    dP_ij = keep_ij (dO_i . V_j) / (1 - p)
    dS_ij = P_ij (dP_ij - delta_i),   delta_i = dO_i . O_i - dlse_i
    dQ_i = scale sum_j dS_ij K_j,     dK_j = scale sum_i dS_ij Q_i

with dS times 1 - tanh^2 between logit and score where there is a softcap. Of small sequences lse
and delta are those of `row_sums`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqkern.attention import fake
from seqkern.attention.needs import BIAS, KEY, QUERY, SLOPES, VALUE
from seqkern.attention.triton.bias import grad_bias
from seqkern.attention.triton.operands import (
    Dropout,
    Lines,
    Operands,
    Pairs,
    Place,
    Sizes,
    Window,
    narrow_into,
    operands,
    padded,
    precision,
    programs,
    rows_of,
    with_whole_groups,
    written,
)
from seqkern.attention.triton.row_sums import sum_rows, sums_rows
from seqkern.attention.triton.settings import Tiles
from seqkern.attention.triton.skipping import needed, within
from seqkern.attention.triton.tiles import (
    any_nan,
    inner,
    kept,
    kept_at,
    keys_at,
    limits,
    line_at,
    logits,
    logsumexp_at,
    probabilities,
    product,
    row_at,
    rows_at,
    sequence,
    some_allowed,
    spans,
    store_pairs,
    store_rows,
    tile_at,
)
from seqkern.attention.triton.tuning import tiles_for
from seqkern.core.triton import support


@triton.jit(do_not_specialize=["rows", "heads", "line_batch", "line_head"])
def attention_delta_kernel(
    output, grad_output, grad_lse_at, delta_at, rows, heads, line_batch, line_head,
    VALUE_WIDTH: tl.constexpr, VALUE_PADDED: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """delta_i for every row in memory. Programs: tiles of QUERIES of every head."""
    tiles = tl.cdiv(rows, QUERIES)
    i0 = tl.program_id(0) % tiles * QUERIES
    h = tl.program_id(0) // tiles % heads
    b = tl.program_id(0) // tiles // heads
    o = rows_at(output, b, h, i0, rows, QUERIES, VALUE_WIDTH, VALUE_PADDED, True)
    do = rows_at(grad_output, b, h, i0, rows, QUERIES, VALUE_WIDTH, VALUE_PADDED, True)
    total = tl.sum(o.to(tl.float32) * do.to(tl.float32), axis=1)
    r = i0 + tl.arange(0, QUERIES)
    if grad_lse_at is not None:
        total -= line_at(Lines(grad_lse_at, line_batch, line_head), b, h, 0, r, rows, 0.0)
    at = delta_at + b.to(tl.int64) * line_batch + h.to(tl.int64) * line_head
    tl.store(at + r, total, mask=r < rows)


@triton.jit
def _keys_of_queries(
    total, slope, listed, first, last, q, do, lse, delta, key, value, grad_bias, scores, dropout,
    place, i,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    FOLDED: tl.constexpr, SLOPES: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The part of the tiles `first` to `last` of the keys, or those places of a list, in dQ / scale
    and in minus the gradient of the slope for each query."""
    for t in tl.range(first, last, num_stages=STAGES):
        j0 = tile_at(listed, t, TILE)
        j = j0 + tl.arange(0, TILE)[None, :]
        k = keys_at(key, None, place, j0, TILE, WIDTH, PADDED, MASKED)
        s = inner(q, k, PRECISION, INTERPRETED)
        s, attends, capped = logits(s, scores, place, i, j, CAUSAL, MASKED, FOLDED)
        p = probabilities(s, attends, lse, scores, MASKED, FOLDED)
        v = keys_at(value, None, place, j0, TILE, VALUE_WIDTH, VALUE_PADDED, MASKED)
        dp = inner(do, v, PRECISION, INTERPRETED)
        if dropout is not None:
            dp = tl.where(kept(dropout, place.bh, i, j0, TILE), dp * dropout.factor, 0.0)
        ds = p * (dp - delta)
        if MASKED or scores.mask is not None or scores.bias is not None:
            ds = tl.where(attends, ds, 0.0)  # dp may come from a NaN
        if grad_bias is not None:
            store_pairs(grad_bias, place.b, place.h, i, j, place.queries, place.keys, ds)
        if SLOPES:
            distance = tl.abs(i + (place.keys - place.queries) - j).to(tl.float32)
            slope += tl.sum(ds * distance, axis=1)
        if scores.cap is not None:
            ds = ds * (1.0 - capped * capped)
        total += product(ds.to(k.dtype), k, PRECISION, INTERPRETED)
    return total, slope


@triton.jit
def _keys_apart(
    start, stop, query, grad_output, lse, delta, key, value, scores, dropout, place, i0,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, QUERIES: tl.constexpr, CAUSAL: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """dQ / scale key by key; see `_apart` of the forward."""
    i = i0 + tl.arange(0, QUERIES)[:, None]
    total = tl.zeros((QUERIES, PADDED), tl.float32)
    b, h, first = place.b, place.h, place.first_q + i0
    count = place.first_q + place.queries
    q = rows_at(query, b, h, first, count, QUERIES, WIDTH, PADDED, True)
    do = rows_at(grad_output, b, h, first, count, QUERIES, VALUE_WIDTH, VALUE_PADDED, True)
    for j in tl.range(start, stop, num_stages=1):
        k = row_at(key, b, place.kv, place.first_k + j, WIDTH, PADDED)
        v = row_at(value, b, place.kv, place.first_k + j, VALUE_WIDTH, VALUE_PADDED)
        s = tl.sum(q.to(tl.float32) * k, axis=1)[:, None]
        s, attends, capped = logits(s, scores, place, i, j + i * 0, CAUSAL, True, FOLDED)
        p = probabilities(s, attends, lse, scores, True, FOLDED)
        dp = tl.sum(do.to(tl.float32) * v, axis=1)[:, None]
        if dropout is not None:
            dp = tl.where(kept_at(dropout, place.bh, i, j), dp * dropout.factor, 0.0)
        ds = p * (dp - delta)
        if scores.cap is not None:
            ds = ds * (1.0 - capped * capped)
        total += tl.where(attends, ds * k, 0.0)
    return total


@triton.jit(
    do_not_specialize=[
        "most_queries", "most_keys", "heads", "group", "left", "right", "seed", "threshold",
        "factor", "line_batch", "line_head",
    ]
)  # fmt: skip
def attention_backward_queries_kernel(
    query, key, value, grad_output, lse_at, delta_at, grad_query, grad_bias, slope_parts, scores,
    packed, needed_tiles, most_queries, most_keys, heads, group, left,
    right, seed, threshold, factor,
    line_batch, line_head, scale,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Programs: tiles of QUERIES of every head of every sequence, the last tile first."""
    sizes = Sizes(most_queries, most_keys, heads, group)
    window = Window(left, right)
    dropout = None
    if factor is not None:
        dropout = Dropout(tl.load(seed), threshold, factor)
    lse = Lines(lse_at, line_batch, line_head)
    delta = Lines(delta_at, line_batch, line_head)
    tiles = tl.cdiv(sizes.queries, QUERIES)
    tile = tiles - 1 - tl.program_id(0) % tiles
    h = tl.program_id(0) // tiles % sizes.heads
    b = tl.program_id(0) // tiles // sizes.heads
    kv = h // sizes.group
    first_q, first_k, queries, keys = sequence(packed, sizes, b)
    i0 = tile * QUERIES
    if i0 < queries:
        low, high = limits(window, queries, keys, CAUSAL)
        i = i0 + tl.arange(0, QUERIES)[:, None]
        bh = b * sizes.heads + h
        place = Place(b, h, kv, bh, first_q, first_k, queries, keys, low, high, window)
        stop = first_q + queries
        q = rows_at(query, b, h, first_q + i0, stop, QUERIES, WIDTH, PADDED, True)
        do = rows_at(
            grad_output, b, h, first_q + i0, stop, QUERIES, VALUE_WIDTH, VALUE_PADDED, True
        )
        top = logsumexp_at(lse, b, h, first_q, i, queries)
        d = line_at(delta, b, h, first_q, i, queries, 0.0)
        total = tl.zeros((QUERIES, PADDED), tl.float32)
        slope = tl.zeros((QUERIES,), tl.float32)
        HAS_LOW: tl.constexpr = window.left is not None
        HAS_HIGH: tl.constexpr = CAUSAL or window.right is not None
        ALWAYS_MASKED: tl.constexpr = scores.mask is not None or scores.bias is not None
        SLOPES: tl.constexpr = slope_parts is not None
        last = tl.minimum(i0 + QUERIES, queries) - 1
        start, full, edge, end = spans(i0, last, keys, low, high, HAS_LOW, HAS_HIGH, KEYS)
        EDGE: tl.constexpr = None if ALWAYS_MASKED else 1
        listed = None
        first_t = start // KEYS
        full_t = full // KEYS
        if ALWAYS_MASKED:
            full_t = tl.cdiv(end, KEYS)
            if needed_tiles is not None:
                listed, first_t, full_t = within(needed_tiles, b, h, start, end, KEYS)
        if ALWAYS_MASKED or HAS_LOW:
            total, slope = _keys_of_queries(
                total, slope, listed, first_t, full_t, q, do, top, d, key, value, grad_bias,
                scores, dropout, place, i,
                WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, KEYS, CAUSAL, True, FOLDED, SLOPES,
                PRECISION, INTERPRETED, EDGE,
            )  # fmt: skip
        if not ALWAYS_MASKED:
            total, slope = _keys_of_queries(
                total, slope, None, full_t, edge // KEYS, q, do, top, d, key, value, grad_bias,
                scores, dropout, place, i,
                WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, KEYS, CAUSAL, False, FOLDED, SLOPES,
                PRECISION, INTERPRETED, None,
            )  # fmt: skip
            total, slope = _keys_of_queries(
                total, slope, None, edge // KEYS, tl.cdiv(end, KEYS), q, do, top, d, key, value,
                grad_bias, scores, dropout, place, i,
                WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, KEYS, CAUSAL, True, FOLDED, SLOPES,
                PRECISION, INTERPRETED, 1,
            )  # fmt: skip
        if ALWAYS_MASKED or HAS_LOW or HAS_HIGH:
            if any_nan(total):  # perhaps from keys that some query does not attend to
                total = _keys_apart(
                    start, end, query, grad_output, top, d, key, value, scores, dropout, place, i0,
                    WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, QUERIES, CAUSAL, FOLDED,
                )  # fmt: skip
        if grad_query is not None:
            store_rows(grad_query, b, h, first_q + i0, stop, total * scale, QUERIES, WIDTH, PADDED)
        if slope_parts is not None:
            tl.store(slope_parts + bh.to(tl.int64) * tiles + tile, -tl.sum(slope))


@triton.jit
def _queries_of_keys(
    grad_k, grad_v, start, stop, k, v, query, grad_output, lse, delta, scores, dropout, place, j0,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, TILE: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    MASKED: tl.constexpr, FOLDED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The part of the queries `start` to `stop` of one head in dK / scale and dV. Tiles stand
    upright, (keys, queries), so that both products take them as they are."""
    j = j0 + tl.arange(0, KEYS)[:, None]
    b, h, first_q, queries = place.b, place.h, place.first_q, place.queries
    # What could be computed before the loop has no registers to wait in: there are none left
    # beside wide rows, nor beside the other loops, where this is but an edge.
    FULL: tl.constexpr = PADDED > 128 or STAGES is not None
    for i0 in tl.range(start, stop, TILE, num_stages=STAGES, disable_licm=FULL):
        i = i0 + tl.arange(0, TILE)[None, :]
        q = rows_at(query, b, h, first_q + i0, first_q + queries, TILE, WIDTH, PADDED, True)
        s = inner(k, q, PRECISION, INTERPRETED)
        s, attends, capped = logits(s, scores, place, i, j, CAUSAL, MASKED, FOLDED)
        # Beyond the queries the log-sum-exp is infinite, and the probability 0.
        top = logsumexp_at(lse, b, h, first_q, i, queries)
        p = probabilities(s, attends, top, scores, MASKED, FOLDED)
        do = rows_at(
            grad_output, b, h, first_q + i0, first_q + queries, TILE, VALUE_WIDTH, VALUE_PADDED,
            True,
        )  # fmt: skip
        dp = inner(v, do, PRECISION, INTERPRETED)
        if dropout is not None:
            keep = tl.trans(kept(dropout, place.bh, i0 + tl.arange(0, TILE)[:, None], j0, KEYS))
            weights = tl.where(keep, p * dropout.factor, 0.0)
            dp = tl.where(keep, dp * dropout.factor, 0.0)
        else:
            weights = p
        grad_v += product(weights.to(do.dtype), do, PRECISION, INTERPRETED)
        ds = p * (dp - line_at(delta, b, h, first_q, i, queries, 0.0))
        if MASKED or scores.mask is not None or scores.bias is not None:
            ds = tl.where(attends, ds, 0.0)
        if scores.cap is not None:
            ds = ds * (1.0 - capped * capped)
        grad_k += product(ds.to(q.dtype), q, PRECISION, INTERPRETED)
    return grad_k, grad_v


@triton.jit(
    do_not_specialize=[
        "most_queries", "most_keys", "heads", "group", "left", "right", "seed", "threshold",
        "factor", "line_batch", "line_head",
    ]
)  # fmt: skip
def attention_backward_keys_kernel(
    query, key, value, grad_output, lse_at, delta_at, grad_key, grad_value, scores,
    packed, most_queries, most_keys, heads, group, left,
    right, seed, threshold, factor,
    line_batch, line_head, scale,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Programs: tiles of KEYS of every head of key of every sequence, the first tile, which causal
    attention gives most queries, first."""
    sizes = Sizes(most_queries, most_keys, heads, group)
    window = Window(left, right)
    dropout = None
    if factor is not None:
        dropout = Dropout(tl.load(seed), threshold, factor)
    lse = Lines(lse_at, line_batch, line_head)
    delta = Lines(delta_at, line_batch, line_head)
    tiles = tl.cdiv(sizes.keys, KEYS)
    kv_heads = sizes.heads // sizes.group
    j0 = tl.program_id(0) % tiles * KEYS
    kv = tl.program_id(0) // tiles % kv_heads
    b = tl.program_id(0) // tiles // kv_heads
    first_q, first_k, queries, keys = sequence(packed, sizes, b)
    if j0 < keys:
        low, high = limits(window, queries, keys, CAUSAL)
        stop = first_k + keys
        k = rows_at(key, b, kv, first_k + j0, stop, KEYS, WIDTH, PADDED, True)
        v = rows_at(value, b, kv, first_k + j0, stop, KEYS, VALUE_WIDTH, VALUE_PADDED, True)
        grad_k = tl.zeros((KEYS, PADDED), tl.float32)
        grad_v = tl.zeros((KEYS, VALUE_PADDED), tl.float32)
        HAS_LOW: tl.constexpr = window.left is not None
        HAS_HIGH: tl.constexpr = CAUSAL or window.right is not None
        ALWAYS_MASKED: tl.constexpr = scores.mask is not None or scores.bias is not None
        last = tl.minimum(j0 + KEYS, keys) - 1
        # Key j is attended to by the queries j - high to j - low.
        start, full, edge, end = spans(j0, last, queries, -high, -low, HAS_HIGH, HAS_LOW, QUERIES)
        EDGE: tl.constexpr = None if ALWAYS_MASKED else 1
        if not HAS_LOW:  # beyond the queries there is no edge: the probability is 0
            edge = end
        if ALWAYS_MASKED:
            full = end
            edge = end
        for g in range(sizes.group):
            h = kv * sizes.group + g
            bh = b * sizes.heads + h
            place = Place(b, h, kv, bh, first_q, first_k, queries, keys, low, high, window)
            stop_q = full
            if ALWAYS_MASKED:  # no query attends to a tile of padding
                some = some_allowed(scores, b, h, j0 + tl.arange(0, KEYS), keys)
                stop_q = tl.where(some > 0, full, start)
            if ALWAYS_MASKED or HAS_HIGH:
                grad_k, grad_v = _queries_of_keys(
                    grad_k, grad_v, start, stop_q, k, v, query, grad_output, lse, delta, scores,
                    dropout, place, j0,
                    WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, QUERIES, KEYS, CAUSAL, True, FOLDED,
                    PRECISION, INTERPRETED, EDGE,
                )  # fmt: skip
            if not ALWAYS_MASKED:
                grad_k, grad_v = _queries_of_keys(
                    grad_k, grad_v, full, edge, k, v, query, grad_output, lse, delta, scores,
                    dropout, place, j0,
                    WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, QUERIES, KEYS, CAUSAL, False, FOLDED,
                    PRECISION, INTERPRETED, None,
                )  # fmt: skip
            if HAS_LOW and not ALWAYS_MASKED:
                grad_k, grad_v = _queries_of_keys(
                    grad_k, grad_v, edge, end, k, v, query, grad_output, lse, delta, scores,
                    dropout, place, j0,
                    WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, QUERIES, KEYS, CAUSAL, True, FOLDED,
                    PRECISION, INTERPRETED, 1,
                )  # fmt: skip
        if grad_key is not None:
            store_rows(grad_key, b, kv, first_k + j0, stop, grad_k * scale, KEYS, WIDTH, PADDED)
        if grad_value is not None:
            store_rows(
                grad_value, b, kv, first_k + j0, stop, grad_v, KEYS, VALUE_WIDTH, VALUE_PADDED
            )


def backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
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
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator `attention_backward` by the kernels.

    Raises:
        RuntimeError: the arguments do not fit together, or the call is larger than can be counted.
    """
    options = (scale, softcap, dropout_p, is_causal, window_left, window_right)
    call = operands(
        query, key, value, mask, bias, alibi_slopes, cu_seqlens_q, cu_seqlens_k, seed, *options
    )
    found = fake.attention_backward(query, key, value, bias, cu_seqlens_q, needs)
    with support.on_device_of(query):
        lse, delta = _lines(call, query, output, grad_output, grad_lse, sinks, lse.contiguous())
        _Pass(call, query, grad_output, lse, delta, scale).run(found, bias, needs)
    return found


def _lines(
    call: Operands,
    query: Tensor,
    output: Tensor,
    grad_output: Tensor,
    grad_lse: Tensor | None,
    sinks: Tensor | None,
    lse: Tensor,
) -> tuple[Tensor, Tensor]:
    """(lse, delta_i), laid out as lse: the forward's, or of small sequences their own."""
    delta, packed = torch.empty_like(lse), call.packed is not None
    copies: list[Tensor] = []
    of_output = rows_of(grad_output, packed, copies)
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    queries, keys = call.lengths or (
        torch.tensor([n], device="cpu") for n in (call.sizes.queries, call.sizes.keys)
    )
    small = sums_rows(queries, keys, query.dtype)
    tile = 64
    count = triton.cdiv(call.rows, tile) * call.sizes.heads * (1 if packed else call.batch)
    if count and not small.all():
        attention_delta_kernel[programs(count)](
            rows_of(output, packed, copies),
            of_output,
            grad_lse,
            delta,
            call.rows,
            call.sizes.heads,
            *call.lines,
            VALUE_WIDTH=call.value_width,
            VALUE_PADDED=padded(call.value_width),
            QUERIES=tile,
        )
    if small.any():
        lse = lse.clone()
        sum_rows(call, query, of_output, grad_lse, sinks, lse, delta)
    return lse, delta


class _Pass:
    """What the kernels of one backward call share."""

    def __init__(
        self,
        call: Operands,
        query: Tensor,
        grad_output: Tensor,
        lse: Tensor,
        delta: Tensor,
        scale: float,
    ) -> None:
        self.call = call
        self.is_packed = call.packed is not None
        self.copies: list[Tensor] = []
        self.of_rows = (
            call.query,
            call.key,
            call.value,
            rows_of(grad_output, self.is_packed, self.copies),
            lse,
            delta,
        )
        self.rest = (*call.numbers, *call.lines, scale)
        self.query = query
        # Both gradients of a tile of keys and what their products multiply are more than there are
        # registers: each gets a launch of its own.
        width = max(padded(call.width), padded(call.value_width))
        self.apart = width > 128 and query.dtype == torch.float32

    def constants(self, tiles: Tiles) -> dict[str, Any]:
        call = self.call
        return {
            "WIDTH": call.width,
            "VALUE_WIDTH": call.value_width,
            "PADDED": padded(call.width),
            "VALUE_PADDED": padded(call.value_width),
            "QUERIES": tiles.queries,
            "KEYS": tiles.keys,
            "CAUSAL": call.is_causal,
            "FOLDED": call.folded,
            "PRECISION": precision(self.query),
            "INTERPRETED": support.INTERPRETED,
            **tiles.options,
        }

    def run(self, found: tuple[Tensor, ...], bias: Tensor | None, needs: int) -> None:
        """Fills the gradients that `needs` asks for."""
        of_bias, of_slopes = found[3:]
        wide = [with_whole_groups(grad) for grad in found[:3]]
        grad_query, grad_key, grad_value = wide
        sizes = self.call.sizes
        full = (self.call.batch, sizes.heads, sizes.queries, sizes.keys)
        alone = bias is not None and bool(needs & BIAS) and tuple(bias.shape) == full
        if alone:
            of_bias.zero_()  # tiles that nobody attends to are not written
        if needs & (QUERY | SLOPES) or alone:
            self._queries(
                grad_query if needs & QUERY else None,
                Pairs(of_bias, *of_bias.stride()) if alone else None,
                of_slopes if needs & SLOPES else None,
            )
        of_key = grad_key if needs & KEY else None
        of_value = grad_value if needs & VALUE else None
        if of_key is not None and of_value is not None and self.apart:
            self._keys(of_key, None)
            self._keys(None, of_value)
        elif of_key is not None or of_value is not None:
            self._keys(of_key, of_value)
        if needs & BIAS and not alone:
            constants = self.constants(tiles_for("bias", self.call, self.query))
            grad_bias(of_bias, self.of_rows, call=self.call, constants=constants)
        for grad, filled in zip(found[:3], wide, strict=True):
            narrow_into(grad, filled)

    def _queries(
        self, grad_query: Tensor | None, of_bias: Pairs | None, of_slopes: Tensor | None
    ) -> None:
        call, sizes = self.call, self.call.sizes

        def launch(tiles: Tiles) -> None:
            count = triton.cdiv(sizes.queries, tiles.queries)
            parts = None
            if of_slopes is not None:  # one sum for each program: added up in a fixed order
                shape = (call.batch, sizes.heads, count)
                parts = self.query.new_zeros(shape, dtype=torch.float32)
            if count * sizes.heads * call.batch:
                attention_backward_queries_kernel[programs(count * sizes.heads * call.batch)](
                    *self.of_rows,
                    None if grad_query is None else written(grad_query, self.is_packed),
                    of_bias,
                    parts,
                    call.scores,
                    call.packed,
                    needed(call, tiles.keys),
                    *self.rest,
                    **self.constants(tiles),
                )
            if of_slopes is not None and parts is not None:
                torch.sum(parts, -1, out=of_slopes)

        launch(tiles_for("queries", call, self.query, launch))

    def _keys(self, grad_key: Tensor | None, grad_value: Tensor | None) -> None:
        call, sizes = self.call, self.call.sizes
        for grad in (grad_key, grad_value):
            if grad is not None and not sizes.heads:  # keys that no head of query uses
                grad.zero_()
        heads = sizes.heads // max(sizes.group, 1)

        def launch(tiles: Tiles) -> None:
            count = triton.cdiv(sizes.keys, tiles.keys) * heads * call.batch
            if count:
                attention_backward_keys_kernel[programs(count)](
                    *self.of_rows,
                    None if grad_key is None else written(grad_key, self.is_packed),
                    None if grad_value is None else written(grad_value, self.is_packed),
                    call.scores,
                    call.packed,
                    *self.rest,
                    **self.constants(tiles),
                )

        launch(tiles_for("keys", call, self.query, launch))
