"""Training word vectors, and counting and encoding their text, against gensim's fastest way (a text
file instead of sentences).

The text is what WORD2VEC_CORPUS names, see `word2vec_cases.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkern.text import read_corpus

from . import settings
from .bandwidth import BEYOND_CACHES, read_bandwidth
from .cases import thread_count
from .gemm import gemm_peak
from .pair import Pair, check_results
from .targets import Target
from .word2vec_cases import (
    AGREEMENT,
    MIN_COUNT,
    ROWS,
    Contestants,
    Corpus,
    Row,
    cost,
    make_corpus,
)

pytest.importorskip("gensim", reason="the peer, gensim, is not installed")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def contestants(corpus: Corpus) -> Iterator[Any]:
    """Makes the two sides of a row; only the latest ones stay in memory."""
    make = functools.lru_cache(maxsize=1)(lambda row: Contestants(ROWS[row], corpus))
    yield make
    make.cache_clear()


@pytest.mark.parametrize("threads", settings.THREADS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_training(pair: Pair, row: Row, threads: int, corpus: Corpus, contestants: Any) -> None:
    sides: Contestants = contestants(ROWS.index(row))
    sides.use_threads(threads)
    least = cost(row, sides.ours)
    several = threads > 1
    target = row.target if several else row.target_of_one
    with thread_count(threads):
        pair(
            sides.train_ours,
            sides.train_theirs,
            # gensim's FastText composes its words' vectors at the end only: see below.
            tolerance=math.inf if row.kind == "FastText" or settings.QUICK else AGREEMENT,
            domain="word2vec",
            table="Word vectors",
            row=row.name,
            mode="training",
            shape=f"{corpus.part_words}-words",
            batch=corpus.part_words,
            threads=threads,
            backend="cpu",
            flops=least.flops * corpus.part_words,
            peak_gflops=gemm_peak(torch.float32),
            bytes=least.bytes * corpus.part_words,
            peak_gbs=read_bandwidth(_table_bytes(sides)),
            memory_gbs=read_bandwidth(BEYOND_CACHES),
            target=asdict(target) if target else None,
            words=corpus.part_words,
            least_words=row.least if several else row.least_of_one,
        )
    if not settings.QUICK:
        check_results(*sides.agree(), AGREEMENT)


def _table_bytes(sides: Contestants) -> int:
    """Of the rows that a text touches, which is at most what the caches have to hold."""
    rows = len(sides.ours.wv)
    return 2 * 4 * rows * sides.ours.vector_size


@pytest.mark.parametrize("threads", settings.THREADS)
def test_reading(pair: Pair, threads: int, corpus: Corpus, tmp_path: Path) -> None:
    """Vocabulary and encoding of the whole text; gensim only counts."""
    from gensim.models import Word2Vec

    words: list[int] = []

    def ours() -> list[torch.Tensor]:
        vocabulary, encoded = read_corpus(
            corpus.whole, min_count=MIN_COUNT, path=tmp_path / "ids", threads=threads
        )
        encoded.close()
        words.append(vocabulary.total_words)
        return [vocabulary.counts]

    def theirs() -> list[torch.Tensor]:
        model = Word2Vec(min_count=MIN_COUNT)
        model.scan_vocab(corpus_file=str(corpus.whole))
        counts = torch.tensor(sorted(model.raw_vocab.values(), reverse=True))
        return [counts[counts >= MIN_COUNT]]

    ours()
    size = corpus.whole.stat().st_size
    with thread_count(threads):
        pair(
            ours,
            theirs,
            tolerance=0.0,
            domain="word2vec",
            table="Reading a text",
            row="vocabulary and encoding",
            mode="reading",
            shape=f"{words[0]}-words",
            batch=words[0],
            threads=threads,
            backend="cpu",
            flops=0.0,
            peak_gflops=gemm_peak(torch.float32),
            bytes=size,
            peak_gbs=read_bandwidth(size),
            memory_gbs=read_bandwidth(BEYOND_CACHES),
            target=asdict(Target(1)) if threads > 1 else None,
            words=words[0],
            least_words=20e6 if threads > 1 else None,
        )
