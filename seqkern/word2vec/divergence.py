"""Detects vectors that grow without bound, before they are used."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from seqkern.core.errors import UserError
from seqkern.word2vec.placement import Placed

LIMIT = 1e4
"""No number of a table is larger while it learns: a prediction is settled by products of about 10,
and what the vectors of a training are made of stays below 100."""

_LOOKED_AT = 1 << 18  # numbers at the beginning and at the end of a table
_CHUNK = 1 << 15  # numbers: so few that torch takes one thread, and none waits for a busy core


class DivergenceError(UserError, FloatingPointError):
    """A training whose vectors grow without bound; a ``FloatingPointError``. The message says
    where, and what to try."""


class Watch:
    """Checks the tables of a training.

    A number that has grown too much spreads to the rows that are trained with it, within some
    thousand words to the most frequent ones. Their rows are checked often, those of all words now
    and then. The buckets of n-grams are not: whatever they gain from a word its own row gains, too;
    the words' means show the rest.

    Args:
        placed: the tables. They may be replaced meanwhile.
        words: how many of the input rows are words'.
    """

    def __init__(self, placed: Placed, words: int) -> None:
        self._placed = placed
        self._words = words

    @property
    def _tables(self) -> tuple[Tensor, Tensor]:
        return self._placed.input_rows[: self._words], self._placed.output_rows

    def frequent(self) -> float:
        """The largest absolute number among the most frequent words; NaN if there is one."""
        return largest(part for table in self._tables for part in _ends(_flat(table)))

    def all(self) -> float:
        """The same of all words."""
        return largest(_flat(table) for table in self._tables)


def largest(parts: Iterable[Tensor]) -> float:
    """The largest absolute number; NaN if there is one."""
    found = 0.0
    for part in parts:
        for numbers in part.reshape(-1).split(_CHUNK) if part.device.type == "cpu" else (part,):
            if numbers.numel():
                low, high = (float(bound) for bound in torch.aminmax(numbers))
                if math.isnan(low):
                    return low
                found = max(found, -low, high)
    return found


def _flat(table: Tensor) -> Tensor:
    """The memory from the first number of a table to its last, which is scanned many times faster
    than rows with zeros between them."""
    rows, size = table.shape
    return table.as_strided(((rows - 1) * table.stride(0) + size if rows else 0,), (1,))


def _ends(numbers: Tensor) -> tuple[Tensor, ...]:
    """The rows of frequent words are at the beginning, those of the upper nodes of a tree at the
    end."""
    if len(numbers) <= 2 * _LOOKED_AT:
        return (numbers,)
    return numbers[:_LOOKED_AT], numbers[-_LOOKED_AT:]
