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
    COMPARED,
    MIN_COUNT,
    ROWS,
    SCALING,
    Contestants,
    Corpus,
    Row,
    cores_apart,
    cosines,
    cost,
    make_corpus,
    our_model,
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
    several = threads > 1
    target = row.target if several else row.target_of_one
    with thread_count(threads):
        pair(
            sides.train_ours,
            sides.train_theirs,
            # gensim's FastText composes its words' vectors at the end only: see below.
            tolerance=math.inf if row.kind == "FastText" or settings.QUICK else AGREEMENT,
            table="Word vectors",
            mode="training",
            threads=threads,
            target=asdict(target) if target else None,
            words=corpus.part_words,
            least_words=row.least if several else row.least_of_one,
            **_facts(row, sides.ours, corpus),
        )
    if not settings.QUICK:
        check_results(*sides.agree(), AGREEMENT)


@pytest.mark.skipif(len(settings.THREADS) < 2, reason="needs two processors")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_scaling(pair: Pair, row: Row, corpus: Corpus) -> None:
    """Two threads; the peer is the same training with one."""
    few, many = settings.THREADS
    models = {threads: our_model(row, corpus) for threads in (few, many)}
    frequent = models[few].wv.index_to_key[:COMPARED]

    def train(threads: int) -> list[torch.Tensor]:
        model = models[threads]
        model.workers = threads
        with thread_count(threads):
            model.train(corpus_file=corpus.part, epochs=1)
        return [cosines(model.wv, frequent)]

    pair(
        functools.partial(train, many),
        functools.partial(train, few),
        tolerance=math.inf if settings.QUICK else AGREEMENT,
        min_rounds=settings.MIN_ROUNDS if settings.QUICK else 10,
        table="Word vectors: two threads against one",
        mode="scaling",
        threads=many,
        target=asdict(SCALING),
        **_facts(row, models[many], corpus),
    )


def _facts(row: Row, model: Any, corpus: Corpus) -> dict[str, Any]:
    """What is recorded of a training of seqkern's model, whoever is the peer."""
    least = cost(row, model)
    table_bytes = 2 * 4 * len(model.wv) * model.vector_size  # what caches would have to hold
    return {
        "domain": "word2vec",
        "row": row.name,
        "shape": f"{corpus.part_words}-words",
        "batch": corpus.part_words,
        "backend": "cpu",
        "flops": least.flops * corpus.part_words,
        "peak_gflops": gemm_peak(torch.float32),
        "bytes": least.bytes * corpus.part_words,
        "peak_gbs": read_bandwidth(table_bytes),
        "memory_gbs": read_bandwidth(BEYOND_CACHES),
        "cores_apart_ns": cores_apart(),
    }


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
