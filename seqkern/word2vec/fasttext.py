"""FastText: Word2Vec with a vector for each character n-gram (Bojanowski et al. 2017, "Enriching
word vectors with subword information")."""

from __future__ import annotations

from binascii import crc32
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqkern.core.atomic_file import FilePath
from seqkern.text import Subwords, Vocabulary
from seqkern.word2vec import tables
from seqkern.word2vec.arguments import whole
from seqkern.word2vec.corpora import Sentences
from seqkern.word2vec.model import Word2Vec
from seqkern.word2vec.progress import Listener
from seqkern.word2vec.subword_vectors import FastTextKeyedVectors


class FastText(Word2Vec):
    """Learns vectors of words and of the pieces of words, so that unseen words have one, too.

    Names, meanings and defaults are those of gensim 4's ``FastText``, in its order. (Facebook's own
    program draws negatives with power 0.5 and samples with 1e-4; here as in gensim it is 0.75 and
    1e-3.)

    Args:
        sentences, corpus_file, sg, hs, vector_size, alpha, window: as in :class:`Word2Vec`.
        min_count, max_vocab_size, sample, seed, workers, min_alpha, negative: as there.
        ns_exponent, cbow_mean, epochs, callbacks, max_final_vocab, shrink_windows: as there.
        compute_loss, share_negatives, deterministic, device, errors, progress: as there.
        gensims_others: as there.
        word_ngrams: 1; others are for classification and not supported.
        min_n: characters of the shortest n-grams, counted with the marks < and > around the word.
        max_n: characters of the longest ones; less than `min_n`: no n-grams.
        bucket: n-grams are hashed into so many buckets, each with a vector of its own.

    Attributes:
        wv: the :class:`FastTextKeyedVectors`.

    Raises:
        ValueError, TypeError, NotImplementedError, OSError, FloatingPointError: as
            :class:`Word2Vec`.
    """

    wv: FastTextKeyedVectors

    def __init__(
        self,
        sentences: Sentences | None = None,
        corpus_file: FilePath | None = None,
        sg: int = 0,
        hs: int = 0,
        vector_size: int = 100,
        alpha: float = 0.025,
        window: int = 5,
        min_count: int = 5,
        max_vocab_size: None = None,
        word_ngrams: int = 1,
        sample: float = 1e-3,
        seed: int = 1,
        workers: int = 3,
        min_alpha: float = 0.0001,
        negative: int = 5,
        ns_exponent: float = 0.75,
        cbow_mean: int = 1,
        epochs: int = 5,
        min_n: int = 3,
        max_n: int = 6,
        bucket: int = 2_000_000,
        callbacks: Sequence[Any] = (),
        max_final_vocab: int | None = None,
        shrink_windows: bool = True,
        *,
        compute_loss: bool = False,
        share_negatives: bool = True,
        deterministic: bool = False,
        device: torch.device | str = "cpu",
        errors: str = "strict",
        progress: bool | Listener = False,
        **gensims_others: Any,
    ) -> None:
        if word_ngrams != 1:
            raise NotImplementedError(
                f"word_ngrams={word_ngrams!r} is not supported, only 1: n-grams of words are for "
                "classification"
            )
        self.word_ngrams = 1
        self.min_n = whole("min_n", min_n, 1, 1000)
        self.max_n = whole("max_n", max_n, 0, 1000)
        self.bucket = whole("bucket", bucket, 0)
        if self.max_n < self.min_n:
            self.bucket = 0
        super().__init__(
            sentences,
            corpus_file,
            vector_size=vector_size,
            alpha=alpha,
            window=window,
            min_count=min_count,
            max_vocab_size=max_vocab_size,
            sample=sample,
            seed=seed,
            workers=workers,
            min_alpha=min_alpha,
            sg=sg,
            hs=hs,
            negative=negative,
            ns_exponent=ns_exponent,
            cbow_mean=cbow_mean,
            epochs=epochs,
            compute_loss=compute_loss,
            callbacks=callbacks,
            max_final_vocab=max_final_vocab,
            shrink_windows=shrink_windows,
            share_negatives=share_negatives,
            deterministic=deterministic,
            device=device,
            errors=errors,
            progress=progress,
            **gensims_others,
        )

    def _start_input(self, vocabulary: Vocabulary) -> None:
        words = len(vocabulary)
        self._input = tables.zeros(words + self.bucket, self.vector_size)
        tables.fill_random(self._input[:words], self.seed)
        tables.fill_random(self._input[words:], self.seed + 1)
        if self.bucket:  # without, it is Word2Vec
            subwords = Subwords(self.min_n, self.max_n, self.bucket)
            self._bags = subwords.bags(vocabulary.words, words)

    def _vectors(self, vocabulary: Vocabulary) -> FastTextKeyedVectors:
        return FastTextKeyedVectors(
            vocabulary.words,
            self._input.numpy(),
            self.min_n,
            self.max_n,
            vocabulary.counts.numpy(),
        )

    @property
    def _tables(self) -> tuple[Tensor, Tensor]:
        return self._input, self._output

    def _publish(self) -> None:
        self.wv.share(self._input.numpy())
        self.wv.compose(self._bags)
        self._shown = self.wv.vectors
        self._shown_sum = _checksum(self._shown)
        self._shown_table = self.wv.table

    def _held_by_wv(self) -> np.ndarray:
        return self.wv.table

    def _take_over(self) -> bool:
        """As in Word2Vec, for the words' own vectors and for those of the buckets. Where a word's
        mean is another one its own vector is changed, so that the mean becomes what was given."""
        self._check_words()
        vectors, table = self.wv.vectors, self.wv.table
        means = None
        if vectors is not self._shown or _checksum(vectors) != self._shown_sum:
            means = self._trainable("wv.vectors", vectors, len(self.wv))
        elif table is self._shown_table:
            return False
        if table is not self._shown_table:
            self._fill(self._trainable("wv.table", table, len(self._input)))
            self.wv.share(self._input.numpy())
        if means is not None:
            self._move_means(means)
            self.wv.vectors = means
        self._publish()
        return True

    def _check_words(self) -> None:
        if not isinstance(self.wv, FastTextKeyedVectors):
            raise TypeError(f"wv must be FastTextKeyedVectors, got {type(self.wv).__name__}")
        super()._check_words()
        wanted = self.min_n, self.max_n, self.bucket
        given = self.wv.min_n, self.wv.max_n, len(self.wv.table) - len(self.wv.vectors_vocab)
        if given != wanted:
            raise ValueError(
                f"wv must have the min_n, max_n and bucket of the model, {wanted}, got {given}"
            )

    def _move_means(self, means: np.ndarray) -> None:
        """Change the words' own vectors where a word's mean is not what it should be."""
        own = self.wv.vectors_vocab
        now = self.wv.means(self._bags)
        moved = np.flatnonzero((now != means[: len(own)]).any(axis=1))
        sizes = np.ones((len(moved), 1))  # of the words' bags
        if self._bags is not None:
            sizes = self._bags.offsets.diff().numpy()[moved, None].astype(np.float64)
        others = sizes * now[moved] - own[moved]
        own[moved] = self._trainable(
            "wv.vectors, each times the number of its word's n-grams,",
            sizes * means[moved] - others,
            len(moved),
        )


def _checksum(vectors: np.ndarray) -> int:
    return crc32(np.ascontiguousarray(vectors).data)
