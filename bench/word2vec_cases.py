"""What is measured of word vectors: the rows, their targets, the text, and the floor of each.

The floor is what one word of the text costs at the least on this machine: its arithmetic at the
speed of the matrix product, and the traffic of its rows at the speed of the memory, with every
output row of a window read and written once and every context row once for its whole stay in the
window.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

import seqkern
from seqkern.core.timing import timed
from seqkern.text import documentation_text

from . import settings
from .cases import thread_count
from .targets import Target
from .word2vec_quality import judge

WINDOW, NEGATIVES, SAMPLE, MIN_COUNT = 5, 5, 1e-3, 5
SCALING = Target(1.85)
"""How much faster two threads are to be than one."""
COMPARED = 300
"""Frequent words whose cosines both sides should agree on."""
AGREEMENT = 0.7
"""Largest difference of these `cosines`, relative in norm: they correlate by 1 - 0.7^2 / 2 = 0.75
or more. Two trainings are never alike; those that have nothing in common differ by the square root
of 2."""


class Corpus(NamedTuple):
    """A text, and the beginning of it that is trained on."""

    whole: Path
    part: Path
    part_words: int


def make_corpus(folder: Path) -> Corpus:
    """The text that WORD2VEC_CORPUS names, or one made of the documentation on this machine.

    WORD2VEC_WORDS, by default 4 million, says how many words of it a round trains on; the
    vocabulary is always that of the whole text.
    """
    named = os.environ.get("WORD2VEC_CORPUS")
    if named:
        whole = Path(named)
    else:
        whole = folder / "documentation.txt"
        text = documentation_text(400_000 if settings.QUICK else 30_000_000)
        whole.write_text("\n".join(_words(line) for line in text.splitlines()), "utf-8")
    limit = 20_000 if settings.QUICK else int(os.environ.get("WORD2VEC_WORDS", 4_000_000))
    part, words = folder / "part.txt", 0
    with open(whole, "rb") as source, open(part, "wb") as target:
        for line in source:
            if words >= limit:
                break
            words += len(line.split())
            target.write(line)
    return Corpus(whole, part, words)


def _words(line: str) -> str:
    return " ".join("".join(c if c.isalpha() else " " for c in line.lower()).split())


@dataclass(frozen=True)
class Row:
    """One model, trained by both sides."""

    name: str
    dim: int
    target: Target | None
    """Of the ratio, with 2 threads."""
    least: float
    """Words/s that seqkern should reach with 2 threads."""
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "Word2Vec"
    target_of_one: Target | None = None
    """Of the ratio, with 1 thread."""
    least_of_one: float | None = None

    def __str__(self) -> str:
        return self.name.replace(" ", "-").replace("=", "")  # as `-k` can select it

    def settings(self) -> dict[str, Any]:
        """Arguments of both constructors."""
        negative = 0 if self.options.get("hs") else NEGATIVES
        return {
            "vector_size": self.dim,
            "window": WINDOW,
            "negative": negative,
            "sample": SAMPLE,
            "min_count": MIN_COUNT,
            **self.options,
        }


ROWS = (
    Row("skip-gram NS d=100", 100, Target(7), 2.5e6, {"sg": 1}, "Word2Vec", Target(6), 1.3e6),
    Row("skip-gram NS d=300", 300, Target(5.5), 1.1e6, {"sg": 1}),
    Row("CBOW NS d=100", 100, Target(3), 4e6, {"sg": 0}),
    Row("skip-gram HS d=100", 100, Target(3), 1.5e6, {"sg": 1, "hs": 1}),
    Row("FastText skip-gram d=100", 100, Target(3.5), 0.7e6, {"sg": 1}, "FastText"),
)


def our_model(row: Row, corpus: Corpus, **more: Any) -> Any:
    """seqkern's model of a row, with the vocabulary of the whole text, ready to train; `more`
    arguments for its constructor."""
    model = getattr(seqkern, row.kind)(**row.settings(), **more)
    model.build_vocab(corpus_file=corpus.whole)
    return model


def cores_apart() -> float:
    """Nanoseconds that a cache line takes from one thread's core to another's and back, on which
    the gain of a second thread depends; 0 where no two threads run at once. A virtual machine may
    be given other processors at any time."""
    with thread_count(2):
        pairs = [torch.ops.seqkern.embedding_thread_distances(2) for _ in range(100)]
    found = [float(pair.min()) for pair in pairs if bool((pair > 0).all())]
    return median(found) if found else 0.0


def cosines(vectors: Any, words: Sequence[str]) -> Tensor:
    """The cosines of all pairs of different words, less their mean, over their deviation."""
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors[words]))
    all_pairs = unit @ unit.T
    of_two = all_pairs[~torch.eye(len(words), dtype=torch.bool)]
    return (of_two - of_two.mean()) / of_two.std()


class Contestants:
    """Both sides' models of one row."""

    def __init__(self, row: Row, corpus: Corpus, passes: int = 1, **ours_only: Any) -> None:
        """`passes`: of a training over the part of the text; `ours_only`: more arguments."""
        import gensim.models

        self._corpus, self._passes = corpus, passes
        self.ours = our_model(row, corpus, **ours_only)
        self._theirs = getattr(gensim.models, row.kind)(**row.settings())
        self._theirs.build_vocab(corpus_file=str(corpus.whole))
        # gensim composes the vectors of words after each training, in Python: seconds that would
        # count once a training and not once a round.
        self._compose = self._theirs._clear_post_train
        self._theirs._clear_post_train = lambda: None
        words = self.ours.wv.index_to_key
        frequent = [word for word in words[: 2 * COMPARED] if word in self._theirs.wv.key_to_index]
        self._frequent = frequent[:COMPARED]

    def use_threads(self, threads: int) -> None:
        """Train with so many."""
        self.ours.workers = self._theirs.workers = threads

    def use_the_peers_best(self) -> int:
        """Let both train with as many threads as gensim is fastest with, of the machine's and their
        halves; returns how many. What gensim learns in these trials is forgotten."""
        cores = os.cpu_count() or 1
        tables = (self._theirs.wv.vectors, self._theirs.syn1neg)
        start = [table.copy() for table in tables]
        seconds = {}
        for count in sorted({max(1, cores >> n) for n in range(3)}):
            self._theirs.workers = count
            seconds[count] = timed(partial(self._their_training, 1))
        for table, values in zip(tables, start, strict=True):
            table[:] = values
        best = min(seconds, key=seconds.__getitem__)
        self.use_threads(best)
        return best

    def train_ours(self) -> Sequence[Tensor]:
        """A training on the part of the text; returns frequent words' `cosines`."""
        self.ours.train(corpus_file=self._corpus.part, epochs=self._passes)
        return [cosines(self.ours.wv, self._frequent)]

    def train_theirs(self) -> Sequence[Tensor]:
        """The same with gensim."""
        self._their_training(self._passes)
        return [cosines(self._theirs.wv, self._frequent)]

    def _their_training(self, passes: int) -> None:
        self._theirs.train(
            corpus_file=str(self._corpus.part),
            total_examples=None,
            total_words=self._corpus.part_words,
            epochs=passes,
        )

    def judged(self) -> dict[str, tuple[float, float]]:
        """The scores of `word2vec_quality.judge`: ours and gensim's, after what they have trained
        so far."""
        from gensim.models import KeyedVectors

        self._compose()
        ours = KeyedVectors(self.ours.vector_size)
        ours.add_vectors(self.ours.wv.index_to_key, self.ours.wv.vectors)
        scores = [judge(vectors) for vectors in (ours, self._theirs.wv)]
        return {name: (scores[0][name], scores[1][name]) for name in scores[0]}

    def agree(self) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Both sides' `cosines` after what they have trained so far, gensim's vectors composed."""
        self._compose()
        ours, theirs = (cosines(side.wv, self._frequent) for side in (self.ours, self._theirs))
        return [ours], [theirs]


class Cost(NamedTuple):
    """What a word of the text costs at the least."""

    flops: float
    bytes: float


def cost(row: Row, model: Any) -> Cost:
    """Of one word of the text, unknown and thinned out words included.

    Args:
        row: what is trained.
        model: seqkern's model with its vocabulary.
    """
    counts = model.vocabulary.counts.double()
    kept_counts = counts * model._keep.double()
    kept = float(kept_counts.sum()) / model.corpus_total_words
    contexts = WINDOW + 1  # on average, both sides together: a reach is drawn from 1 to WINDOW
    weights = kept_counts / kept_counts.sum()
    if row.options.get("hs"):
        targets = float((weights * model._paths.offsets.diff()).sum())
    else:
        targets = 1.0 + NEGATIVES
    bag = 1.0
    if model._bags is not None:
        bag = float((weights * model._bags.offsets.diff()).sum())
    # A target and a context: a product of two rows and a multiple of each added to the other.
    predictions = contexts if row.options.get("sg") else 1
    flops = 6 * row.dim * predictions * targets
    if not row.options.get("sg"):
        flops += 2 * row.dim * contexts  # the mean and its gradient
    if bag > 1:
        flops += 2 * row.dim * bag
    return Cost(kept * flops, kept * 8 * row.dim * (targets + bag))
