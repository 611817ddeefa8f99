"""Launches of the sums of rows: dense, added to a table in place, or compact.

Atomics are the default where they may be taken: for float32 and float64 tables whose gradient is
dense, or which are changed in place. They need one pass without a sort, whose dozen launches and
four passes over the keys take longer than the sums of a batch of ten thousand pairs; a row that
stands in many places is a queue of additions in the L2, not of programs. The sorted
way is taken

- under `torch.use_deterministic_algorithms(True)`: its order of summation is fixed;
- for 16-bit tables: adding in 16 bits, atomically or not, would round each addition, where the
  contract is one rounding of the sum;
- for sparse gradients, whose rows have to rise anyway.

Which way is faster on which GPU and batch has not been measured yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seqkern.core.dtypes import accumulation_dtype
from seqkern.embedding.triton import settings
from seqkern.embedding.triton.arguments import programs
from seqkern.embedding.triton.kernels.operands import Table
from seqkern.embedding.triton.kernels.rows import (
    ADDED,
    COMPACT,
    DENSE,
    add_rows_kernel,
    join_pieces_kernel,
    sum_pieces_kernel,
)


@dataclass(frozen=True)
class Entries:
    """What is added to the rows of a table: entry i adds factor * weights[i] * source[owner of i]
    to the row keys[i].

    Attributes:
        source: (owners, features), float32 or float64, contiguous.
        keys: int32, -1 where an entry adds nothing.
        each: the entries of an owner, which lie one after the other; or else
        owners: int64, the owner of each entry, for sorting, and
        starts: int64 (owners, 2), where the entries of each begin and end, for atomics.
        weights: like keys, None for 1.
        factor: one number.
    """

    source: Tensor
    keys: Tensor
    factor: Tensor
    each: int = 0
    weights: Tensor | None = None
    owners: Tensor | None = None
    starts: Tensor | None = None

    @property
    def ragged(self) -> bool:
        return self.owners is not None or self.starts is not None


def sorts(dtype: torch.dtype) -> bool:
    """Whether sums that go into a table of this dtype are taken of sorted entries."""
    return dtype != accumulation_dtype(dtype) or torch.are_deterministic_algorithms_enabled()


def dense(entries: Entries, table: Tensor) -> Tensor:
    """The sums as a tensor like `table`."""
    out = table.new_zeros(table.shape)
    if sorts(table.dtype):
        _sorted(entries, out, DENSE)
    else:
        _atomic(entries, out)
    return out


def add(entries: Entries, table: Tensor) -> None:
    """Adds the sums to `table` in place."""
    if sorts(table.dtype):
        _sorted(entries, table, ADDED)
    else:
        _atomic(entries, table)


def add_sorted(entries: Entries, table: Tensor) -> None:
    """`add` in the fixed order, whatever torch asks for."""
    _sorted(entries, table, ADDED)


def sparse(entries: Entries, table: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that get a sum, rising, and their sums in the dtype of `table`. Waits for the
    GPU, because the numbers decide how many there are."""
    keys, order = _sort(entries)
    begins = keys >= 0
    begins[1:] &= keys[1:] != keys[:-1]
    rows = keys[begins].long()
    values = table.new_empty(len(rows), table.shape[1])
    _pieces(entries, keys, order, values, COMPACT, begins.cumsum(0) - 1)
    return rows, values


def _atomic(entries: Entries, out: Tensor) -> None:
    source = entries.source
    if source.numel() == 0 or entries.keys.numel() == 0:
        return
    rows, config = settings.tile(source.shape[1], 8 if entries.ragged else entries.each)
    unit = settings.unit(source.shape[1], out.stride(0))
    add_rows_kernel[programs(source.shape[0])](
        Table(out, out.stride(0) // unit), entries.factor, source, entries.weights, entries.keys,
        entries.starts, entries.each, source.shape[1] // unit, UNIT=unit, ROWS=rows, **config,
    )  # fmt: skip


def _sort(entries: Entries) -> tuple[Tensor, Tensor]:
    keys, order = torch.sort(entries.keys.view(-1), stable=True)
    return keys, order


def _sorted(entries: Entries, out: Tensor, mode: int) -> None:
    keys, order = _sort(entries)
    _pieces(entries, keys, order, out, mode, order)


def _pieces(
    entries: Entries, keys: Tensor, order: Tensor, out: Tensor, mode: int, numbers: Tensor
) -> None:
    count, features = keys.numel(), entries.source.shape[1]
    if count == 0 or features == 0:
        return
    chunks = -(-count // settings.CHUNK)
    partial = entries.source.new_empty(chunks, 2, features)
    rows, config = settings.tile(features)
    unit = settings.unit(features, out.stride(0))
    config = {
        **config,
        **settings.ROOMY,
        "UNIT": unit,
        "MODE": mode,
        "ROWS": rows,
        "CHUNK": settings.CHUNK,
    }
    table = Table(out, out.stride(0) // unit)
    sum_pieces_kernel[programs(count)](
        table, entries.factor, entries.source, entries.weights, keys, order, entries.owners,
        numbers, partial, entries.each, count, features // unit, **config,
    )  # fmt: skip
    join_pieces_kernel[programs(chunks)](
        table, keys, numbers, partial, count, features // unit, **config
    )
