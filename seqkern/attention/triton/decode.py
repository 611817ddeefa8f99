"""Attention of few queries over many keys in Triton: the keys are split among programs.

A tile of queries of each head would leave most of a GPU idle, and read each key once for every head
that shares it. Here a program takes the queries of all heads that share a key, which are rows of
one tile, and a part of the keys; a second kernel joins the parts by their log-sum-exps (Dao,
Haziza, Massa & Sizov 2023, "Flash-Decoding for long-context inference").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqkern.attention.triton.operands import (
    Dropout,
    Operands,
    Place,
    Sizes,
    Window,
    padded,
    precision,
    programs,
    sinks_of,
    written,
)
from seqkern.attention.triton.skipping import needed, within
from seqkern.attention.triton.softmax import apart, sweep
from seqkern.attention.triton.tiles import any_nan, limits, row_start, sequence, spans, tile_at
from seqkern.attention.triton.tuning import tiles_for
from seqkern.core.triton import support

MOST_ROWS = 64  # queries times heads that share a key
FEWEST_KEYS = 256  # with less there is nothing to split
_MOST_PARTS = 64


def suits(call: Operands) -> bool:
    """Whether the call is one of few queries and many keys."""
    sizes = call.sizes
    rows = sizes.queries * sizes.group
    return 0 < rows <= MOST_ROWS and sizes.keys >= FEWEST_KEYS


@triton.jit(
    do_not_specialize=[
        "most_queries", "most_keys", "heads", "group", "left", "right", "seed", "threshold",
        "factor", "line_batch", "line_head", "line_part", "parts",
    ]
)  # fmt: skip
def attention_decode_kernel(
    query, key, value, part, part_lse_at, scores, packed, needed_tiles, most_queries, most_keys,
    heads, group, left, right, seed, threshold, factor, line_batch, line_head,
    line_part, parts,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp (in units of log 2) over one part of the keys. Programs: the parts of
    every head of key of every sequence; a part is one more dimension before those of the output."""
    sizes = Sizes(most_queries, most_keys, heads, group)
    window = Window(left, right)
    dropout = None
    if factor is not None:
        dropout = Dropout(tl.load(seed), threshold, factor)
    at_part = tl.program_id(0) % parts
    kv_heads = sizes.heads // sizes.group
    kv = tl.program_id(0) // parts % kv_heads
    b = tl.program_id(0) // parts // kv_heads
    first_q, first_k, queries, keys = sequence(packed, sizes, b)
    if queries > 0:
        low, high = limits(window, queries, keys, CAUSAL)
        r = tl.arange(0, ROWS)[:, None]
        real = r < queries * sizes.group
        i = r % queries
        h = kv * sizes.group + tl.minimum(r // queries, sizes.group - 1)
        bh = b * sizes.heads + h
        place = Place(b, h, kv, bh, first_q, first_k, queries, keys, low, high, window)
        d = tl.arange(0, PADDED)[None, :]
        at = query.at + row_start(query, b, h, first_q + i, WIDTH) + d
        q = tl.load(at, mask=real & (d < WIDTH), other=0.0)
        HAS_LOW: tl.constexpr = window.left is not None
        HAS_HIGH: tl.constexpr = CAUSAL or window.right is not None
        start, _, _, end = spans(0 * b, queries - 1, keys, low, high, HAS_LOW, HAS_HIGH, KEYS)
        if needed_tiles is not None:
            listed, first_t, last_t = within(needed_tiles, b, b * 0, start, end, KEYS)
        else:
            listed = None
            first_t = start // KEYS
            last_t = tl.cdiv(end, KEYS)
        own = tl.cdiv(tl.maximum(last_t - first_t, 0), parts)
        first_t += at_part * own
        last_t = tl.minimum(last_t, first_t + own)
        top = tl.full((ROWS,), -float("inf"), tl.float32)
        mass = tl.zeros((ROWS,), tl.float32)
        total = tl.zeros((ROWS, VALUE_PADDED), tl.float32)
        total, top, mass = sweep(
            total, top, mass, listed, first_t, last_t, q, key, value, None, None, scores, dropout,
            place, i,
            WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, KEYS, CAUSAL, True, FOLDED,
            PRECISION, INTERPRETED, None,
        )  # fmt: skip
        if scores.mask is not None or scores.bias is not None or HAS_LOW or HAS_HIGH:
            if any_nan(total):  # perhaps from keys that some query does not attend to
                start = tile_at(listed, first_t, KEYS)
                end = tl.minimum(end, tile_at(listed, last_t - 1, KEYS) + KEYS)
                total = apart(
                    top, start, end, q, key, value, scores, dropout, place, i,
                    WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, CAUSAL, FOLDED,
                )  # fmt: skip
        if dropout is not None:
            total = total * dropout.factor
        mass = tl.where(mass == 0, 1.0, mass)  # of a row that saw nothing: top is -inf
        total = total / mass[:, None]
        d = tl.arange(0, VALUE_PADDED)[None, :]
        row = (first_q + i).to(tl.int64)
        base = b.to(tl.int64) * part.batch + h.to(tl.int64) * part.head
        at = part.at + at_part.to(tl.int64) * part.part + base + row * part.row
        tl.store(at + d, total, mask=real & (d < VALUE_WIDTH))
        base = b.to(tl.int64) * line_batch + h.to(tl.int64) * line_head
        at = part_lse_at + at_part.to(tl.int64) * line_part + base + row
        tl.store(at, (top + tl.log2(mass))[:, None], mask=real)


@triton.jit(do_not_specialize=["rows", "heads", "line_batch", "line_head", "line_part", "parts"])
def attention_join_kernel(
    part, part_lse_at, output, lse_at, sinks, rows, heads, line_batch, line_head, line_part, parts,
    VALUE_WIDTH: tl.constexpr, VALUE_PADDED: tl.constexpr,
):  # fmt: skip
    """Joins the parts. Programs: every row of every head in memory."""
    row = tl.program_id(0) % rows
    h = tl.program_id(0) // rows % heads
    b = tl.program_id(0) // rows // heads
    d = tl.arange(0, VALUE_PADDED)
    real = d < VALUE_WIDTH
    base = b.to(tl.int64) * part.batch + h.to(tl.int64) * part.head
    numbers = part.at + base + row.to(tl.int64) * part.row
    line = b.to(tl.int64) * line_batch + h.to(tl.int64) * line_head + row
    logs = part_lse_at + line
    top = tl.full((), -float("inf"), tl.float32)
    mass = 0.0
    total = tl.zeros((VALUE_PADDED,), tl.float32)
    if sinks is not None:
        top = tl.load(sinks.at + h) * 1.4426950408889634
        mass += tl.where(top == -float("inf"), 0.0, 1.0)
    for p in range(0, parts):
        at = tl.cast(p, tl.int64)
        log = tl.load(logs + at * line_part)
        higher = tl.maximum(top, log)
        finite = tl.where(higher == -float("inf"), 0.0, higher)
        shrink = tl.exp2(top - finite)
        weight = tl.exp2(log - finite)  # 0 for a part that saw nothing
        values = tl.load(numbers + at * part.part + d, mask=real, other=0.0)
        total = total * shrink + values * weight
        mass = mass * shrink + weight
        top = higher
    mass = tl.where(mass == 0, 1.0, mass)
    base = b.to(tl.int64) * output.batch + h.to(tl.int64) * output.head
    at = output.at + base + row.to(tl.int64) * output.row + d
    tl.store(at, (total / mass).to(output.at.dtype.element_ty), mask=real)
    tl.store(lse_at + line, (top + tl.log2(mass)) * 0.6931471805599453)


class PartRows(NamedTuple):
    """`Rows` with one more dimension in front."""

    at: Any
    part: int
    batch: int
    head: int
    row: int


def launch(
    call: Operands, query: Tensor, sinks: Tensor | None, output: Tensor, lse: Tensor
) -> None:
    """Fills output and lse, as the forward's launch does."""
    sizes, packed = call.sizes, call.packed is not None
    kv_heads = sizes.heads // max(sizes.group, 1)
    tiles = tiles_for("decode", call, query)
    wanted = 2 * support.processors(query.device)
    parts = min(
        triton.cdiv(wanted, max(call.batch * kv_heads, 1)),
        triton.cdiv(sizes.keys, tiles.keys),
        _MOST_PARTS,
    )
    numbers = query.new_empty((parts, *output.shape), dtype=torch.float32)
    logs = query.new_empty((parts, *lse.shape), dtype=torch.float32)
    rows = written(numbers[0], packed)
    part = PartRows(numbers, numbers.stride(0), *rows[1:])
    lines = (*call.lines, lse.numel())
    count = parts * kv_heads * call.batch
    if not count:
        return
    attention_decode_kernel[programs(count)](
        call.query,
        call.key,
        call.value,
        part,
        logs,
        call.scores,
        call.packed,
        needed(call, tiles.keys, any_head=False),
        *call.numbers,
        *lines,
        parts,
        WIDTH=call.width,
        VALUE_WIDTH=call.value_width,
        PADDED=padded(call.width),
        VALUE_PADDED=padded(call.value_width),
        ROWS=padded(sizes.queries * sizes.group),
        KEYS=tiles.keys,
        CAUSAL=call.is_causal,
        FOLDED=call.folded,
        PRECISION=precision(query),
        INTERPRETED=support.INTERPRETED,
        **tiles.options,
    )
    joined = call.rows * sizes.heads * (1 if packed else call.batch)
    attention_join_kernel[programs(joined)](
        part,
        logs,
        written(output, packed),
        lse,
        sinks_of(sinks, sizes.heads),
        call.rows,
        sizes.heads,
        *lines,
        parts,
        VALUE_WIDTH=call.value_width,
        VALUE_PADDED=padded(call.value_width),
        num_warps=1,
    )
