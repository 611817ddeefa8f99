"""Attention forward in Triton: one program for a tile of queries of one head.

FlashAttention-2's order (Dao 2023): queries stay, keys stream by, the softmax is kept as a running
maximum and a running sum. Tiles of keys that no query of the tile attends to are skipped, those
that all attend to do not ask. On Hopper and later the plain call loads by tensor descriptors
(`descriptors`).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from seqkern.attention import fake
from seqkern.attention.triton import decode, descriptors
from seqkern.attention.triton.operands import (
    Dropout,
    Lines,
    Operands,
    Place,
    Sizes,
    Window,
    narrow_into,
    operands,
    padded,
    precision,
    programs,
    sinks_of,
    with_whole_groups,
    written,
)
from seqkern.attention.triton.settings import Tiles
from seqkern.attention.triton.skipping import needed, within
from seqkern.attention.triton.softmax import apart, sweep
from seqkern.attention.triton.tiles import any_nan, limits, rows_at, sequence, spans, store_rows
from seqkern.attention.triton.tuning import tiles_for
from seqkern.core.triton import support


@triton.jit(
    do_not_specialize=[
        "most_queries", "most_keys", "heads", "group", "left", "right", "seed", "threshold",
        "factor", "line_batch", "line_head",
    ]
)  # fmt: skip
def attention_forward_kernel(
    query, key, value, query_blocks, key_blocks, value_blocks, output, lse_at, scores, sinks,
    packed, needed_tiles, most_queries, most_keys, heads, group, left, right, seed,
    threshold, factor, line_batch, line_head,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Programs: tiles of QUERIES of every head of every sequence, the last tile, which causal
    attention gives most keys, first."""
    sizes = Sizes(most_queries, most_keys, heads, group)
    window = Window(left, right)
    dropout = None
    if factor is not None:
        dropout = Dropout(tl.load(seed), threshold, factor)
    lse = Lines(lse_at, line_batch, line_head)
    tiles = tl.cdiv(sizes.queries, QUERIES)
    tile = tiles - 1 - tl.program_id(0) % tiles
    h = tl.program_id(0) // tiles % sizes.heads
    b = tl.program_id(0) // tiles // sizes.heads
    kv = h // sizes.group
    first_q, first_k, queries, keys = sequence(packed, sizes, b)
    i0 = tile * QUERIES
    if i0 < queries:
        low, high = limits(window, queries, keys, CAUSAL)
        bh = b * sizes.heads + h
        place = Place(b, h, kv, bh, first_q, first_k, queries, keys, low, high, window)
        i = i0 + tl.arange(0, QUERIES)[:, None]
        if query_blocks is not None:
            q = tl.reshape(query_blocks.load([b, h, i0, 0]), (QUERIES, PADDED))
        else:
            q = rows_at(query, b, h, first_q + i0, first_q + queries, QUERIES, WIDTH, PADDED, True)
        top = tl.full((QUERIES,), -float("inf"), tl.float32)
        mass = tl.zeros((QUERIES,), tl.float32)
        total = tl.zeros((QUERIES, VALUE_PADDED), tl.float32)
        HAS_LOW: tl.constexpr = window.left is not None
        HAS_HIGH: tl.constexpr = CAUSAL or window.right is not None
        ALWAYS_MASKED: tl.constexpr = scores.mask is not None or scores.bias is not None
        last = tl.minimum(i0 + QUERIES, queries) - 1
        start, full, edge, end = spans(i0, last, keys, low, high, HAS_LOW, HAS_HIGH, KEYS)
        if ALWAYS_MASKED:
            if needed_tiles is not None:
                listed, first_t, last_t = within(needed_tiles, b, h, start, end, KEYS)
            else:
                listed = None
                first_t = start // KEYS
                last_t = tl.cdiv(end, KEYS)
            total, top, mass = sweep(
                total, top, mass, listed, first_t, last_t, q, key, value, key_blocks, value_blocks,
                scores, dropout, place, i,
                WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, KEYS, CAUSAL, True, FOLDED,
                PRECISION, INTERPRETED, None,
            )  # fmt: skip
        else:
            if HAS_LOW:
                total, top, mass = sweep(
                    total, top, mass, None, start // KEYS, full // KEYS, q, key, value,
                    key_blocks, value_blocks, scores, dropout, place, i,
                    WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, KEYS, CAUSAL, True, FOLDED,
                    PRECISION, INTERPRETED, 1,
                )  # fmt: skip
            total, top, mass = sweep(
                total, top, mass, None, full // KEYS, edge // KEYS, q, key, value, key_blocks,
                value_blocks, scores, dropout, place, i,
                WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, KEYS, CAUSAL, False, FOLDED,
                PRECISION, INTERPRETED, None,
            )  # fmt: skip
            total, top, mass = sweep(
                total, top, mass, None, edge // KEYS, tl.cdiv(end, KEYS), q, key, value, key_blocks,
                value_blocks, scores, dropout, place, i,
                WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, KEYS, CAUSAL, True, FOLDED,
                PRECISION, INTERPRETED, 1,
            )  # fmt: skip
        if ALWAYS_MASKED or HAS_LOW or HAS_HIGH:
            if any_nan(total):  # perhaps from keys that some query does not attend to
                q = rows_at(
                    query, b, h, first_q + i0, first_q + queries, QUERIES, WIDTH, PADDED, True
                )
                total = apart(
                    top, start, end, q, key, value, scores, dropout, place, i,
                    WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, CAUSAL, FOLDED,
                )  # fmt: skip
        if sinks is not None:
            sink = tl.load(sinks.at + h) * 1.4426950408889634
            higher = tl.maximum(top, sink)
            finite = tl.where(higher == -float("inf"), 0.0, higher)
            total = total * tl.exp2(top - finite)[:, None]
            mass = mass * tl.exp2(top - finite) + tl.exp2(sink - finite)
            top = higher
        if dropout is not None:
            total = total * dropout.factor
        mass = tl.where(mass == 0, 1.0, mass)  # of a row that saw nothing: top is -inf
        total = total / mass[:, None]
        store_rows(
            output, b, h, first_q + i0, first_q + queries, total, QUERIES, VALUE_WIDTH, VALUE_PADDED
        )
        r = i0 + tl.arange(0, QUERIES)
        at = lse.at + b.to(tl.int64) * lse.batch + h.to(tl.int64) * lse.head + first_q
        tl.store(at + r, (top + tl.log2(mass)) * 0.6931471805599453, mask=r < queries)


