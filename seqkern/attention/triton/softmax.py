"""The softmax of a tile of queries over keys that stream by, for the forward and for decoding.

`total` is the sum of values, each with the weight exp2(logit - top), `mass` the sum of the weights;
`top` is the largest logit so far, or nearly (Milakov & Gimelshein 2018, "Online normalizer
calculation for softmax"). The head of a `Place` may be one for all rows, or of each row (rows, 1).
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqkern.attention.triton.tiles import (
    inner,
    kept,
    kept_at,
    keys_at,
    logits,
    product,
    row_at,
    tile_at,
)


@triton.jit
def _absorb(
    total, top, mass, q, key, value, key_blocks, value_blocks, scores, dropout, place, i, j0,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """One tile of keys: (weighted sum, maximum, sum of exponentials) with these keys in them."""
    j = j0 + tl.arange(0, TILE)[None, :]
    k = keys_at(key, key_blocks, place, j0, TILE, WIDTH, PADDED, MASKED)
    s = inner(q, k, PRECISION, INTERPRETED)
    s, attends, _ = logits(s, scores, place, i, j, CAUSAL, MASKED, FOLDED)
    EXCLUDES: tl.constexpr = MASKED or scores.mask is not None or scores.bias is not None
    if EXCLUDES:
        s = tl.where(attends, s, -float("inf"))
    if FOLDED:
        higher = tl.maximum(top, tl.max(s, axis=1) * scores.scale)
    else:
        higher = tl.maximum(top, tl.max(s, axis=1))
    finite = higher
    if EXCLUDES:  # a row may have seen nothing yet
        finite = tl.where(higher == -float("inf"), 0.0, higher)
    if FOLDED:
        p = tl.exp2(s * scores.scale - finite[:, None])
    else:
        p = tl.exp2(s - finite[:, None])
    shrink = tl.exp2(top - finite)
    mass = mass * shrink + tl.sum(p, axis=1)
    if dropout is not None:
        p = tl.where(kept(dropout, place.bh, i, j0, TILE), p, 0.0)
    v = keys_at(value, value_blocks, place, j0, TILE, VALUE_WIDTH, VALUE_PADDED, MASKED)
    total = total * shrink[:, None] + product(p.to(v.dtype), v, PRECISION, INTERPRETED)
    return total, higher, mass


@triton.jit
def sweep(
    total, top, mass, listed, first, last, q, key, value, key_blocks, value_blocks, scores,
    dropout, place, i,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`_absorb` for the tiles `first` to `last` of the keys, or those places of a list of tiles.
    STAGES of them are under way; None: as many as the launch says. An edge is one tile or two, and
    not worth registers for that."""
    for t in tl.range(first, last, num_stages=STAGES):
        total, top, mass = _absorb(
            total, top, mass, q, key, value, key_blocks, value_blocks, scores, dropout, place, i,
            tile_at(listed, t, TILE),
            WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, TILE, CAUSAL, MASKED, FOLDED,
            PRECISION, INTERPRETED,
        )  # fmt: skip
    return total, top, mass


@triton.jit
def apart(
    top, start, stop, q, key, value, scores, dropout, place, i,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, CAUSAL: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """The weighted sum once more, key by key. 0 * NaN is NaN, so that in a product the NaN of one
    key reaches every query of the tile; here it stays with those that attend to it."""
    top = tl.where(top == -float("inf"), 0.0, top)[:, None]
    total = tl.zeros((q.shape[0], VALUE_PADDED), tl.float32)
    for j in tl.range(start, stop, num_stages=1):
        k = row_at(key, place.b, place.kv, place.first_k + j, WIDTH, PADDED)
        s = tl.sum(q.to(tl.float32) * k, axis=1)[:, None]
        s, attends, _ = logits(s, scores, place, i, j + i * 0, CAUSAL, True, FOLDED)
        if FOLDED:
            s = s * scores.scale
        p = tl.exp2(s - top)
        if dropout is not None:
            p = tl.where(kept_at(dropout, place.bh, i, j), p, 0.0)
        v = row_at(value, place.b, place.kv, place.first_k + j, VALUE_WIDTH, VALUE_PADDED)
        total += tl.where(attends, p * v, 0.0)
    return total
