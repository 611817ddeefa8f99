"""The objective of an example in Triton: its loss, and what the gradients are made of.

One program works on one example: the sum of its input rows stays in registers while tiles of output
rows pass by, and each tile is read once, for the scores and for the gradient of the hidden layer.

Floor for an example of C inputs and T terms at d features of s bytes: (C + T) d s bytes are read,
and 2 d + T numbers of 4 bytes written where they are saved (the same example at d = 100, skip-gram
with 5 negatives, float32: 2.8 kB and 0.8 kB); 6 d T FLOP are nothing beside that on any GPU. The
rows are read from all over the tables. With 1 to 8 warps a program, each SM holds enough programs
to have the reads of many examples under way.

Indices that are out of range are never used as addresses: they are counted, for the caller to see.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log1p(s, DOUBLE: tl.constexpr):
    """log(1 + s) for 0 <= s <= 1, to the last digits for small s as well: 2 artanh(s / (2 + s)) by
    its series, whose argument is at most 1/3. (The logarithm of the hardware is exact to 2^-22 in
    absolute terms, and log(1 + s) itself loses s.)"""
    z = s / (2.0 + s)
    square = z * z
    ORDER: tl.constexpr = 17 if DOUBLE else 8
    sum = tl.zeros_like(z) + 1.0 / (2 * ORDER + 1)
    for i in tl.static_range(ORDER):
        sum = sum * square + 1.0 / (2 * (ORDER - i) - 1)
    return 2.0 * z * sum


@triton.jit
def loss_and_slope(score, positive, DOUBLE: tl.constexpr):
    """-log sigma(x) with x = score, or -score where the label is 0, and the derivative for the
    score, sigma(score) - label. NaN stays NaN."""
    x = tl.where(positive, score, -score)
    small = tl.exp(-tl.abs(x))
    loss = tl.where(x < 0, -x, tl.zeros_like(x)) + log1p(small, DOUBLE)
    slope = tl.where(x < 0, tl.zeros_like(x) + 1.0, small) / (1.0 + small)
    # Of a NaN the comparison says "not below 0", and `small` carries it into both results.
    return loss, tl.where(positive, -slope, slope)


@triton.jit(
    do_not_specialize=["padding_idx", "in_rows", "out_rows", "words", "path_nodes", "examples"]
)
def objective_examples_kernel(
    in_table, out_table, inputs, targets, negatives, paths, totals, saved,
    padding_idx: tl.int64, in_rows: tl.int64, out_rows: tl.int64, words: tl.int64,
    path_nodes: tl.int64, examples: tl.int64, inputs_each, terms, features,
    MEAN: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr, INPUTS: tl.constexpr,
    TERMS: tl.constexpr,
):  # fmt: skip
    """Programs: the examples. `totals` (3, E): loss; whether the example counts; how many of its
    indices are out of range. WIDTH: the features, padded; UNIT: what features and strides are
    multiples of; INPUTS, TERMS: rows of a tile."""
    in_stride = in_table.stride * UNIT
    out_stride = out_table.stride * UNIT
    features = features * UNIT
    WIDE: tl.constexpr = totals.dtype.element_ty
    DOUBLE: tl.constexpr = tl.float64 == WIDE
    e = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, WIDTH)
    in_row = k < features
    target = tl.load(targets + e)
    is_word = target != padding_idx

    h = tl.zeros((WIDTH,), WIDE)
    present = tl.zeros((INPUTS,), tl.int32)
    wrong = tl.zeros((INPUTS,), tl.int32)
    for first in range(0, inputs_each, INPUTS):
        i = first + tl.arange(0, INPUTS)
        word = tl.load(inputs + e * inputs_each + i, mask=i < inputs_each, other=padding_idx)
        given = (word != padding_idx) & (i < inputs_each)
        inside = (word >= 0) & (word < in_rows)
        wrong += (given & ~inside).to(tl.int32)
        given = given & inside
        present += given.to(tl.int32)
        rows = tl.load(
            in_table.at + word[:, None] * in_stride + k[None, :],
            mask=(given & is_word)[:, None] & in_row[None, :],
            other=0.0,
        )
        h += tl.sum(rows.to(WIDE), axis=0)
    count = tl.sum(present, axis=0)
    mistakes = tl.sum(wrong, axis=0)
    known = (target >= 0) & (target < words)
    mistakes += (is_word & ~known).to(tl.int32)
    counts = (count > 0) & is_word & known
    scale = tl.full((), 1.0, WIDE)
    if MEAN:
        scale = scale / tl.maximum(count, 1).to(WIDE)
    h = h * scale

    begin = target * 0
    end = begin
    if paths is not None:
        begin = tl.load(paths.offsets + target, mask=counts, other=0)
        end = tl.load(paths.offsets + target + 1, mask=counts, other=0)
        # A path that is not one, or longer than the caller said.
        fits = (begin >= 0) & (begin <= end) & (end <= path_nodes) & (end - begin <= terms)
        mistakes += (~fits).to(tl.int32)
        end = tl.where(fits, end, begin)
    loss = tl.zeros((TERMS,), WIDE)
    slopes = tl.zeros((WIDTH,), WIDE)
    unknown = tl.zeros((TERMS,), tl.int32)
    for first in range(0, terms, TERMS):
        t = first + tl.arange(0, TERMS)
        if paths is not None:
            kept = counts & (begin + t < end)
            row = tl.load(paths.nodes + begin + t, mask=kept, other=0).to(tl.int64)
            positive = tl.load(paths.codes + begin + t, mask=kept, other=0) == 0
        else:
            own = e * (terms - 1) + t - 1
            row = tl.load(negatives + own, mask=(t > 0) & (t < terms), other=padding_idx)
            row = tl.where(t == 0, target, row)
            kept = counts & (t < terms) & (row != padding_idx)
            positive = t == 0
        inside = (row >= 0) & (row < out_rows)
        unknown += (kept & ~inside).to(tl.int32)
        kept = kept & inside
        u = tl.load(
            out_table.at + row[:, None] * out_stride + k[None, :],
            mask=kept[:, None] & in_row[None, :],
            other=0.0,
        ).to(WIDE)
        score = tl.sum(u * h[None, :], axis=1)
        each, slope = loss_and_slope(score, positive, DOUBLE)
        loss += tl.where(kept, each, 0.0)
        slope = tl.where(kept, slope, 0.0)
        if saved is not None:
            slopes += tl.sum(slope[:, None] * u, axis=0)
            tl.store(saved.coefficients + e * terms + t, slope, mask=t < terms)
    tl.store(totals + e, tl.sum(loss, axis=0))
    tl.store(totals + examples + e, counts.to(WIDE))
    tl.store(totals + 2 * examples + e, (mistakes + tl.sum(unknown, axis=0)).to(WIDE))
    if saved is not None:
        # Of an example that does not count, zeros: its rows may hold anything.
        h = tl.where(counts, h, tl.zeros_like(h))
        tl.store(saved.hidden + e * features + k, h, mask=in_row)
        tl.store(saved.grad_inputs + e * features + k, slopes * scale, mask=in_row)


@triton.jit
def objective_means_kernel(totals, loss, scale, fine):
    """One program. `totals` (3,) float64: the sums of those above. `fine`: no index was wrong."""
    counted = tl.load(totals + 1)
    inverse = tl.where(counted > 0, 1.0 / tl.maximum(counted, 1.0), 0.0)
    WIDE: tl.constexpr = loss.dtype.element_ty
    tl.store(loss, (tl.load(totals) * inverse).to(WIDE))
    tl.store(scale, inverse.to(WIDE))
    tl.store(fine, (tl.load(totals + 2) == 0).to(tl.uint8))


@triton.jit(do_not_specialize=["padding_idx"])
def objective_rows_kernel(
    inputs, targets, negatives, paths, in_keys, out_keys, padding_idx: tl.int64,
    inputs_each, terms, INPUTS: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Programs: the examples. Which row each input and each term of it adds to, -1 where none:
    `in_keys` (E, inputs_each) and `out_keys` (E, terms), int32. Indices are known to be in
    range."""
    e = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + e)
    present = tl.zeros((INPUTS,), tl.int32)
    for first in range(0, inputs_each, INPUTS):
        i = first + tl.arange(0, INPUTS)
        word = tl.load(inputs + e * inputs_each + i, mask=i < inputs_each, other=padding_idx)
        present += ((word != padding_idx) & (i < inputs_each)).to(tl.int32)
    counts = (tl.sum(present, axis=0) > 0) & (target != padding_idx)
    for first in range(0, inputs_each, INPUTS):
        i = first + tl.arange(0, INPUTS)
        word = tl.load(inputs + e * inputs_each + i, mask=i < inputs_each, other=padding_idx)
        word = tl.where(counts & (word != padding_idx), word, -1)
        tl.store(in_keys + e * inputs_each + i, word.to(tl.int32), mask=i < inputs_each)
    begin = target * 0
    end = begin
    if paths is not None:
        begin = tl.load(paths.offsets + target, mask=counts, other=0)
        end = tl.load(paths.offsets + target + 1, mask=counts, other=0)
    for first in range(0, terms, TERMS):
        t = first + tl.arange(0, TERMS)
        if paths is not None:
            kept = counts & (begin + t < end)
            row = tl.load(paths.nodes + begin + t, mask=kept, other=-1).to(tl.int64)
        else:
            own = e * (terms - 1) + t - 1
            row = tl.load(negatives + own, mask=(t > 0) & (t < terms), other=padding_idx)
            row = tl.where(t == 0, target, row)
            kept = counts & (row != padding_idx)
        row = tl.where(kept, row, -1)
        tl.store(out_keys + e * terms + t, row.to(tl.int32), mask=t < terms)
