"""The vocabulary by itself."""

from __future__ import annotations

import re

import pytest
import torch

from seqkern.text import Vocabulary


def test_lookup():
    vocabulary = Vocabulary(["b", "a"], torch.tensor([5, 5]), total_words=12, total_sentences=3)
    assert len(vocabulary) == 2
    assert list(vocabulary) == vocabulary.words == ["b", "a"]
    assert vocabulary["a"] == 1
    assert "a" in vocabulary and "c" not in vocabulary and 3 not in vocabulary
    with pytest.raises(KeyError, match="c"):
        vocabulary["c"]
    assert repr(vocabulary) == "Vocabulary(2 words of 12 in the text)"


def test_from_counts():
    counts = {"rare": 1, "b": 3, "a": 3, "c": 9}
    vocabulary = Vocabulary.from_counts(counts, min_count=2, max_vocab=2, total_sentences=4)
    assert vocabulary.words == ["c", "a"]
    assert vocabulary.counts.tolist() == [9, 3]
    assert (vocabulary.total_words, vocabulary.total_sentences) == (16, 4)


@pytest.mark.parametrize(
    ("words", "counts", "error", "message"),
    [
        (["a", "b", "a"], [3, 2, 1], ValueError, "it holds 'a' twice"),
        (["a", 3], [3, 2], TypeError, "words should hold str; it holds 3"),
        (["a"], [3, 2], ValueError, "counts should have the shape (1,)"),
        (["a", "b"], [2, 3], ValueError, "should fall or stay"),
        (["a", "b"], [2, -3], ValueError, "should not be negative"),
        (["a"], [2.0], TypeError, "counts should be int64; it is torch.float32"),
    ],
)
def test_errors(words, counts, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Vocabulary(words, torch.tensor(counts))
