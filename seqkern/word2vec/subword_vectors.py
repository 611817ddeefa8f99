"""Word vectors made of the vectors of character n-grams, so that any word has one (Bojanowski et
al. 2017, "Enriching word vectors with subword information")."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from seqkern.backends import use_backend
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

    Attributes:
        vectors: the means, float32, shape (words, dimensions); :meth:`compose` computes them anew.
        vectors_vocab: the words' own vectors, the beginning of `table`.
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
        self.share(table)

    @property
    def subwords(self) -> Subwords:
        """How a word is cut."""
        return Subwords(self.min_n, self.max_n, self.bucket)

    @property
    def bucket(self) -> int:
        """Number of buckets."""
        return len(self.vectors_ngrams)

    def share(self, table: np.ndarray) -> None:
        """Look at this table from now on; :meth:`compose` should follow."""
        self.vectors_vocab = table[: len(self)]
        self.vectors_ngrams = table[len(self) :]
        self._table = table

    def compose(self, bags: Bags | None = None) -> None:
        """Compute the words' vectors from the table.

        Args:
            bags: the rows of each word, if they are at hand; else they are looked up.
        """
        if self.bucket == 0:
            self.vectors = self.vectors_vocab
        else:
            if bags is None:
                bags = self.subwords.bags(self.index_to_key, len(self))
            table, words = torch.from_numpy(self._table), torch.arange(len(self))
            # Files and trained models alike lie on the CPU, whatever backend modules are to take.
            with use_backend("auto"):
                self.vectors = bag_sum(table, bags.offsets, bags.rows, words).numpy()
        self.forget_norms()

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
