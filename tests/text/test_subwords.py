"""fastText's n-grams and hash, against known values and a second implementation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkern.core.library import require_text
from seqkern.text import Subwords


def slow_hash(data: bytes) -> int:
    """FNV-1a as in fastText, where a byte is a signed char that widens to 32 bits."""
    value = 2166136261
    for byte in data:
        value ^= byte if byte < 128 else byte | 0xFFFFFF00
        value = value * 16777619 % 2**32
    return value


def slow_ngrams(word: str, min_n: int, max_n: int) -> list[str]:
    text = f"<{word}>"
    return [
        text[i : i + n]
        for i in range(len(text))
        for n in range(min_n, max_n + 1)
        if i + n <= len(text) and not (n == 1 and i in (0, len(text) - 1))
    ]


# ASCII values are those of plain FNV-1a (its authors' test vectors).
@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0x811C9DC5),
        (b"a", 0xE40C292C),
        (b"foobar", 0xBF9CF968),
        ("안녕".encode(), slow_hash("안녕".encode())),
    ],
)
def test_hash(data, value):
    assert require_text().fasttext_hash(data) == value


def test_signed_bytes_differ_from_plain_fnv():
    plain = 2166136261
    for byte in "é".encode():
        plain = (plain ^ byte) * 16777619 % 2**32
    assert require_text().fasttext_hash("é".encode()) != plain


@settings(deadline=None)
@given(st.text(max_size=12), st.integers(1, 4), st.integers(0, 7))
def test_random_words(word, min_n, max_n):
    if any(0xD800 <= ord(c) < 0xE000 for c in word):
        return
    subwords = Subwords(min_n, max_n, 1000)
    want = slow_ngrams(word, min_n, max_n)
    assert subwords.ngrams(word) == want
    assert subwords.rows(word) == [slow_hash(n.encode()) % 1000 for n in want]


WORDS = ["a", "where", "한국어", "대한민국", "naïve", "", "\U0001f600\U0001f600", "< >", "x" * 300]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("lengths", [(3, 6), (1, 3), (2, 2), (5, 4), (4, 100)])
def test_against_gensim(word, lengths):
    gensim = pytest.importorskip("gensim.models.fasttext")
    subwords = Subwords(*lengths)
    assert subwords.rows(word) == gensim.ft_ngram_hashes(word, *lengths, 2_000_000)
    inner = gensim.compute_ngrams_bytes(word, *lengths)
    assert [n.encode() for n in subwords.ngrams(word)] == inner


def test_known_ngrams():
    assert Subwords(3, 4).ngrams("cat") == ["<ca", "<cat", "cat", "cat>", "at>"]
    assert Subwords(3, 3).ngrams("한국") == ["<한국", "한국>"]


def test_bags():
    subwords = Subwords(3, 6, 50)
    words = ["cat", "한국어", "aaaaaa", ""]
    bags = subwords.bags(words, 4)
    rows, offsets = bags.rows.tolist(), bags.offsets.tolist()
    for number, word in enumerate(words):
        want = [number, *(4 + row for row in subwords.rows(word))]
        assert rows[offsets[number] : offsets[number + 1]] == want
    assert offsets[0] == 0 and offsets[-1] == len(rows)
    assert Subwords(buckets=0).bags(words, 4).rows.tolist() == [0, 1, 2, 3]
    assert Subwords(5, 4).bags(words, 4).rows.tolist() == [0, 1, 2, 3]
    assert Subwords().bags([], 0).offsets.tolist() == [0]


def test_errors():
    with pytest.raises(ValueError, match="they are 0 and 6"):
        Subwords(min_n=0)
    with pytest.raises(ValueError, match="it is 2147483648"):
        Subwords(buckets=2**31)
    with pytest.raises(ValueError, match="they are 2147483647 and 2000000"):
        Subwords().bags(["a"], 2**31 - 1)
    with pytest.raises(ValueError, match="surrogates"):
        Subwords().rows("\ud800")
