"""Notices vectors that grow beyond all bounds, before they are taken for something learnt."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from seqkern.errors import UserError
from seqkern.word2vec.placement import Placed

LIMIT = 1e4
"""No number of a table is larger while it learns: a prediction is settled by products of about 10,
and what the vectors of a training are made of stays below 100."""

_LOOKED_AT = 1 << 20  # numbers at the beginning and at the end of a table
_GATHERED = 1 << 14  # rows at once


class DivergenceError(UserError, FloatingPointError):
    """A training whose vectors grow beyond all bounds; the message says where, and what to try."""


class Watch:
    """Looks at the tables of a training.

    What has grown too much makes more such numbers wherever it meets other rows, so that within
    some thousand words the most frequent ones have them. Their rows are looked at often, all rows
    now and then.

    Args:
        placed: the tables. They may be replaced meanwhile.
    """

    def __init__(self, placed: Placed) -> None:
        self._placed = placed
        self._used: Tensor | None = None
        """The rows of `input_rows` that training can touch, if they are few."""
        bags = placed.bags
        if bags is not None and 8 * len(bags.rows) < len(placed.input_rows):
            self._used = torch.unique(bags.rows)

    def frequent(self) -> float:
        """The largest absolute number among the most frequent words; NaN if there is one."""
        return _largest(
            part
            for table in (self._placed.input_rows, self._placed.output_rows)
            for part in _ends(_flat(table))
        )

    def all(self) -> float:
        """The same of all rows that training can touch."""
        inputs = [_flat(self._placed.input_rows)]
        if self._used is not None:
            inputs = [self._placed.input_rows[rows] for rows in self._used.split(_GATHERED)]
        return _largest([*inputs, _flat(self._placed.output_rows)])


def _flat(table: Tensor) -> Tensor:
    """The memory from the first number of a table to its last, which is looked through many times
    faster than rows with zeros between them."""
    rows, size = table.shape
    return table.as_strided(((rows - 1) * table.stride(0) + size if rows else 0,), (1,))


def _ends(numbers: Tensor) -> tuple[Tensor, ...]:
    """The rows of frequent words lie at the beginning, those of the upper nodes of a tree at the
    end."""
    if len(numbers) <= 2 * _LOOKED_AT:
        return (numbers,)
    return numbers[:_LOOKED_AT], numbers[-_LOOKED_AT:]


def _largest(parts: Iterable[Tensor]) -> float:
    largest = 0.0
    for part in parts:
        if part.numel():
            low, high = (float(bound) for bound in torch.aminmax(part))
            if math.isnan(low):
                return low
            largest = max(largest, -low, high)
    return largest
