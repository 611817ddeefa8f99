"""fastText's character n-grams and their hash buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seqkern.core.library import require_text


class Bags(NamedTuple):
    """Rows of an embedding table whose mean is a word's vector: word i has the rows
    rows[offsets[i]] to rows[offsets[i + 1] - 1], its own first."""

    offsets: Tensor
    """int64 (V + 1,)."""
    rows: Tensor
    """int32 (R,)."""


class Subwords:
    """The n-grams of a word: runs of `min_n` to `max_n` characters of "<word>".

    The rules and the hash are fastText's (Bojanowski et al. 2017; `Dictionary::computeSubwords`),
    which gensim follows: n-grams come by their start and then by their length, the whole "<word>"
    is one if it is short enough, "<" and ">" alone are none, and duplicates stay. The bucket is the
    32-bit FNV-1a hash over the UTF-8 bytes, taken as signed numbers, modulo `buckets`.

    Args:
        min_n, max_n: lengths in characters; with max_n < min_n there are no n-grams.
        buckets: how many rows the n-grams share; 0: no n-grams.

    Raises:
        ValueError: min_n below 1, max_n negative, or buckets out of [0, 2^31).
    """

    def __init__(self, min_n: int = 3, max_n: int = 6, buckets: int = 2_000_000) -> None:
        if min_n < 1 or max_n < 0:
            raise ValueError(
                f"min_n should be at least 1 and max_n at least 0; they are {min_n} and {max_n}"
            )
        if not 0 <= buckets < 2**31:
            raise ValueError(f"buckets should be from 0 to 2^31 - 1; it is {buckets}")
        self.min_n = min_n
        self.max_n = min(max_n, 2**31)
        self.buckets = buckets
        self._text = require_text()

    def ngrams(self, word: str) -> list[str]:
        """The n-grams of a word."""
        if self.buckets == 0 or self.max_n < self.min_n:
            return []
        found: list[str] = self._text.ngrams(word, self.min_n, self.max_n)
        return found

    def rows(self, word: str) -> list[int]:
        """The bucket of each n-gram, in [0, buckets)."""
        if self.buckets == 0 or self.max_n < self.min_n:
            return []
        found: list[int] = self._text.ngram_rows(word, self.min_n, self.max_n, self.buckets)
        return found

    def bags(self, words: Sequence[str], first_row: int) -> Bags:
        """For each word its own row, which is its place in `words`, and the rows of its n-grams.

        Args:
            words: the words in the order of their ids.
            first_row: the row of the first bucket, len(words) usually.

        Raises:
            ValueError: a row would not fit int32.
        """
        if first_row < 0 or max(len(words), first_row + self.buckets) > 2**31:
            raise ValueError(
                f"first_row + buckets should be at most 2^31; they are {first_row} and"
                f" {self.buckets}"
            )
        parts = self._text.bags(list(words), self.min_n, self.max_n, self.buckets, first_row)
        return Bags(*map(torch.from_numpy, parts))

    def __repr__(self) -> str:
        return f"Subwords(min_n={self.min_n}, max_n={self.max_n}, buckets={self.buckets})"
