"""The expected result for a text, in slow and plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

LONGEST_WORD = 65536


class Expected(NamedTuple):
    words: list[str]
    counts: list[int]
    total_words: int
    total_sentences: int
    tokens: list[int]


def sentences(data: bytes) -> list[list[str]]:
    """The words of each line of a text file; white space is Python's."""
    text = data.removeprefix(b"\xef\xbb\xbf")
    return [line.decode("utf-8", "replace").split() for line in text.split(b"\n")]


def expected(
    sentences: Iterable[list[str]],
    min_count: int = 1,
    max_vocab: int | None = None,
    max_sentence: int = 10_000,
) -> Expected:
    spoken = [sentence for sentence in sentences if sentence]
    counts = Counter(word for sentence in spoken for word in sentence)
    ranked = sorted(counts, key=lambda word: (-counts[word], word.encode()))
    words = [word for word in ranked if counts[word] >= min_count][:max_vocab]
    ids = {word: number for number, word in enumerate(words)}
    tokens: list[int] = []
    for sentence in spoken:
        known = [ids[word] for word in sentence if word in ids]
        for start in range(0, len(known), max_sentence):
            tokens += [*known[start : start + max_sentence], -1]
    counted = [counts[word] for word in words]
    return Expected(words, counted, sum(counts.values()), len(spoken), tokens)
