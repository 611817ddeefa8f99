"""Encoded corpora that were cut off, changed, or made up."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqkern.core.errors import UserError
from seqkern.text import (
    CorpusFormatError,
    EncodedCorpus,
    MissingTextFileError,
    TextFileError,
    read_corpus,
)

TEXT = [["a", "b", "a"], ["c", "a", "b"], ["c"]]


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    read_corpus(TEXT, min_count=1, path=tmp_path / "good")
    return (tmp_path / "good").read_bytes()


def test_layout(good):
    assert good[:8] == b"seqkids\n"
    assert struct.unpack("<2I4Q", good[8:48]) == (1, 64, 10, 7, 3, 3)
    assert struct.unpack("<10i", good[64:]) == (0, 1, 0, -1, 2, 0, 1, -1, 2, -1)


def test_every_changed_bit_is_noticed(tmp_path, good):
    path = tmp_path / "changed"
    for byte in range(len(good)):
        for bit in (0, 3, 7):
            changed = bytearray(good)
            changed[byte] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(CorpusFormatError, match=re.escape(str(path))):
                EncodedCorpus.open(path)


def test_every_length_but_the_right_one_is_noticed(tmp_path, good):
    path = tmp_path / "cut"
    for length in [*range(len(good)), len(good) + 1, len(good) + 4, 5000]:
        path.write_bytes(good[:length].ljust(length, b"\0"))
        with pytest.raises(CorpusFormatError, match=re.escape(str(path))):
            EncodedCorpus.open(path)


@pytest.mark.parametrize(
    ("offset", "format", "value", "message"),
    [
        (0, "<Q", 0, "is no encoded corpus: its first 8 bytes"),
        (8, "<I", 2, "has version 2 at byte 8"),
        (12, "<I", 128, "a header of 128 bytes"),
        (16, "<Q", 11, "holds 40 bytes after its header, where byte 16 announces 11 numbers"),
        (16, "<Q", 2**62 + 10, "announces 4611686018427387914 numbers"),
        (24, "<Q", 2**64 - 1, "which do not add up to 10 numbers"),
        (32, "<Q", 4, "announces 7 words and 4 sentences"),
        (40, "<Q", 2**31, "announces 2147483648 different words at byte 40"),
        (40, "<Q", 2, "holds the word id 2 at byte 80, of a vocabulary of 2"),
        (68, "<i", 3, "holds the word id 3 at byte 68, of a vocabulary of 3"),
        (68, "<i", -2, "holds the word id -2 at byte 68"),
        (68, "<i", -1, "holds 4 sentence ends, where byte 32 announces 3"),
        (100, "<i", 1, "does not end with a sentence's end (-1) at byte 100"),
        (68, "<i", 0, "its checksum at byte 48 does not fit"),
    ],
)
def test_sentences(tmp_path, good, offset, format, value, message):
    changed = bytearray(good)
    struct.pack_into(format, changed, offset, value)
    path = tmp_path / "changed"
    path.write_bytes(changed)
    with pytest.raises(CorpusFormatError, match=re.escape(message)) as caught:
        EncodedCorpus.open(path)
    assert isinstance(caught.value, UserError) and isinstance(caught.value, ValueError)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=200),
    st.lists(st.tuples(st.integers(0, 103), st.binary(min_size=1, max_size=8)), max_size=4),
)
def test_hostile_bytes(tmp_path, good, tail, patches):
    """Whatever the bytes are, they are refused in a sentence or are what was written."""
    for data in (tail, good[:64] + tail, _patched(good, patches)):
        path = tmp_path / "hostile"
        path.write_bytes(data)
        try:
            opened = EncodedCorpus.open(path)
        except CorpusFormatError:
            continue
        assert data == good and opened.num_tokens == 7


def _patched(data: bytes, patches: list[tuple[int, bytes]]) -> bytes:
    changed = bytearray(data)
    for offset, piece in patches:
        changed[offset : offset + len(piece)] = piece
    return bytes(changed)


def test_vocabulary_that_does_not_fit(tmp_path, good):
    assert EncodedCorpus.open(tmp_path / "good", vocabulary_size=3).num_tokens == 7
    with pytest.raises(CorpusFormatError, match="a vocabulary of 3 words; the one used .* has 2"):
        EncodedCorpus.open(tmp_path / "good", vocabulary_size=2)


def test_files_that_are_none(tmp_path):
    with pytest.raises(MissingTextFileError, match="cannot read the encoded corpus .*nowhere"):
        EncodedCorpus.open(tmp_path / "nowhere")
    with pytest.raises(TextFileError, match="Is a directory"):
        EncodedCorpus.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TextFileError, match="Illegal seek"):
        EncodedCorpus.open(tmp_path / "pipe")


def test_more_than_a_buffer_of_ids(tmp_path):
    """Half a million ids, odd in number, so that the checksum runs over several buffers."""
    text = [[f"w{i % 1000}", f"w{i % 7}"] for i in range(174_763)]
    path = tmp_path / "ids"
    _, corpus = read_corpus(text, min_count=1, path=path)
    assert corpus.tokens.numel() == 3 * 174_763
    assert EncodedCorpus.open(path).tokens.equal(corpus.tokens)
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorpusFormatError):
        EncodedCorpus.open(path)
