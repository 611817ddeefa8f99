"""Sums of rows into the rows of a table, in Triton: entry i adds weight_i * source[owner_i] to the
row key_i of the table.

Two ways, which give the same sums in different orders:

- `add_rows_kernel` adds each entry where it stands, by atomics. Nothing is sorted and no entry
  waits for another; the order of a row's additions is that of chance. Floor: a row of the source is
  read once for all of its entries, and each entry sends d numbers to the L2, which
  adds them (8 d bytes through its ports an entry, in float32).
- `sum_pieces_kernel` and `join_pieces_kernel` take the entries sorted by key. A piece is what one
  key has among CHUNK consecutive entries; a program sums it in the order of the entries. Keys with
  entries in several chunks have pieces in each, which are added by the order of the chunks. So the
  bits are the same each time, a sum is rounded once to the dtype of the table, and the commonest
  word of a batch is nobody's long loop. Floor: an entry reads d numbers (4 d bytes), a row is
  written once (twice d s bytes where it is added to), and the sort goes first.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqkern.embedding.triton.kernels.operands import Table

# What becomes of the sums.
DENSE = tl.constexpr(0)  # row `key` of the output
ADDED = tl.constexpr(1)  # added to row `key` of the output
COMPACT = tl.constexpr(2)  # the n-th row for the n-th key


@triton.jit(do_not_specialize=["each"])
def add_rows_kernel(
    out, factor, source, weights, keys, owner_starts, each, features,
    WIDTH: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Programs: the owners, rows of `source` (owners, features). Owner n has the entries n * each
    to (n + 1) * each of `keys`, or, where there are starts, those from owner_starts[2 n] to
    owner_starts[2 n + 1]; -1 is no row. WIDTH: the features, padded; UNIT: what features and
    strides are multiples of; ROWS: entries of a tile."""
    out_stride = out.stride * UNIT
    features = features * UNIT
    n = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, WIDTH)
    in_row = k < features
    row = tl.load(source + n * features + k, mask=in_row, other=0.0) * tl.load(factor)
    if owner_starts is not None:
        begin = tl.load(owner_starts + 2 * n)
        end = tl.load(owner_starts + 2 * n + 1)
    else:
        begin = n * each
        end = begin + each
    for first in range(begin, end, ROWS):
        i = first + tl.arange(0, ROWS)
        key = tl.load(keys + i, mask=i < end, other=-1).to(tl.int64)
        step = tl.broadcast_to(row[None, :], (ROWS, WIDTH))
        if weights is not None:
            step = step * tl.load(weights + i, mask=i < end, other=0.0)[:, None]
        tl.atomic_add(
            out.at + key[:, None] * out_stride + k[None, :],
            step,
            mask=(key >= 0)[:, None] & in_row[None, :],
            sem="relaxed",
        )


@triton.jit
def _finish(out, place, k, in_row, total, MODE: tl.constexpr):
    """Writes a row's sum."""
    at = out.at + place * out.stride + k
    if MODE == ADDED:
        total += tl.load(at, mask=in_row, other=0.0).to(total.dtype)
    tl.store(at, total.to(out.at.dtype.element_ty), mask=in_row)


@triton.jit(do_not_specialize=["each", "entries"])
def sum_pieces_kernel(
    out_table, factor, source, weights, keys, order, owners, numbers, partial,
    each: tl.int64, entries: tl.int64, features,
    MODE: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Programs: the sorted entries; one that does not begin a piece has nothing to do.

    `keys` rise; -1 is no row. Entry i is order[i] of the unsorted ones, which belongs to the owner
    order[i] // each, or owners[order[i]] where these are given. `numbers`, with COMPACT: which of
    the keys an entry's is. `partial` (chunks, 2, features): pieces whose key has more of them, at 0
    where it goes on from the chunk before."""
    out = Table(out_table.at, out_table.stride * UNIT)
    features = features * UNIT
    i = tl.program_id(0).to(tl.int64)
    key = tl.load(keys + i)
    chunk = i // CHUNK
    limit = tl.minimum((chunk + 1) * CHUNK, entries)
    before = tl.load(keys + i - 1, mask=i > 0, other=-1)
    goes_on = key == before
    if (key >= 0) & ((i % CHUNK == 0) | (key != before)):
        k = tl.arange(0, WIDTH)
        in_row = k < features
        total = tl.zeros((WIDTH,), source.dtype.element_ty)
        at = i
        more = key >= 0
        while more:
            j = at + tl.arange(0, ROWS)
            # Sorted: what is no longer of this key is at the end.
            own = tl.load(keys + j, mask=j < limit, other=-1) == key
            entry = tl.load(order + j, mask=own, other=0)
            if owners is not None:
                owner = tl.load(owners + entry, mask=own, other=0)
            else:
                owner = entry // each
            rows = tl.load(
                source + owner[:, None] * features + k[None, :],
                mask=own[:, None] & in_row[None, :],
                other=0.0,
            )
            if weights is not None:
                rows = rows * tl.load(weights + entry, mask=own, other=0.0)[:, None]
            total += tl.sum(rows, axis=0)
            at += ROWS
            more = (tl.sum(own.to(tl.int32), axis=0) == ROWS) & (at < limit)
        total = total * tl.load(factor)
        # The piece reaches the end of the chunk, and the key goes on behind it.
        last = tl.load(keys + limit - 1) == key
        after = tl.load(keys + limit, mask=limit < entries, other=-1)
        if goes_on | (last & (after == key)):
            slot = chunk * 2 + tl.where(goes_on, 0, 1)
            tl.store(partial + slot * features + k, total, mask=in_row)
        else:
            place = key.to(tl.int64)
            if MODE == COMPACT:
                place = tl.load(numbers + i)
            _finish(out, place, k, in_row, total, MODE)


@triton.jit(do_not_specialize=["entries"])
def join_pieces_kernel(
    out_table, keys, numbers, partial, entries: tl.int64, features,
    MODE: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Programs: the chunks; one whose last key begins in it and goes on behind it adds the pieces
    of that key up."""
    out = Table(out_table.at, out_table.stride * UNIT)
    features = features * UNIT
    chunk = tl.program_id(0).to(tl.int64)
    limit = (chunk + 1) * CHUNK
    key = tl.load(keys + limit - 1, mask=limit < entries, other=-1)
    after = tl.load(keys + limit, mask=limit < entries, other=-1)
    first = tl.load(keys + chunk * CHUNK)
    before = tl.load(keys + chunk * CHUNK - 1, mask=chunk > 0, other=-1)
    began_before = (first == key) & (before == key)
    if (key >= 0) & (after == key) & (began_before == 0):
        k = tl.arange(0, WIDTH)
        in_row = k < features
        total = tl.load(partial + (chunk * 2 + 1) * features + k, mask=in_row, other=0.0)
        at = chunk + 1
        more = key >= 0
        while more:
            c = at + tl.arange(0, ROWS).to(tl.int64)
            # A chunk that begins with this key has a piece of it at 0.
            own = tl.load(keys + c * CHUNK, mask=c * CHUNK < entries, other=-1) == key
            pieces = tl.load(
                partial + (c * 2)[:, None] * features + k[None, :],
                mask=own[:, None] & in_row[None, :],
                other=0.0,
            )
            total += tl.sum(pieces, axis=0)
            at += ROWS
            more = tl.sum(own.to(tl.int32), axis=0) == ROWS
        place = key.to(tl.int64)
        if MODE == COMPACT:
            place = tl.load(numbers + limit - 1)
        _finish(out, place, k, in_row, total, MODE)
