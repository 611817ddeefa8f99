"""One training: epochs over an encoded corpus, in pieces short enough to be interrupted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from seqkern.embedding.training import Tally
from seqkern.text import EncodedCorpus
from seqkern.word2vec.divergence import LIMIT, DivergenceError, Watch
from seqkern.word2vec.progress import Listener, Progress

PIECE = 1 << 20
"""Tokens of a piece: a tenth of a second to a second or two. It does not depend on the time that
they take, so the same seed gives the same pieces."""
GPU_PIECE = 1 << 22
"""Tokens of a piece on a GPU, where each one costs some dozens of launches."""
LONGEST_SENTENCE = 10_000
"""Words; longer ones are cut, as gensim does."""

Step = Callable[[torch.Tensor, float, float, int], Tally]
"""Trains on tokens, from one learning rate to another, with a seed."""


@dataclass
class Schedule:
    """How the learning rate falls.

    Args:
        start: at the beginning of the first epoch.
        end: at the end of the last one, and never below.
        epochs: passes over the corpus.
        share: by which share of an epoch's fall one pass lowers it: 1, unless the caller says that
            an epoch has more or fewer words than this corpus.
    """

    start: float
    end: float
    epochs: int
    share: float = 1.0

    def at(self, epoch: int, done: float) -> float:
        """After `epoch` whole epochs and the part `done` of another."""
        progress = (epoch + done * self.share) / self.epochs
        return max(self.end, self.start - (self.start - self.end) * progress)


class Training:
    """Runs the epochs and counts.

    Args:
        corpus: what is learnt from.
        raw_words: its number of words, unknown ones included.
        step: the kernel.
        schedule: of the learning rate.
        seed: of everything random; each piece gets a seed of its own.
        piece: tokens of a piece; None: PIECE.
        watch: checks what is trained; None: no check.
    """

    def __init__(
        self,
        corpus: EncodedCorpus,
        raw_words: int,
        step: Step,
        schedule: Schedule,
        seed: tuple[int, ...],
        piece: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._tokens = corpus.tokens
        self._raw_words = raw_words
        self._step = step
        self._schedule = schedule
        self._seed = seed
        self._piece = piece or PIECE
        self._watch = watch
        self._started = time.perf_counter()
        self._reached = 0, 0, (schedule.start, schedule.start)
        self.kept = 0
        """Words that were trained on, after those that subsampling left out."""
        self.pairs = 0
        """Predictions that were made."""
        self.loss: float | None = None
        """Mean over the pairs of the latest epoch, as far as it got; None without any."""

    def epoch(self, number: int, listener: Listener | None) -> None:
        """One pass over the corpus.

        Raises:
            DivergenceError: a number has grown too much. Those of frequent words are checked after
                each piece, all of them at the end.
        """
        total = len(self._tokens)
        pairs, loss = 0, 0.0
        for piece, (start, end) in enumerate(pieces(self._tokens, self._piece)):
            lr, final_lr = (self._schedule.at(number, at / total) for at in (start, end))
            seed = _seed(*self._seed, number, piece)
            tally = self._step(self._tokens[start:end], lr, final_lr, seed)
            words = round(self._raw_words * (number + end / total))
            self._reached = number, words, (lr, final_lr)
            if self._watch is not None:
                self.refuse(self._watch.all() if end == total else self._watch.frequent())
            self.kept += tally.kept
            self.pairs += tally.pairs
            if tally.loss is not None and tally.pairs:
                pairs += tally.pairs
                loss += tally.loss * tally.pairs
                self.loss = loss / pairs
            if listener is not None:
                listener(
                    Progress(
                        epoch=number,
                        epochs=self._schedule.epochs,
                        words=words,
                        total_words=self._raw_words * self._schedule.epochs,
                        words_per_second=words / (time.perf_counter() - self._started),
                        learning_rate=final_lr,
                        loss=self.loss,
                    )
                )

    def refuse(self, largest: float) -> None:
        """Raise if this is too large to be in a table, as far as training got.

        Raises:
            DivergenceError: it is.
        """
        if largest < LIMIT:
            return
        epoch, words, rates = self._reached
        epochs, start = self._schedule.epochs, self._schedule.start
        raise DivergenceError(
            f"training diverged in epoch {epoch + 1} of {epochs}, before word {words:,} of "
            f"{self._raw_words * epochs:,}, where the learning rate went from {rates[0]:.4g} to "
            f"{rates[1]:.4g}: the vectors hold {describe(largest)} and are lost. Start anew "
            "(build_vocab does), or from what you saved before, with a lower alpha. It was "
            f"{start:g}; usual are 0.025 (skip-gram) and 0.05 (CBOW)"
        )


def describe(largest: float) -> str:
    """Describes a value that no table should hold."""
    if math.isnan(largest):
        return "NaN"
    return "infinity" if math.isinf(largest) else f"numbers as large as {largest:.3g}"


def pieces(tokens: torch.Tensor, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive pieces of about `size` tokens, each a number of whole sentences."""
    start, total = 0, len(tokens)
    while start < total:
        end = min(start + size, total)
        while end < total and tokens[end - 1] != -1:
            following = tokens[end : end + LONGEST_SENTENCE + 1]
            ends = (following == -1).nonzero()
            end += int(ends[0]) + 1 if len(ends) else len(following)
        yield start, end
        start = end


def _seed(*numbers: int) -> int:
    """A seed of 63 bits from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
