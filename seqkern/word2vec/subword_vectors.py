"""Word vectors made of the vectors of character n-grams, so that any word has one (Bojanowski et
al. 2017, "Enriching word vectors with subword information")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from seqkern.core.backends import use_backend
from seqkern.embedding.ops import bag_sum
from seqkern.text import Bags, Subwords
from seqkern.word2vec.keyed_vectors import Key, KeyedVectors


class FastTextKeyedVectors(KeyedVectors):
    """Like :class:`KeyedVectors`, but every word has a vector.

    A word of the vocabulary has the mean of its own vector and those of its n-grams; any other word
    the mean of those of its n-grams, or zeros if it is too short for one. ``word in vectors`` is
    therefore true of every word; ask ``key_to_index`` or :meth:`has_index_for` for the vocabulary.

    Args:
        words: the vocabulary.
        table: float32, shape (words + buckets, dimensions): a vector for each word itself, then one
            for each bucket of n-grams.
        min_n: characters of the shortest n-grams.
        max_n: characters of the longest n-grams.
        counts: of the words.

    Raises:
        ValueError: min_n below 1 or max_n negative.

    Words that :meth:`add_vectors` appends have no n-grams, only the vector that is given.

    Attributes:
        vectors: the means, float32, shape (words, dimensions); :meth:`compose` computes them anew.
        vectors_vocab: the words' own vectors, the beginning of `table`. Words that were appended
            have none.
        vectors_ngrams: those of the buckets, the rest of it.
    """

    def __init__(
        self,
        words: Sequence[str],
        table: np.ndarray,
        min_n: int,
        max_n: int,
        counts: np.ndarray | None = None,
    ) -> None:
        super().__init__(table.shape[1])
        self.index_to_key = list(words)
        self.key_to_index = {word: row for row, word in enumerate(words)}
        self.counts = counts
        self.min_n = min_n
        self.max_n = max_n
        self._composed_words = len(self.index_to_key)
        self.share(table)
        _ = self.subwords  # which checks min_n and max_n

    @property
    def subwords(self) -> Subwords:
        """How a word is cut."""
        return Subwords(self.min_n, self.max_n, self.bucket)

    @property
    def bucket(self) -> int:
        """Number of buckets."""
        return len(self.vectors_ngrams)

    @property
    def table(self) -> np.ndarray:
        """The words' own vectors and those of the buckets, float32, shape (words + buckets,
        dimensions). Not a copy, unless `vectors_vocab` or `vectors_ngrams` was replaced."""
        if self.vectors_vocab is not self._parts[0] or self.vectors_ngrams is not self._parts[1]:
            parts = [np.asarray(self.vectors_vocab), np.asarray(self.vectors_ngrams)]
            for name, part, own in zip(("vocab", "ngrams"), parts, self._parts, strict=True):
                if part.shape != own.shape:
                    raise ValueError(
                        f"vectors_{name} must be of shape {own.shape}, got {part.shape}"
                    )
            self.share(np.concatenate(parts).astype(np.float32, copy=False))
        return self._table

    def share(self, table: np.ndarray) -> None:
        """Use this table from now on; :meth:`compose` should follow."""
        self.vectors_vocab = table[: self._composed_words]
        self.vectors_ngrams = table[self._composed_words :]
        self._parts = self.vectors_vocab, self.vectors_ngrams
        self._table = table

    def compose(self, bags: Bags | None = None) -> None:
        """Compute the words' vectors from the table; words that were appended keep theirs.

        Args:
            bags: the rows of each word, if they are known; else they are computed.
        """
        means = self.means(bags)
        appended = self.vectors[self._composed_words : len(self)]
        self.vectors = means if len(self) == len(means) else np.concatenate([means, appended])
        self.forget_norms()

    def means(self, bags: Bags | None = None) -> np.ndarray:
        """What the words' vectors are by the table, but for words that were appended. With no
        buckets not a copy."""
        table = self.table
        if self.bucket == 0:
            return self.vectors_vocab
        if bags is None:
            known = self.index_to_key[: self._composed_words]
            bags = self.subwords.bags(known, len(known))
        # The table is on the CPU, whatever backend is chosen for modules.
        with use_backend("auto"):
            words = torch.arange(self._composed_words)
            means: np.ndarray = bag_sum(
                torch.from_numpy(table), bags.offsets, bags.rows, words
            ).numpy()
        return means

    def __getstate__(self) -> dict[str, Any]:
        """The table once, and the vectors unless they are part of it."""
        table = self.table
        vectors = None if self.vectors is self.vectors_vocab else self.vectors
        kept = {**self.__dict__, "_table": table, "vectors": vectors, "_norms": None}
        for name in ("vectors_vocab", "vectors_ngrams", "_parts"):
            del kept[name]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.share(self._table)
        if state["vectors"] is None:
            self.vectors = self.vectors_vocab

    def __contains__(self, key: object) -> bool:
        return self.has_index_for(key) or (isinstance(key, str) and self.bucket > 0)

    def get_vector(self, key: Key, norm: bool = False) -> np.ndarray:
        """The vector of any word, float32, shape (dimensions,), read-only.

        Args:
            key: a word, or the number of a row.
            norm: scaled to length 1 (a vector of zeros stays as it is).

        Raises:
            KeyError: an unknown word, if there are no buckets.
        """
        if self.has_index_for(key) or key not in self:
            return super().get_vector(key, norm)
        rows = self.subwords.rows(str(key))
        vector = np.zeros(self.vector_size, np.float32)
        if rows:
            vector = self.vectors_ngrams[rows].mean(axis=0)
        length = np.linalg.norm(vector)
        if norm and length:
            vector = vector / length
        vector.setflags(write=False)
        return vector
