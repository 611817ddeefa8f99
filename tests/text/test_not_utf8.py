"""Texts that are not UTF-8: an error that says where, or U+FFFD where that is asked for."""

from __future__ import annotations

import re

import pytest

from seqkern.core.errors import UserError
from seqkern.text import TextFormatError, Vocabulary, encode_corpus, encoding, read_corpus

from .oracle import LONGEST_WORD, expected, sentences
from .test_reading import outcome, write
from .test_robustness import leaves

SENTENCE = "나는 커피를 마신다\n그는 책을 읽는다\n"
BINARY = bytes(range(256)) * 20


def refused(path, **options):
    """The error, after which no file is left."""
    with pytest.raises(TextFormatError) as caught:
        read_corpus(path, path=path.with_name("ids"), **options)
    assert isinstance(caught.value, UserError) and isinstance(caught.value, ValueError)
    assert leaves(path.parent) == {"text"}
    return str(caught.value)


@pytest.mark.parametrize("pattern", [None, r"\w+"])
@pytest.mark.parametrize(
    ("data", "place"),
    [
        (SENTENCE.encode("cp949"), "line 1, byte 0: 0xb3 0xaa 0xb4 0xc2 is no UTF-8"),
        (b"one two\n\nthree\n" + SENTENCE.encode("cp949"), "line 4, byte 15: 0xb3 0xaa"),
        (SENTENCE.encode("utf-16"), "line 1, byte 0: 0xff 0xfe 0x98 0xb0 .* begins as UTF-16"),
        (("english\n" * 9).encode("utf-16"), "line 1, byte 0: 0xff 0xfe 0x65 0x00 .*UTF-16"),
        (BINARY, "line 2, byte 128: 0x80 0x81"),
        ("naïve café".encode("latin-1"), "line 1, byte 2: 0xef 0x76"),
        (b"\xef\xbb\xbfa\nb \xff", "line 2, byte 7: 0xff is"),
        (b"a \xed\xa0\x80", "line 1, byte 2: 0xed 0xa0 0x80 is"),  # a surrogate
        (b"a\r\n\xc0\xaf b", "line 2, byte 3: 0xc0"),  # an overlong form
        ("words 낱말".encode()[:-1], "line 1, byte 9: 0xeb 0xa7 is"),  # cut off
        ("낱말\n".encode() * 7 + b"\xe3\x80 b", "line 8, byte 49: 0xe3 0x80 0x20"),
    ],
)
def test_where(tmp_path, data, place, pattern):
    path = write(tmp_path, data)
    message = refused(path, pattern=pattern)
    assert re.search(re.escape(f"cannot read {path}: ") + place, message), message
    assert 'errors="replace"' in message
    with pytest.raises(TextFormatError, match=place):
        encode_corpus(path, Vocabulary.from_counts({"a": 1}), pattern=pattern)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_place_whatever_thread_is_faster(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(encoding, "CHUNK", 64)
    line = "낱말 word\n".encode()
    for lines in (0, 1, 100, 3000):
        bad = b"".join(line + b"\xb0%d\xff\n" % n for n in range(4000))
        message = refused(write(tmp_path, line * lines + bad), threads=threads)
        assert f"line {lines + 2}, byte {len(line) * (lines + 1)}: 0xb0" in message


@pytest.mark.parametrize("chunk", [1000, 2**18])
@pytest.mark.parametrize("tail", [b"", b" and more\n"])
def test_within_a_word_that_is_cut(tmp_path, monkeypatch, chunk, tail):
    """Also where nothing of it is kept."""
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    for character in ("x", "é", "낱", "\U0001f600"):
        for size in (100, LONGEST_WORD - 2, LONGEST_WORD + 1, 300_001):
            good = (character * size).encode()[:size].decode("utf-8", "ignore").encode()
            for bad in (b"\xff", b"\xe3\x80", b"\xf0\x9f\x98"):
                data = b"start\n" + good + bad + b"x" * (size // 2) + tail
                message = refused(write(tmp_path, data), threads=2)
                assert f"line 2, byte {6 + len(good)}: 0x{bad[0]:02x}" in message
            data = b"start\n" + good + tail
            assert outcome(write(tmp_path, data), min_count=1).total_words == len(data.split())


def test_a_word_that_was_cut_at_the_same_place_before(tmp_path):
    """The beginning of a character, once with and once without its end."""
    long = b"x" * (LONGEST_WORD - 1) + b"\xc3"
    path = write(tmp_path, long + b"\xa9 " + long + b" b")
    assert f"line 1, byte {2 * LONGEST_WORD + 1}: 0xc3 0x20 0x62" in refused(path, threads=1)


@pytest.mark.parametrize("data", [SENTENCE.encode("cp949"), BINARY, SENTENCE.encode("utf-16")])
def test_replaced_where_asked_for(tmp_path, data):
    path = write(tmp_path, data)
    assert outcome(path, min_count=1, errors="replace") == expected(sentences(data))


@pytest.mark.parametrize("name", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("pattern", [None, r"\w+"])
def test_wide_characters_without_a_mark(tmp_path, name, pattern):
    """English in UTF-16 is valid UTF-8 with a zero after each letter."""
    path = write(tmp_path, ("the cat sat on the mat\n" * 9).encode(name))
    message = refused(path, pattern=pattern)
    first = 0 if name.endswith("be") else 1
    assert f"line 1, byte {first}: the first of " in message
    assert "zeros in " in message and "no UTF-8 text (UTF-16, or a binary file?)" in message
    outcome(path, errors="replace", pattern=pattern)


def test_zeros_in_a_text_are_characters(tmp_path):
    data = b"a\0b \0 \0 " + b"some words and some more of them\n" * 9
    assert outcome(write(tmp_path, data), min_count=1) == expected(sentences(data))
