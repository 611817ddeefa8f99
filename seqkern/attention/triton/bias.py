"""The gradient of a bias that is broadcast: one program for a tile of the bias.

It loops over everything that shares the tile (sequences, heads, all queries, all keys) and
computes their dS anew, so that nothing of the size of all scores is stored and nobody adds to what
another program writes.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from seqkern.attention.triton.operands import (
    Dropout,
    Lines,
    Operands,
    Pairs,
    Place,
    Sizes,
    Window,
    programs,
)
from seqkern.attention.triton.tiles import (
    inner,
    kept,
    keys_at,
    limits,
    line_at,
    logits,
    logsumexp_at,
    probabilities,
    rows_at,
    some_allowed,
    store_pairs,
)


@triton.jit(
    do_not_specialize=[
        "most_queries", "most_keys", "heads", "group", "left", "right", "seed", "threshold",
        "factor", "line_batch", "line_head", "batch", "own_batch",
        "own_heads",
    ]
)  # fmt: skip
def attention_backward_bias_kernel(
    query, key, value, grad_output, lse_at, delta_at, grad_bias, scores, most_queries, most_keys,
    heads, group, left, right, seed, threshold, factor, line_batch, line_head,
    batch, own_batch, own_heads,
    ROWS_SHARED: tl.constexpr, COLUMNS_SHARED: tl.constexpr,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Programs: the tiles of the bias, which is own of own_batch sequences and own_heads heads."""
    sizes = Sizes(most_queries, most_keys, heads, group)
    window = Window(left, right)
    dropout = None
    if factor is not None:
        dropout = Dropout(tl.load(seed), threshold, factor)
    lse = Lines(lse_at, line_batch, line_head)
    delta = Lines(delta_at, line_batch, line_head)
    zero = tl.program_id(0) * 0  # what a number plus it is has methods, interpreted too
    queries = sizes.queries + zero
    keys = sizes.keys + zero
    column_tiles = tl.cdiv(keys, KEYS)
    row_tiles = tl.cdiv(queries, QUERIES)
    own_columns = column_tiles
    own_rows = row_tiles
    if COLUMNS_SHARED:
        own_columns = own_columns * 0 + 1
    if ROWS_SHARED:
        own_rows = own_rows * 0 + 1
    rest = tl.program_id(0)
    first_column = rest % own_columns
    rest = rest // own_columns
    first_row = rest % own_rows
    rest = rest // own_rows
    first_h = rest % own_heads
    first_b = rest // own_heads
    low, high = limits(window, queries, keys, CAUSAL)
    total = tl.zeros((QUERIES, KEYS), tl.float32)
    # Steps of own sizes: exactly one round where nothing is shared.
    for b in range(first_b, batch, own_batch):
        for h in range(first_h, sizes.heads, own_heads):
            for row in range(first_row, row_tiles, own_rows):
                for column in range(first_column, column_tiles, own_columns):
                    i0 = row * QUERIES + zero
                    j0 = column * KEYS + zero
                    seen = j0 >= 0
                    if CAUSAL or window.right is not None:
                        seen = seen & (j0 <= i0 + QUERIES - 1 + high)
                    if window.left is not None:
                        seen = seen & (j0 + KEYS - 1 >= i0 + low)
                    some = some_allowed(scores, b + zero, h + zero, j0 + tl.arange(0, KEYS), keys)
                    seen = seen & (some > 0)
                    if seen:
                        place = Place(
                            b + zero, h + zero, h // sizes.group + zero,
                            b * sizes.heads + h + zero, zero, zero, queries, keys, low, high,
                            window,
                        )  # fmt: skip
                        total += _tile(
                            query, key, value, grad_output, lse, delta, scores, dropout, place,
                            i0, j0,
                            WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, QUERIES, KEYS, CAUSAL,
                            FOLDED, PRECISION, INTERPRETED,
                        )  # fmt: skip
    i = first_row * QUERIES + tl.arange(0, QUERIES)[:, None]
    j = first_column * KEYS + tl.arange(0, KEYS)[None, :]
    if ROWS_SHARED:
        total = tl.sum(total, axis=0)[None, :]
        i = tl.zeros((1, 1), tl.int32)
    if COLUMNS_SHARED:
        total = tl.sum(total, axis=1)[:, None]
        j = tl.zeros((1, 1), tl.int32)
    store_pairs(grad_bias, first_b, first_h, i, j, queries, keys, total)


@triton.jit
def _tile(
    query, key, value, grad_output, lse, delta, scores, dropout, place, i0, j0,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """dS of one tile; 0 beyond the queries and keys."""
    i = i0 + tl.arange(0, QUERIES)[:, None]
    j = j0 + tl.arange(0, KEYS)[None, :]
    b, h, queries = place.b, place.h, place.queries
    q = rows_at(query, b, h, i0, queries, QUERIES, WIDTH, PADDED, True)
    k = keys_at(key, None, place, j0, KEYS, WIDTH, PADDED, True)
    s = inner(q, k, PRECISION, INTERPRETED)
    s, attends, _ = logits(s, scores, place, i, j, CAUSAL, True, FOLDED)
    p = probabilities(s, attends, logsumexp_at(lse, b, h, 0, i, queries), scores, True, FOLDED)
    do = rows_at(grad_output, b, h, i0, queries, QUERIES, VALUE_WIDTH, VALUE_PADDED, True)
    v = keys_at(value, None, place, j0, KEYS, VALUE_WIDTH, VALUE_PADDED, True)
    dp = inner(do, v, PRECISION, INTERPRETED)
    if dropout is not None:
        dp = tl.where(kept(dropout, place.bh, i, j0, KEYS), dp * dropout.factor, 0.0)
    ds = p * (dp - line_at(delta, b, h, 0, i, queries, 0.0))
    return tl.where(attends, ds, 0.0)


def grad_bias(
    of_bias: Tensor,
    of_rows: tuple[Any, ...],
    call: Operands,
    constants: dict[str, Any],
) -> None:
    """Fills `of_bias`, whose shape is that of the bias.

    Args:
        of_rows: query, key, value, grad_output, lse, delta.
    """
    rows, columns = of_bias.shape[2:]
    shared = (rows == 1, columns == 1)
    tiles = (1 if shared[0] else triton.cdiv(rows, constants["QUERIES"])) * (
        1 if shared[1] else triton.cdiv(columns, constants["KEYS"])
    )
    if not of_bias.numel() or not min(call.batch, *call.sizes):
        of_bias.zero_()
        return
    attention_backward_bias_kernel[programs(of_bias.shape[0] * of_bias.shape[1] * tiles)](
        *of_rows,
        Pairs(of_bias, *of_bias.stride()),
        call.scores,
        *call.numbers,
        *call.lines,
        call.batch,
        *of_bias.shape[:2],
        ROWS_SHARED=shared[0],
        COLUMNS_SHARED=shared[1],
        **constants,
    )
