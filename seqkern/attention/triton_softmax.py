"""The softmax of a tile of queries over keys that stream by, for the forward and for decoding.

`total` is the sum of values, each with the weight exp2(logit - top), `mass` the sum of the weights;
`top` is the largest logit so far, or nearly (Milakov & Gimelshein 2018, "Online normalizer
calculation for softmax"). Heads `h` and `lane` may be one for all rows, or of each row (rows, 1).
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqkern.attention.triton_tiles import inner, kept, kept_at, logits, product, row_at, rows_at


@triton.jit
def _absorb(
    total, top, mass, q, key, value, scores, dropout, window, b, h, kv, i, j0, first_k,
    queries, keys, low, high, lane,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """One tile of keys: (weighted sum, maximum, sum of exponentials) with these keys in them."""
    j = j0 + tl.arange(0, TILE)[None, :]
    k = rows_at(key, b, kv, first_k + j0, first_k + keys, TILE, WIDTH, PADDED, MASKED)
    s = inner(q, k, PRECISION, INTERPRETED)
    s, looks, _ = logits(
        s, scores, b, h, i, j, queries, keys, low, high, window, CAUSAL, MASKED, FOLDED
    )
    EXCLUDES: tl.constexpr = MASKED or scores.mask is not None or scores.bias is not None
    if EXCLUDES:
        s = tl.where(looks, s, -float("inf"))
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
        p = tl.where(kept(dropout, lane, i, j0, TILE), p, 0.0)
    v = rows_at(value, b, kv, first_k + j0, first_k + keys, TILE, VALUE_WIDTH, VALUE_PADDED, MASKED)
    total = total * shrink[:, None] + product(p.to(v.dtype), v, PRECISION, INTERPRETED)
    return total, higher, mass


@triton.jit
def sweep(
    total, top, mass, start, stop, q, key, value, scores, dropout, window, b, h, kv, i, first_k,
    queries, keys, low, high, lane,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, TILE: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr,
    FOLDED: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`_absorb` for the keys `start` to `stop`, STAGES tiles of which are under way; None: as many
    as the launch says. An edge is one tile or two, and not worth registers for that."""
    for j0 in tl.range(start, stop, TILE, num_stages=STAGES):
        total, top, mass = _absorb(
            total, top, mass, q, key, value, scores, dropout, window, b, h, kv, i, j0, first_k,
            queries, keys, low, high, lane,
            WIDTH, VALUE_WIDTH, PADDED, VALUE_PADDED, TILE, CAUSAL, MASKED, FOLDED,
            PRECISION, INTERPRETED,
        )  # fmt: skip
    return total, top, mass


@triton.jit
def apart(
    top, start, stop, q, key, value, scores, dropout, window, b, h, kv, i, first_k,
    queries, keys, low, high, lane,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr, CAUSAL: tl.constexpr, FOLDED: tl.constexpr,
):  # fmt: skip
    """The weighted sum once more, key by key. 0 * NaN is NaN, so that in a product the NaN of one
    key reaches every query of the tile; here it stays with those that look at it."""
    top = tl.where(top == -float("inf"), 0.0, top)[:, None]
    total = tl.zeros((q.shape[0], VALUE_PADDED), tl.float32)
    for j in tl.range(start, stop, num_stages=1):
        k = row_at(key, b, kv, first_k + j, WIDTH, PADDED)
        s = tl.sum(q.to(tl.float32) * k, axis=1)[:, None]
        s, looks, _ = logits(
            s, scores, b, h, i, j + i * 0, queries, keys, low, high, window, CAUSAL, True, FOLDED
        )
        if FOLDED:
            s = s * scores.scale
        p = tl.exp2(s - top)
        if dropout is not None:
            p = tl.where(kept_at(dropout, lane, i, j), p, 0.0)
        v = row_at(value, b, kv, first_k + j, VALUE_WIDTH, VALUE_PADDED)
        total += tl.where(looks, p * v, 0.0)
    return total