def forward(
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
    """The operator `attention_forward` by the kernel.

    Raises:
        RuntimeError: the arguments do not fit together, or the call is larger than can be counted.
    """
    options = (scale, softcap, dropout_p, is_causal, window_left, window_right)
    call = operands(
        query, key, value, mask, bias, alibi_slopes, cu_seqlens_q, cu_seqlens_k, seed, *options
    )
    output, lse = fake.attention_forward(query, value, cu_seqlens_q)
    with support.on_device_of(query):
        launch = decode.launch if decode.suits(call) else _launch
        wide = with_whole_groups(output)
        launch(call, query, sinks, wide, lse)
        narrow_into(output, wide)
    return output, lse


def _launch(
    call: Operands, query: Tensor, sinks: Tensor | None, output: Tensor, lse: Tensor
) -> None:
    if not call.sizes.queries * call.sizes.heads * call.batch:
        return
    described = descriptors.suit(call, support.capability(query.device))

    def run(tiles: Tiles) -> None:
        _run(call, query, sinks, output, lse, tiles, described)

    kernel = "forward by descriptors" if described else "forward"
    run(tiles_for(kernel, call, query, run if sinks is None else None))


def _run(
    call: Operands,
    query: Tensor,
    sinks: Tensor | None,
    output: Tensor,
    lse: Tensor,
    tiles: Tiles,
    described: bool,
) -> None:
    sizes = call.sizes
    count = triton.cdiv(sizes.queries, tiles.queries) * sizes.heads * call.batch
    attention_forward_kernel[programs(count)](
        call.query,
        call.key,
        call.value,
        *(descriptors.blocks(call, tiles) if described else (None, None, None)),
        written(output, call.packed is not None),
        lse,
        call.scores,
        sinks_of(sinks, sizes.heads),
        call.packed,
        needed(call, tiles.keys),
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
        **tiles.options,
    )
