"""The demo's second part: word vectors of the same text, and gensim's time beside ours."""

from __future__ import annotations

import contextlib
import importlib
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seqkern.core.errors import UserError
from seqkern.text import documentation_text, read_text
from seqkern.word2vec import KeyedVectors, Word2Vec
from seqkern.word2vec.commands import describe

TEXT_LIMIT = 4_000_000  # characters
WORD = re.compile(r"[^\W\d_]+")  # letters of any script
LEAST_WORDS = 1000
SHOWN = 5  # words whose neighbours are printed
NEIGHBOURS = 4
# Words this frequent occur everywhere and have no meaningful neighbours.
COMMON = 30
# What both sides train with; everything else has the same default.
SETTINGS: dict[str, Any] = {"vector_size": 100, "sg": 1}


def train_words(text_file: Path | None, epochs: int, seed: int) -> None:
    """Train word vectors with seqkern and, if it is installed, with gensim, and print what came
    out.

    Args:
        text_file: the text; None: the documentation of the installed packages.
        epochs: passes over it.
        seed: of the training.

    Raises:
        UserError: the text cannot be read.
    """
    text = read_text(text_file, TEXT_LIMIT) if text_file else documentation_text(TEXT_LIMIT)
    sentences = [WORD.findall(line) for line in text.lower().splitlines()]
    words = sum(map(len, sentences))
    if words < LEAST_WORDS:
        print(f"words     the text has only {words:,}, too few for word vectors")
        return
    with _as_file(sentences) as path:
        settings = {
            **SETTINGS,
            "corpus_file": str(path),
            "epochs": epochs,
            "workers": torch.get_num_threads(),
            "seed": seed,
        }
        start = time.perf_counter()
        model = Word2Vec(**settings, progress=True)
        ours = time.perf_counter() - start
        print(f"words     {words:,} words, {len(model.wv):,} different ones that occur 5 times")
        print(f"          {describe(model)}")
        for line in neighbours(model.wv):
            print(f"          {line}")
        speed = words * epochs / ours
        print(f"          {ours:.1f} s, {speed / 1e6:.2f} M words/s with vocabulary and encoding")
        theirs = _gensims_seconds(settings)
    if theirs is None:
        print("          gensim is not installed; with it its time would stand here")
    else:
        speed = words * epochs / theirs
        print(
            f"          gensim takes {theirs:.1f} s, {speed / 1e6:.2f} M words/s: "
            f"seqkern is {theirs / ours:.1f} times as fast"
        )


def neighbours(vectors: KeyedVectors) -> Iterator[str]:
    """Lines of some frequent words and what is nearest to them."""
    frequent = [word for word in vectors.index_to_key[COMMON:] if len(word) > 2]
    for word in (frequent or vectors.index_to_key)[:SHOWN]:
        near = vectors.most_similar(word, topn=NEIGHBOURS, restrict_vocab=len(vectors) // 2 or 1)
        yield f"{word}: " + ", ".join(f"{other} {cosine:.2f}" for other, cosine in near)


@contextlib.contextmanager
def _as_file(sentences: list[list[str]]) -> Iterator[Path]:
    """A temporary text file, which is the fastest way for both."""
    try:
        with tempfile.TemporaryDirectory(prefix="seqkern-demo-") as folder:
            path = Path(folder, "text")
            path.write_text("".join(" ".join(line) + "\n" for line in sentences if line), "utf-8")
            yield path
    except OSError as error:
        raise UserError(f"cannot write {error.filename}: {error.strerror}") from error


def _gensims_seconds(settings: dict[str, Any]) -> float | None:
    """How long gensim takes for the same; None if it is not installed."""
    try:
        theirs = importlib.import_module("gensim.models").Word2Vec
    except ImportError:
        return None
    start = time.perf_counter()
    theirs(**settings)
    return time.perf_counter() - start
