"""What the Triton kernels of attention do with one tile of queries and keys.

Numbers of queries `i` and keys `j` come as int32 tensors that broadcast to the tile, (queries,
keys) in the forward and for dQ, (keys, queries) for dK and dV: none of these functions cares which.
Scores are kept in units of log 2, for which GPUs have an instruction.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(a, b, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """a @ b in float32."""
    if INTERPRETED:  # which multiplies the bits of bfloat16
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def inner(a, b, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """a @ b.T in float32.

    Long rows are cut into parts, as a batch of products to be added: where float32 numbers are
    multiplied one by one, because a thread holds all that it multiplies of a row and of a column;
    in a small tile of results, because the warps share it out in 16 x 8, and where there are fewer
    of these than warps each would hold whole rows and do what others do, too.
    """
    ROWS: tl.constexpr = a.shape[0]
    COLUMNS: tl.constexpr = b.shape[0]
    WIDTH: tl.constexpr = a.shape[1]
    PARTS: tl.constexpr = 4
    ONE_BY_ONE: tl.constexpr = a.dtype == tl.float32 and PRECISION == "ieee"
    SMALL: tl.constexpr = ROWS * COLUMNS <= 512 or INTERPRETED  # which then tests it
    if (ONE_BY_ONE and WIDTH > 64) or (SMALL and WIDTH > 128):
        a = tl.permute(tl.reshape(a, (ROWS, PARTS, WIDTH // PARTS)), (1, 0, 2))
        b = tl.permute(tl.reshape(b, (COLUMNS, PARTS, WIDTH // PARTS)), (1, 2, 0))
        return tl.sum(product(a, b, PRECISION, INTERPRETED), axis=0)
    else:
        return product(a, tl.trans(b), PRECISION, INTERPRETED)


@triton.jit
def whole(stride, WIDTH: tl.constexpr):
    """A stride of a `Rows`, said to be a multiple of 8 (which `operands` sees to), so that
    the compiler has a thread load 8 neighbours at once. Of multiples of 16 Triton tells it."""
    if WIDTH % 16 == 0:
        return stride
    else:
        return stride // 8 * 8


@triton.jit
def row_start(x, b, h, row, WIDTH: tl.constexpr):
    """Where a row of a `Rows` starts: a 64-bit offset."""
    of_head = b.to(tl.int64) * whole(x.batch, WIDTH) + h.to(tl.int64) * whole(x.head, WIDTH)
    return of_head + row.to(tl.int64) * whole(x.row, WIDTH)


@triton.jit
def rows_at(
    x, b, h, first, count, COUNT: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    CHECKED: tl.constexpr,
):  # fmt: skip
    """Rows `first` ... `first` + COUNT - 1 of a `Rows`, (COUNT, PADDED); 0 beyond WIDTH and, where
    CHECKED, from row `count` on."""
    r = tl.arange(0, COUNT)[:, None]
    d = tl.arange(0, PADDED)[None, :]
    at = x.at + row_start(x, b, h, first, WIDTH) + (r * whole(x.row, WIDTH) + d)
    if CHECKED and PADDED != WIDTH:
        return tl.load(at, mask=(first + r < count) & (d < WIDTH), other=0.0)
    elif CHECKED:
        return tl.load(at, mask=first + r < count, other=0.0)
    elif PADDED != WIDTH:
        return tl.load(at, mask=d < WIDTH, other=0.0)
    else:
        return tl.load(at)


@triton.jit
def keys_at(
    x, blocks, place, j0, TILE: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    CHECKED: tl.constexpr,
):  # fmt: skip
    """`rows_at` of keys or values: by pointers, or by a tensor descriptor where there is one,
    which gives 0 beyond its edges by itself."""
    if blocks is not None:
        return tl.reshape(blocks.load([place.b, place.kv, j0, 0]), (TILE, PADDED))
    else:
        first = place.first_k + j0
        stop = place.first_k + place.keys
        return rows_at(x, place.b, place.kv, first, stop, TILE, WIDTH, PADDED, CHECKED)


@triton.jit
def row_at(x, b, h, row, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """One row of a `Rows` in float32, (1, PADDED). Loaded as a vector: from a matrix of one row
    Triton would hand down a layout in which every thread holds all rows of what meets it."""
    d = tl.arange(0, PADDED)
    return tl.load(x.at + row_start(x, b, h, row, WIDTH) + d, mask=d < WIDTH, other=0.0).to(
        tl.float32
    )[None, :]


@triton.jit
def store_rows(
    x, b, h, first, count, rows, COUNT: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr
):
    """Writes what `rows_at` with CHECKED reads."""
    r = tl.arange(0, COUNT)[:, None]
    d = tl.arange(0, PADDED)[None, :]
    at = x.at + row_start(x, b, h, first, WIDTH) + (r * whole(x.row, WIDTH) + d)
    tl.store(at, rows.to(x.at.dtype.element_ty), mask=(first + r < count) & (d < WIDTH))


@triton.jit
def sequence(packed, sizes, b):
    """(first query row, first key row, queries, keys) of sequence b; the rows are 0 unless the
    sequences are packed."""
    if packed is not None:
        first_q = tl.load(packed.queries + b)
        first_k = tl.load(packed.keys + b)
        queries = tl.load(packed.queries + b + 1) - first_q
        keys = tl.load(packed.keys + b + 1) - first_k
        return first_q, first_k, queries, keys
    else:
        return b * 0, b * 0, b * 0 + sizes.queries, b * 0 + sizes.keys


@triton.jit
def limits(window, queries, keys, CAUSAL: tl.constexpr):
    """(low, high): query i attends to the keys i + low to i + high; meaningless where unlimited."""
    low = queries * 0
    high = queries * 0
    if window.left is not None:
        low = keys - queries - window.left
    if window.right is not None:
        high = keys - queries + window.right
        if CAUSAL:
            high = tl.minimum(high, 0)
    return low, high


@triton.jit
def tanh(x):
    """To float32 precision: the series where 1 - exp(-2 |x|) would lose digits."""
    x2 = x * x
    series = x2 * (-1382.0 / 155925.0) + 62.0 / 2835.0
    series = series * x2 - 17.0 / 315.0
    series = series * x2 + 2.0 / 15.0
    series = series * x2 - 1.0 / 3.0
    series = x + x * x2 * series
    e = tl.exp2(tl.abs(x) * -2.8853900817779268)  # 2 log2(e)
    far = (1.0 - e) / (1.0 + e)
    far = tl.where(x < 0, -far, far)
    return tl.where(tl.abs(x) < 0.3, series, far)


@triton.jit
def pairs_at(x, place, i, j, other, MASKED: tl.constexpr):
    """The element (i, j) of a `Pairs` in every place of the tile, or of its one row where all
    queries share that; `other` beyond the keys, if the tile is MASKED, and some other query's
    beyond the queries."""
    at = x.at + (place.b.to(tl.int64) * x.batch + place.h.to(tl.int64) * x.head)
    inside = j < place.keys
    if x.row is not None:
        at += tl.minimum(i, place.queries - 1).to(tl.int64) * x.row
        inside = inside & (i >= 0)
    at += j.to(tl.int64) * x.column  # with a column of 1: neighbours, which are loaded together
    if MASKED:
        return tl.load(at, mask=inside, other=other)
    else:
        return tl.load(at)


@triton.jit
def some_allowed(scores, b, h, j, keys):
    """How many of the keys j, counted along the last axis, masks and biases which are the same for
    all queries do not exclude."""
    attends = j < keys
    if scores.mask is not None:
        if scores.mask.row is None:
            at = scores.mask.at + (b.to(tl.int64) * scores.mask.batch)
            at += h.to(tl.int64) * scores.mask.head + j.to(tl.int64) * scores.mask.column
            attends = attends & (tl.load(at, mask=attends, other=0) != 0)
    if scores.bias is not None:
        if scores.bias.row is None:
            at = scores.bias.at + (b.to(tl.int64) * scores.bias.batch)
            at += h.to(tl.int64) * scores.bias.head + j.to(tl.int64) * scores.bias.column
            bias = tl.load(at, mask=attends, other=0.0).to(tl.float32)
            attends = attends & (bias != -float("inf"))
    return tl.sum(attends.to(tl.int32), axis=len(j.shape) - 1)


@triton.jit
def logits(
    s, scores, place, i, j, CAUSAL: tl.constexpr, MASKED: tl.constexpr, FOLDED: tl.constexpr
):
    """From products s = q . k to (logits, attends, tanh of the softcap).

    Logits are in units of log 2; if FOLDED they are `s` itself, and a factor away from it. They
    are only defined where `attends`, which stands for all unless MASKED (the tile has an
    edge in it) or there is a mask or a bias. Without a softcap there is no tanh.
    """
    attends = j >= 0
    capped = s
    if MASKED:
        attends = j < place.keys
        if CAUSAL or place.window.right is not None:
            attends = attends & (j <= i + place.high)
        if place.window.left is not None:
            attends = attends & (j >= i + place.low)
    if scores.cap is not None:
        capped = tanh(s * scores.scale)
        s = capped * scores.cap
    elif not FOLDED:
        s = s * scores.scale
    if scores.bias is not None:
        bias = pairs_at(scores.bias, place, i, j, 0.0, MASKED).to(tl.float32)
        s = s + bias * 1.4426950408889634
        attends = attends & (bias != -float("inf"))
    if scores.slopes is not None:
        slope = tl.load(scores.slopes.at + place.b * scores.slopes.batch + place.h)
        distance = tl.abs(i + (place.keys - place.queries) - j).to(tl.float32)
        s = s - slope * 1.4426950408889634 * distance
    if scores.mask is not None:
        allowed = pairs_at(scores.mask, place, i, j, 0, MASKED) != 0
        attends = attends & allowed
    if scores.cap is not None:
        if MASKED or scores.mask is not None or scores.bias is not None:
            capped = tl.where(attends, capped, 0.0)  # it may come from a NaN, and is multiplied by
    return s, attends, capped


@triton.jit
def tile_at(listed, t, TILE: tl.constexpr):
    """The first key of tile t, or of the tile that a list (see `skipping`) has there."""
    if listed is not None:
        return tl.load(listed + t) * TILE
    else:
        return t * TILE


@triton.jit
def store_pairs(x, b, h, i, j, queries, keys, numbers):
    """Writes a tile to a `Pairs`."""
    at = x.at + (b.to(tl.int64) * x.batch + h.to(tl.int64) * x.head)
    at += i.to(tl.int64) * x.row
    at += j.to(tl.int64) * x.column
    tl.store(at, numbers.to(x.at.dtype.element_ty), mask=(i < queries) & (j < keys))


@triton.jit
def line_at(x, b, h, first, i, count, other):
    """Element i of a `Lines`, of which the first stands at `first`; `other` from `count` on."""
    at = x.at + (b.to(tl.int64) * x.batch + h.to(tl.int64) * x.head + first)
    return tl.load(at + i, mask=i < count, other=other)


@triton.jit
def logsumexp_at(x, b, h, first, i, count):
    """In units of log 2; infinite, so that every probability is 0, for a query that attends to
    nothing and beyond the queries."""
    found = line_at(x, b, h, first, i, count, float("inf"))
    return tl.where(found == -float("inf"), float("inf"), found) * 1.4426950408889634


@triton.jit
def probabilities(s, attends, lse, scores, MASKED: tl.constexpr, FOLDED: tl.constexpr):
    """The softmax again, from what `logits` returned and the log-sum-exp."""
    if FOLDED:
        p = tl.exp2(s * scores.scale - lse)
    else:
        p = tl.exp2(s - lse)
    if MASKED or scores.mask is not None or scores.bias is not None:
        p = tl.where(attends, p, 0.0)
    return p


@triton.jit
def _unsigned(word):
    return (tl.full((), 0, tl.int32) + word).to(tl.uint32, bitcast=True)


@triton.jit
def _words(dropout, bh, i, block):
    return tl.philox(dropout.seed, block, i + block * 0, bh + block * 0, block * 0)


@triton.jit
def kept(dropout, bh, i, first, COUNT: tl.constexpr):
    """Which weights dropout keeps, (queries, COUNT) for the keys from `first` on, a multiple of 4;
    see `seqkern.attention.philox`.

    Args:
        bh: b * heads + h, and i: the query; (queries, 1).
    """
    block = (first // 4 + tl.arange(0, COUNT // 4))[None, :] + i * 0
    w0, w1, w2, w3 = _words(dropout, bh, i, block)
    words = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
    return words >= _unsigned(dropout.threshold)


@triton.jit
def kept_at(dropout, bh, i, j):
    """`kept` for one key j, (queries, 1)."""
    w0, w1, w2, w3 = _words(dropout, bh, i, j // 4 + i * 0)
    word = j % 4
    drawn = tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))
    return drawn >= _unsigned(dropout.threshold)


@triton.jit
def any_nan(x):
    return tl.sum(tl.where(x != x, 1, 0)) > 0


@triton.jit
def spans(
    first, last, count, low, high, HAS_LOW: tl.constexpr, HAS_HIGH: tl.constexpr, TILE: tl.constexpr
):
    """Which tiles of TILE columns the rows `first` to `last` need, where row r needs the columns
    max(0, r + low) to min(count - 1, r + high).

    Returns:
        (start, full, edge, end), multiples of TILE but for the last: no row needs anything
        before start or from end on, and between full and edge every row needs all.
    """
    start = count * 0
    end = count
    full = start
    edge = count // TILE * TILE
    if HAS_HIGH:
        end = tl.maximum(tl.minimum(count, last + high + 1), 0)
        edge = tl.maximum(tl.minimum(count, first + high + 1), 0) // TILE * TILE
    if HAS_LOW:
        start = tl.maximum(first + low, 0) // TILE * TILE
        full = tl.cdiv(tl.maximum(last + low, 0), TILE) * TILE
    full = tl.minimum(full, tl.maximum(end, start))
    edge = tl.maximum(edge, full)
    return start, full, edge, end
