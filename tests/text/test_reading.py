"""Counting and encoding, against the slow oracle."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from seqkern.text import (
    EncodedCorpus,
    TextFormatError,
    Vocabulary,
    compression,
    encode_corpus,
    encoding,
    read_corpus,
)

from .oracle import Expected, expected, sentences

POEM = "the cat sat\non the mat\n\nand the dog  sat\ttoo\n"
KOREAN = "동해 물과 백두산이 마르고 닳도록\n하느님이 보우하사 우리나라 만세\n" * 3


def outcome(source: Any, **options: Any) -> Expected:
    """What seqkern makes of a source."""
    with TemporaryDirectory() as folder:
        return _outcome(source, Path(folder, "ids"), **options)


def _outcome(source: Any, path: Path, **options: Any) -> Expected:
    vocabulary, corpus = read_corpus(source, path=path, **options)
    with corpus:
        again = EncodedCorpus.open(path, vocabulary_size=len(vocabulary))
        tokens: list[int] = corpus.tokens.tolist()
        assert again.tokens.tolist() == tokens
        ends = tokens.count(-1)
        assert corpus.num_sentences == again.num_sentences == ends
        assert corpus.num_tokens == again.num_tokens == len(tokens) - ends
    return Expected(
        vocabulary.words,
        vocabulary.counts.tolist(),
        vocabulary.total_words,
        vocabulary.total_sentences,
        tokens,
    )


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "text"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("text", [POEM, KOREAN, "", "\n\n", " ", "one", "one\n"])
def test_small_texts(tmp_path, text, threads):
    found = outcome(write(tmp_path, text), min_count=1, threads=threads)
    assert found == expected(sentences(text.encode()))


def test_what_it_means(tmp_path):
    vocabulary, corpus = read_corpus(write(tmp_path, POEM), min_count=2)
    assert vocabulary.words == ["the", "sat"]
    assert vocabulary.counts.tolist() == [3, 2]
    assert vocabulary.counts.dtype == torch.int64
    assert (vocabulary.total_words, vocabulary.total_sentences) == (11, 3)
    assert corpus.tokens.tolist() == [0, 1, -1, 0, -1, 0, 1, -1]
    assert corpus.tokens.dtype == torch.int32
    assert corpus.tokens.data_ptr() % 64 == 0
    corpus.close()


def test_ties_go_by_the_bytes_of_the_word(tmp_path):
    words = ["é", "z", "a", "Z", "\U0001f600", "\uffee", "aa"]
    found = outcome(write(tmp_path, " ".join(words)), min_count=1)
    assert found.words == sorted(words, key=str.encode)


@pytest.mark.parametrize("min_count", [0, 1, 2, 3])
@pytest.mark.parametrize("max_vocab", [None, 1, 3, 1000])
def test_limits(tmp_path, min_count, max_vocab):
    options = {"min_count": min_count, "max_vocab": max_vocab}
    found = outcome(write(tmp_path, POEM), **options)
    assert found == expected(sentences(POEM.encode()), **options)


@pytest.mark.parametrize("max_sentence", [1, 2, 3, 4, 10_000])
def test_long_sentences_are_cut(tmp_path, max_sentence):
    text = "a b c d\nrare\na a a\nb\n" * 4
    options = {"min_count": 5, "max_sentence": max_sentence}
    found = outcome(write(tmp_path, text), **options)
    assert found == expected(sentences(text.encode()), **options)
    assert max(map(len, "".join(map(chr, (t + 2 for t in found.tokens))).split("\1"))) <= (
        max_sentence
    )


def test_white_space_is_that_of_str_split(tmp_path):
    """Every character of Unicode between two letters, in one text."""
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    text = "\n".join(f"a{c}b" for c in characters if c != "\n")
    found = outcome(write(tmp_path, text), min_count=1)
    assert found == expected(sentences(text.encode()))
    spaces = sum(c.isspace() for c in characters) - 1
    assert found.counts[found.words.index("a")] == spaces == 28


PIECES = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b" ", b"\n", b"\r\n", b"\t", b"\x1c", b"\0", b"\xef\xbb\xbf"]),
    st.sampled_from(["\u3000", "\xa0", "\x85", "\u2003", "\u202f", "한국", "é"]).map(str.encode),
    st.sampled_from([b"\xe3\x80", b"\xc2", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80"]),
    st.sampled_from([b"word", b"longer-than-8", b"longer-than-16-bytes", b"x" * 15, b"x" * 16]),
)


def is_no_archive(data: bytes) -> bool:
    """Hypothesis tries the constants that it finds in the code."""
    try:
        return compression.compression_of("", data) is None
    except TextFormatError:
        return False


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.lists(PIECES, max_size=40).map(b"".join),
    chunk=st.sampled_from([4, 5, 7, 16, 64, 2**18]),
    threads=st.sampled_from([1, 3]),
    min_count=st.sampled_from([1, 2]),
    max_sentence=st.sampled_from([1, 3, 10_000]),
)
def test_random_bytes(tmp_path, monkeypatch, data, chunk, threads, min_count, max_sentence):
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    assume(is_no_archive(data))
    options = {"min_count": min_count, "max_sentence": max_sentence}
    path = write(tmp_path, data)
    found = outcome(path, threads=threads, errors="replace", **options)
    assert found == expected(sentences(data), **options)
    try:
        data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data[:at].count(b"\n") + 1
        with pytest.raises(TextFormatError, match=f": line {line}, byte {at}: 0x"):
            read_corpus(path, threads=threads, **options)
    else:
        if data.count(0) < 8:  # else it might be UTF-16
            assert outcome(path, threads=threads, **options) == found


def test_threads_do_not_change_a_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK", 512)
    generator = torch.Generator().manual_seed(1)
    numbers = torch.empty(50_000).exponential_(0.01, generator=generator).int()
    text = "".join(f"w{n}\n" if n % 7 == 0 else f"w{n} " for n in numbers.tolist())
    files = []
    for threads in (1, 2, 3, 8):
        path = tmp_path / f"{threads}.ids"
        vocabulary, _ = read_corpus(write(tmp_path, text), threads=threads, path=path)
        files.append((vocabulary.words, path.read_bytes()))
    assert all(file == files[0] for file in files)
    assert len(files[0][0]) > 100


def test_iterables_of_words():
    text = [["a", "b", "a"], (w for w in ["c", "a"]), [], ("", "a b", "한국")]
    want = expected([["a", "b", "a"], ["c", "a"], [], ["", "a b", "한국"]])
    assert outcome(iter(text), min_count=1) == want


def test_many_sentences_of_words():
    text = [[f"w{i % 97}", f"v{i % 11}"] for i in range(50_000)]
    assert outcome(text, min_count=1) == expected(text)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (["a b", "c"], TypeError, "sentence 0 is str: 'a b'"),
        ([["a"], b"c"], TypeError, "sentence 1 is bytes: b'c'"),
        ([["a", 3]], TypeError, "it holds 3"),
        ([3], TypeError, "not iterable"),
        ([["\ud800"]], ValueError, "surrogates not allowed"),
    ],
)
def test_what_is_no_sentence(tmp_path, source, error, message):
    with pytest.raises(error, match=re.escape(message)):
        read_corpus(source, path=tmp_path / "ids")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_an_iterable_pass(tmp_path):
    def broken():
        yield ["a"]
        raise OSError(5, "of somebody else")

    with pytest.raises(OSError, match="of somebody else"):
        read_corpus(broken(), path=tmp_path / "ids")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pattern", [r"\w+", re.compile(r"(\w)(\w*)|[.]"), r"x*"])
def test_pattern(tmp_path, pattern):
    text = "\ufeffThe cat, sat.\r\nXx xxx né!\xff\n\n한국-어"
    data = text.encode()
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    want = [
        [m.group() for m in re.finditer(pattern, line.decode("utf-8", "replace")) if m.group()]
        for line in lines
    ]
    found = outcome(write(tmp_path, data), pattern=pattern, min_count=1, errors="replace")
    assert found == expected(want)


def test_encoding_with_a_given_vocabulary(tmp_path):
    vocabulary = Vocabulary.from_counts({"the": 9, "dog": 2, "absent": 1})
    with encode_corpus(write(tmp_path, POEM), vocabulary) as corpus:
        assert corpus.tokens.tolist() == [0, -1, 0, -1, 0, 1, -1]
        assert corpus.vocabulary_size == 3
    with encode_corpus([["dog", "x"], ["y"]], vocabulary) as corpus:
        assert corpus.tokens.tolist() == [1, -1]


def test_progress(tmp_path):
    path = write(tmp_path, POEM)
    seen = []
    read_corpus(path, progress=lambda *done: seen.append(done))[1].close()
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    seen.clear()
    read_corpus([["a"]] * 2500, progress=lambda *done: seen.append(done))[1].close()
    assert seen == [(0, 2500), (1000, 2500), (2000, 2500), (2500, 2500)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": -1}, "min_count should not be negative; it is -1"),
        ({"max_vocab": 0}, "max_vocab should be None or at least 1; it is 0"),
        ({"max_sentence": 0}, "max_sentence should be at least 1; it is 0"),
        ({"threads": 0}, "threads should be None or from 1 to 1024; it is 0"),
        ({"errors": "ignore"}, "errors should be 'strict' or 'replace'; it is 'ignore'"),
    ],
)
def test_arguments_out_of_range(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_corpus(write(tmp_path, POEM), **options)


def test_pattern_is_for_text(tmp_path):
    with pytest.raises(ValueError, match="pattern is for text files"):
        read_corpus([["a"]], pattern=r"\w+")
    with pytest.raises(TypeError, match="it is one for bytes"):
        read_corpus(write(tmp_path, POEM), pattern=re.compile(rb"\w+"))


def test_the_text_is_not_overwritten(tmp_path):
    path = write(tmp_path, POEM)
    with pytest.raises(ValueError, match="path should not be the text itself"):
        read_corpus(path, path=path)
    assert path.read_text() == POEM
