"""The operators of subword bags on a GPU: vectors that are sums of table rows, and the gradient of
the table.

Floor of the vectors: each row of each bag is read once and each vector written once, (L + 1) d s
bytes for a bag of L rows of d features of s bytes. The gradient: `kernels/rows.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqkern.core.dtypes import accumulation_dtype
from seqkern.core.triton.support import on_device_of
from seqkern.embedding.triton import settings
from seqkern.embedding.triton.arguments import (
    check,
    check_table,
    kept,
    programs,
    refuse_wrong_indices,
)
from seqkern.embedding.triton.rows import Entries, dense, sorts, sparse


@triton.jit(do_not_specialize=["bags", "entries", "table_rows"])
def bag_vectors_kernel(
    weight, stride, offsets, rows, words, out, spans, wrong, bags: tl.int64, entries: tl.int64,
    table_rows: tl.int64, features,
    SUM: tl.constexpr, MEAN: tl.constexpr, WIDTH: tl.constexpr, UNIT: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Programs: the words. `spans` (n, 2): where each one's bag begins and ends; `wrong` (n,): how
    many of its indices are out of range, which are not used as addresses. Without SUM no more than
    that."""
    stride = stride * UNIT
    features = features * UNIT
    n = tl.program_id(0).to(tl.int64)
    word = tl.load(words + n)
    known = (word >= 0) & (word < bags)
    begin = tl.load(offsets + word, mask=known, other=0)
    end = tl.load(offsets + word + 1, mask=known, other=0)
    fits = (begin >= 0) & (begin <= end) & (end <= entries)
    begin = tl.where(fits, begin, 0)
    end = tl.where(fits, end, 0)
    WIDE: tl.constexpr = tl.float64 if weight.dtype.element_ty == tl.float64 else tl.float32
    k = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), WIDE)
    mistakes = tl.zeros((ROWS,), tl.int32)
    for first in range(begin, end, ROWS):
        i = first + tl.arange(0, ROWS)
        row = tl.load(rows + i, mask=i < end, other=0).to(tl.int64)
        inside = (row >= 0) & (row < table_rows)
        mistakes += ((i < end) & (inside == 0)).to(tl.int32)
        if SUM:
            found = tl.load(
                weight + row[:, None] * stride + k[None, :],
                mask=((i < end) & inside)[:, None] & (k < features)[None, :],
                other=0.0,
            )
            total += tl.sum(found.to(WIDE), axis=0)
    tl.store(spans + 2 * n, begin)
    tl.store(spans + 2 * n + 1, end)
    count = tl.sum(mistakes, axis=0) + ((known & fits) == 0).to(tl.int32)
    tl.store(wrong + n, count)
    if SUM:
        if MEAN:
            total = total * (tl.full((), 1.0, WIDE) / tl.maximum(end - begin, 1).to(WIDE))
        tl.store(out + n * features + k, total.to(out.dtype.element_ty), mask=k < features)


@dataclass(frozen=True)
class Bags:
    """Checked: `spans` are where the words' bags lie in `rows`, all of whose rows are there."""

    rows: Tensor
    spans: Tensor
    vectors: Tensor | None


def _bags(
    weight: Tensor, offsets: Tensor, rows: Tensor, words: Tensor, sums: bool, mean: bool = False
) -> Bags:
    check_table("weight", weight)
    device = weight.device
    offsets = kept("offsets", offsets, torch.int64, (-1,), device)
    rows = kept("rows", rows, torch.int32, (-1,), device)
    words = kept("words", words, torch.int64, (-1,), device)
    check(offsets.numel() > 0, "offsets should have one number more than there are bags")
    count, features = words.numel(), weight.shape[1]
    vectors = weight.new_empty(count, features) if sums else None
    spans = words.new_empty(count, 2)
    if count:
        wrong = words.new_empty(count, dtype=torch.int32)
        tile, config = settings.tile(features)
        unit = settings.unit(features, weight.stride(0))
        bag_vectors_kernel[programs(count)](
            weight, weight.stride(0) // unit, offsets, rows, words,
            weight if vectors is None else vectors, spans, wrong, offsets.numel() - 1,
            rows.numel(), weight.shape[0], features // unit,
            SUM=sums, MEAN=mean, UNIT=unit, ROWS=tile, **config,
        )  # fmt: skip
        refuse_wrong_indices(wrong.sum() == 0)
    return Bags(rows, spans, vectors)


def _entries(grad: Tensor, weight: Tensor, bags: Bags, sorted: bool) -> Entries:
    """What goes into the table. Sorting waits for the GPU, to know how many entries there are."""
    shape = (len(bags.spans), weight.shape[1])
    grad = kept("grad", grad, accumulation_dtype(weight.dtype), shape, weight.device)
    one = torch.ones((), dtype=grad.dtype, device=grad.device)
    if not sorted:
        return Entries(grad, bags.rows, one, starts=bags.spans)
    lengths = bags.spans[:, 1] - bags.spans[:, 0]
    owners = torch.repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    places = torch.arange(len(owners), device=grad.device) + (bags.spans[:, 0] - before)[owners]
    return Entries(grad, bags.rows[places], one, owners=owners)


# ---- the operators ----


def embedding_bags(
    weight: Tensor, offsets: Tensor, rows: Tensor, words: Tensor, mean: bool
) -> Tensor:
    with on_device_of(weight):
        vectors = _bags(weight, offsets, rows, words, True, mean).vectors
    assert vectors is not None
    return vectors


def embedding_bags_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, rows: Tensor, words: Tensor
) -> Tensor:
    with on_device_of(weight):
        bags = _bags(weight, offsets, rows, words, False)
        entries = _entries(grad, weight, bags, sorts(weight.dtype))
        return dense(entries, weight)


def embedding_bags_backward_sparse(
    grad: Tensor, weight: Tensor, offsets: Tensor, rows: Tensor, words: Tensor
) -> tuple[Tensor, Tensor]:
    with on_device_of(weight):
        bags = _bags(weight, offsets, rows, words, False)
        return sparse(_entries(grad, weight, bags, True), weight)
