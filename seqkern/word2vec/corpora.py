"""The text of a training as word ids, kept as long as the text is unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Any, NamedTuple

from seqkern.core.atomic_file import FilePath
from seqkern.core.errors import UserError
from seqkern.text import EncodedCorpus, Vocabulary, encode_corpus, read_corpus

Sentences = Iterable[Sequence[str]]


class CorpusError(UserError, ValueError):
    """A text without a word to train on; a ``ValueError``. The message says why."""


class FileState(NamedTuple):
    """Identifies the content of a file without reading it."""

    path: str
    size: int
    changed: int

    @classmethod
    def of(cls, path: FilePath) -> FileState:
        state = os.stat(path)
        return cls(os.path.realpath(path), state.st_size, state.st_mtime_ns)


class Encoded(NamedTuple):
    """A text as word numbers."""

    corpus: EncodedCorpus
    words: int
    """Of the text, unknown ones included."""
    sentences: int
    state: FileState | None
    """The file that it came from; None: from sentences."""

    def is_of(self, corpus_file: FilePath | None) -> bool:
        """Whether it is the content of this file, unchanged since."""
        return corpus_file is not None and self.state == FileState.of(corpus_file)


def one_source(
    name: str, corpus_iterable: Sentences | None, corpus_file: FilePath | None
) -> Sentences | FilePath:
    """The one of the two that is given.

    Raises:
        TypeError: neither, both, or something else than a path or an iterable of sentences.
    """
    if (corpus_iterable is None) == (corpus_file is None):
        raise TypeError(f"{name}: give either sentences or corpus_file")
    if corpus_file is not None:
        if not isinstance(corpus_file, str | PathLike):
            raise TypeError(f"{name}: corpus_file must be a path, got {corpus_file!r:.80}")
        return corpus_file
    if isinstance(corpus_iterable, str | bytes) or not isinstance(corpus_iterable, Iterable):
        raise TypeError(
            f"{name}: sentences must be an iterable of lists of words, got "
            f"{corpus_iterable!r:.80}; the name of a file goes to corpus_file"
        )
    return corpus_iterable


def read(source: Sentences | FilePath, **options: Any) -> tuple[Vocabulary, Encoded]:
    """Count the words of a text and encode it; see :func:`seqkern.text.read_corpus`.

    Raises:
        CorpusError: no word is left.
    """
    state = FileState.of(source) if isinstance(source, str | PathLike) else None
    vocabulary, corpus = read_corpus(source, **options)
    if not len(vocabulary):
        corpus.close()
        if not vocabulary.total_words:
            raise CorpusError(_no_words(source))
        raise CorpusError(
            f"none of the {vocabulary.total_words} words of the text occurs "
            f"min_count={options['min_count']} times"
        )
    return vocabulary, Encoded(corpus, vocabulary.total_words, vocabulary.total_sentences, state)


def encode(source: Sentences | FilePath, vocabulary: Vocabulary, **options: Any) -> Encoded:
    """Encode a text with a vocabulary; see :func:`seqkern.text.encode_corpus`.

    Raises:
        CorpusError: no word of it is in the vocabulary.
    """
    state = FileState.of(source) if isinstance(source, str | PathLike) else None
    corpus = encode_corpus(source, vocabulary, **options)
    assert corpus.text_words is not None and corpus.text_sentences is not None
    if not corpus.num_tokens:
        corpus.close()
        if corpus.text_words:
            raise CorpusError(
                f"none of the {corpus.text_words} words of the text is among the "
                f"{len(vocabulary)} of the vocabulary"
            )
        raise CorpusError(_no_words(source))
    return Encoded(corpus, corpus.text_words, corpus.text_sentences, state)


def _no_words(source: Sentences | FilePath) -> str:
    """What to say of a text without any."""
    if isinstance(source, str | PathLike):
        return f"the text {os.fspath(source)} holds no words"
    if isinstance(source, Iterator):
        return (
            f"the sentences hold no words: {type(source).__name__} objects give theirs only once, "
            "and this one has none left. Give a list, or an object that starts anew each time"
        )
    return "the sentences hold no words"
