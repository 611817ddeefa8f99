"""Files of word vectors: round trips, and files that lie."""

from __future__ import annotations

import os
import stat
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkern.core.errors import UserError
from seqkern.word2vec import KeyedVectors, formats
from seqkern.word2vec.formats import FormatError
from tests.text.compressing import KINDS, compress
from tests.word2vec.vectors import some_vectors

WORDS = ["the", "단어", "naïve", "<s>", "🦊", "a_b", "nan"]
NUMBERS = [0.0, -0.0, 1 / 3, -1e-38, 1e-45, 3.4028235e38, 123456.79, np.inf, -np.inf, np.nan]


def awkward() -> KeyedVectors:
    """Words of many scripts, numbers of every size."""
    vectors = np.array([NUMBERS] * len(WORDS), np.float32)
    vectors[:, 2] += np.arange(len(WORDS), dtype=np.float32) / 7
    return KeyedVectors.from_arrays(WORDS, vectors, np.arange(len(WORDS), 0, -1))


@pytest.mark.parametrize("binary", [False, True])
class TestRoundTrip:
    def test_every_bit(self, tmp_path: Path, binary: bool) -> None:
        before, path = awkward(), tmp_path / "v"
        before.save_word2vec_format(path, binary=binary)
        after = KeyedVectors.load_word2vec_format(path, binary=binary)
        assert after.index_to_key == before.index_to_key
        assert after.vectors.dtype == np.float32
        np.testing.assert_array_equal(after.vectors.view("u4"), before.vectors.view("u4"))

    def test_counts(self, tmp_path: Path, binary: bool) -> None:
        path, counts = tmp_path / "v", tmp_path / "counts"
        awkward().save_word2vec_format(path, counts, binary=binary, prefix="*")
        after = KeyedVectors.load_word2vec_format(path, counts, binary=binary)
        assert after.index_to_key == ["*" + word for word in WORDS]
        assert after.get_vecattr("*단어", "count") == len(WORDS) - 1

    def test_padded_rows(self, tmp_path: Path, binary: bool) -> None:
        table = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
        words = list("abcde")
        path = tmp_path / "v"
        KeyedVectors.from_arrays(words, table[:, :3]).save_word2vec_format(path, binary=binary)
        after = KeyedVectors.load_word2vec_format(path, binary=binary)
        np.testing.assert_array_equal(after.vectors, table[:, :3])

    def test_the_first_words_only(self, tmp_path: Path, binary: bool) -> None:
        path = tmp_path / "v"
        some_vectors().save_word2vec_format(path, binary=binary)
        for limit in (0, 1, 50, 1000):
            after = KeyedVectors.load_word2vec_format(path, binary=binary, limit=limit)
            assert len(after) == min(limit, 50)
        with pytest.raises(ValueError, match="limit must be at least 0"):
            KeyedVectors.load_word2vec_format(path, limit=-1)

    def test_no_words(self, tmp_path: Path, binary: bool) -> None:
        path = tmp_path / "v"
        KeyedVectors(3).save_word2vec_format(path, binary=binary)
        after = KeyedVectors.load_word2vec_format(path, binary=binary)
        assert (len(after), after.vector_size) == (0, 3)

    def test_words_across_the_readers_chunks(
        self, tmp_path: Path, binary: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(formats, "_CHUNK", 1)
        monkeypatch.setattr(formats, "LONGEST_WORD", 20)
        path = tmp_path / "v"
        before = some_vectors(200)
        before.save_word2vec_format(path, binary=binary)
        after = KeyedVectors.load_word2vec_format(path, binary=binary)
        np.testing.assert_array_equal(after.vectors, before.vectors)


def test_without_a_first_line(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    before = awkward()
    before.save_word2vec_format(path, write_header=False)
    after = KeyedVectors.load_word2vec_format(path, no_header=True)
    assert after.index_to_key == WORDS
    np.testing.assert_array_equal(after.vectors.view("u4"), before.vectors.view("u4"))
    for call in (
        lambda: before.save_word2vec_format(path, binary=True, write_header=False),
        lambda: KeyedVectors.load_word2vec_format(path, binary=True, no_header=True),
    ):
        with pytest.raises(ValueError, match="a binary file needs its first line"):
            call()


def load(folder: Path, content: bytes, binary: bool = False, **options: object) -> KeyedVectors:
    path = folder / "file"
    path.write_bytes(content)
    return KeyedVectors.load_word2vec_format(path, binary=binary, **options)  # type: ignore[arg-type]


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


class TestOthersFiles:
    def test_binary_with_line_feeds(self, tmp_path: Path) -> None:
        content = b"2 2\na " + vector(1, 2) + b"\nb " + vector(3, 4) + b"\n"
        assert load(tmp_path, content, True)["b"].tolist() == [3, 4]

    def test_fasttexts_spaces_at_the_end_and_windows_lines(self, tmp_path: Path) -> None:
        assert load(tmp_path, b"2 2\na 1 2 \nb 3 4 \n")["b"].tolist() == [3, 4]
        assert load(tmp_path, b"2 2\r\na 1 2\r\nb 3 4\r\n")["b"].tolist() == [3, 4]
        assert load(tmp_path, b"2 2\na 1 2\nb 3 4")["b"].tolist() == [3, 4]

    def test_repeated_words(self, tmp_path: Path) -> None:
        with pytest.warns(UserWarning, match="1 words occur more than once"):
            vectors = load(tmp_path, b"3 1\na 1\na 2\nb 3\n")
        assert vectors.index_to_key == ["a", "b"]
        assert vectors.vectors.tolist() == [[1], [3]]

    def test_words_cut_within_a_character(self, tmp_path: Path) -> None:
        content = b"1 1\n\xeb\x8b 1\n"
        with pytest.raises(FormatError, match=r"byte 4: the word .* is no UTF-8"):
            load(tmp_path, content)
        assert load(tmp_path, content, unicode_errors="replace").index_to_key == ["\ufffd"]


class TestFilesThatLie:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "byte 0: it must begin with a line of two numbers"),
            (b"hello world\n", "byte 0: it must begin with a line of two numbers"),
            (b"1 2", "byte 0: it must begin"),
            (b"-1 2\n", "byte 0: it must begin"),
            (b"1 2 3\n", "byte 0: it must begin"),
            (b"9" * 500 + b" 1\n", "byte 0: it must begin"),
            (b"\x1f\x8b\x08\x00rest", "its gzip data stop at byte 8, before their end"),
            (b"PK\x03\x04rest", "its first bytes are those of a zip archive; unpack it first"),
            (b"1 0\na\n", "byte 0: vectors of 0 dimensions"),
            (b"999999999999 300\na 1\n", "byte 17: 999999999999 words of 300 dimensions take"),
            (b"1 999999999999999999\na 1\n", "byte 21: 1 words of 999999999999999999 dim"),
            (b"2 2\na 1 2\n       \n", "byte 10: word 2 has 0 numbers, not 2"),
            (b"1 2\na 1 2 3\n", "byte 4: word 1 has 3 numbers, not 2"),
            (b"1 2\na 1 x\n", "byte 4: something in the vector of word 1 is no number"),
            (b"1 2\na 1 1_0\n", "byte 4: something in the vector of word 1 is no number"),
            (b"1 2\n 1 2\n", "byte 4: a word is missing"),
            (b"1 1\na 1\nb 2\n", "byte 8: 4 bytes follow the last word"),
            (b"3 1\na 1\nb  2222\n", "byte 8: word 2 has 2 numbers"),
            (b"2 1\na 100000000\n", "byte 16: the file ends before word 2 of 2"),
            (b"1 1\n" + b"a" * 70_000 + b" 1\n", "byte 4: a line of more than"),
        ],
    )
    def test_text(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises(FormatError, match=message) as caught:
            load(tmp_path, content)
        assert isinstance(caught.value, UserError) and "file" in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"2 2\na " + vector(1, 2), "byte 4: 2 words of 2 dimensions take at least 20 bytes"),
            (b"1 2\nab" + vector(1, 2), "byte 4: the file ends before word 1 of 1 does"),
            (b"2 1\nabcdef " + vector(1) + b"b", "byte 15: the file ends before word 2 of 2 does"),
            (b"1 2\nabc " + vector(1, 2)[:7], "byte 8: the file ends within the vector of word 1"),
            (b"1 1\n " + vector(1) + b" ", "byte 4: a word is missing"),
            (b"1 1\na " + vector(1) + b"rest", "byte 10: 4 bytes follow the last word"),
            (b"1 1\n" + b"a" * 70_000, "byte 4: word 1 is longer than 65536 bytes"),
        ],
    )
    def test_binary(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises(FormatError, match=message):
            load(tmp_path, content, True)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "byte 0: the first line must hold a word and its numbers"),
            (b"word\n", "byte 0: the first line must hold a word and its numbers"),
            (b"a 1 2 3 4\n\n\n\n\n", "byte 0: 5 lines of 4 numbers do not fit"),
            (b"a 1 2\nb 1\n        ", "byte 6: word 2 has 1 numbers, not 2"),
        ],
    )
    def test_without_a_first_line(self, tmp_path: Path, content: bytes, message: str) -> None:
        with pytest.raises(FormatError, match=message):
            load(tmp_path, content, no_header=True)

    def test_no_memory_is_taken_on_a_promise(self, tmp_path: Path) -> None:
        tracemalloc.start()
        try:
            for binary in (False, True):
                with pytest.raises(FormatError):
                    load(tmp_path, b"1000000000 1000\na 1 2\n", binary)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    def test_no_plain_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        handle = os.open(tmp_path / "pipe", os.O_RDWR)  # or opening it would wait for a writer
        try:
            with pytest.raises(FormatError, match="it is no plain file"):
                KeyedVectors.load_word2vec_format(tmp_path / "pipe")
        finally:
            os.close(handle)
        with pytest.raises(OSError, match="Is a directory"):
            KeyedVectors.load_word2vec_format(tmp_path)
        with pytest.raises(FileNotFoundError):
            KeyedVectors.load_word2vec_format(tmp_path / "missing")

    def test_counts(self, tmp_path: Path) -> None:
        counts = tmp_path / "counts"
        for content, message in (
            (b"a 1\nb\n", "byte 4: a line must hold a word and its count"),
            (b"a -1\n", "byte 0: a line must hold a word and its count"),
            (b"b 1\n", "has no count of the word 'a'"),
        ):
            counts.write_bytes(content)
            with pytest.raises(FormatError, match=message):
                load(tmp_path, b"1 1\na 1\n", fvocab=counts)

    @settings(max_examples=300, deadline=None)
    @given(data=st.data(), binary=st.booleans(), header=st.booleans())
    def test_damage_is_an_error_or_vectors(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        data: st.DataObject,
        binary: bool,
        header: bool,
    ) -> None:
        """Any damage of a good file gives a FormatError or vectors, and nothing else."""
        folder = tmp_path_factory.mktemp("fuzz")
        some_vectors(4, 2).save_word2vec_format(
            folder / "good", binary=binary, write_header=binary or header
        )
        content = bytearray((folder / "good").read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content)))
            length = data.draw(st.integers(0, 5))
            content[place : place + length] = data.draw(
                st.sampled_from([b"", b" ", b"\n", b"\0", b"9", b"99999999", b"-", b"\xff", b"e"])
                | st.binary(max_size=6)
            )
        (folder / "bad").write_bytes(content)
        try:
            loaded = KeyedVectors.load_word2vec_format(
                folder / "bad", binary=binary, no_header=not (binary or header)
            )
        except FormatError as error:
            assert "byte" in str(error)
        except UserWarning:
            pass
        else:
            assert loaded.vectors.shape == (len(loaded.index_to_key), loaded.vector_size)
            assert "" not in loaded

    @settings(max_examples=200, deadline=None)
    @given(content=st.binary(max_size=60), binary=st.booleans(), header=st.booleans())
    def test_noise_is_an_error_or_vectors(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes, binary: bool, header: bool
    ) -> None:
        folder = tmp_path_factory.mktemp("noise")
        try:
            load(folder, content, binary, no_header=not (binary or header))
        except FormatError as error:
            assert "byte" in str(error)


@pytest.mark.parametrize("kind", KINDS)
class TestCompressed:
    """Under any name."""

    @pytest.mark.parametrize("form", ["text", "binary", "no header"])
    def test_every_bit(
        self, tmp_path: Path, kind: str, form: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where memory for the vectors has to grow."""
        monkeypatch.setattr(formats, "_FIRST_NUMBERS", 70)
        before, path = some_vectors(300), tmp_path / "v"
        binary, header = form == "binary", form != "no header"
        before.save_word2vec_format(path, tmp_path / "c", binary=binary, write_header=header)
        for file in (path, tmp_path / "c"):
            file.write_bytes(compress(kind, file.read_bytes()))
        for limit in (None, 7):
            after = KeyedVectors.load_word2vec_format(
                path, tmp_path / "c", binary=binary, no_header=not header, limit=limit
            )
            assert after.index_to_key == before.index_to_key[:limit]
            np.testing.assert_array_equal(after.vectors, before.vectors[:limit])
            assert after.get_vecattr(3, "count") == before.get_vecattr(3, "count")
        if header:
            assert formats.looks_binary(path) == binary

    @pytest.mark.parametrize("binary", [False, True])
    def test_files_that_lie(self, tmp_path: Path, kind: str, binary: bool) -> None:
        word = b"a " + (vector(1) if binary else b"1\n")
        for content, message in (
            (b"3 1\n" + word, "byte .*: the file ends before word 2 of 3"),
            (b"1 1\n" + word + b"rest", "byte .*: something follows the last word"),
            (b"9999999999 1000\n" + word, "byte"),
            (b"1 999999999999999999\n" + word, "byte 0: vectors of 999999999999999999 dim"),
        ):
            tracemalloc.start()
            try:
                with pytest.raises(FormatError, match=message):
                    load(tmp_path, compress(kind, content), binary)
                assert tracemalloc.get_traced_memory()[1] < 1 << 26
            finally:
                tracemalloc.stop()

    def test_cut_off(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "v"
        some_vectors(300).save_word2vec_format(path)
        path.write_bytes(compress(kind, path.read_bytes())[:-9])
        with pytest.raises(FormatError, match=f"cannot read {path}: its {kind} data stop at byte"):
            KeyedVectors.load_word2vec_format(path)


class TestWriting:
    @pytest.mark.parametrize("word", ["", "new york", "a\nb", "a\tb", " a", "\ud800", "a" * 70_000])
    def test_words_that_no_reader_would_find(self, tmp_path: Path, word: str) -> None:
        vectors = KeyedVectors.from_arrays([word], np.zeros((1, 2), np.float32))
        for binary in (False, True):
            with pytest.raises(ValueError, match=r"cannot be written|is longer than"):
                vectors.save_word2vec_format(tmp_path / "v", binary=binary)
        assert list(tmp_path.iterdir()) == []

    def test_the_old_file_stays_until_the_new_one_is_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "v"
        some_vectors(3).save_word2vec_format(path)
        before = path.read_bytes()

        class Row(np.ndarray):
            def astype(self, *arguments: object, **options: object) -> np.ndarray:
                raise KeyboardInterrupt

        broken = some_vectors(9)
        broken.vectors = broken.vectors.view(Row)
        with pytest.raises(KeyboardInterrupt):
            broken.save_word2vec_format(path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["v"]

    def test_links_and_permissions_stay(self, tmp_path: Path) -> None:
        target, link = tmp_path / "target", tmp_path / "link"
        target.write_text("old")
        target.chmod(0o640)
        link.symlink_to(target)
        some_vectors(3).save_word2vec_format(link)
        assert link.is_symlink() and target.read_bytes().startswith(b"3 7\n")
        assert stat.S_IMODE(target.stat().st_mode) == 0o640

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            some_vectors(3).save_word2vec_format(tmp_path / "missing" / "v")

    def test_unknown_counts(self, tmp_path: Path) -> None:
        vectors = KeyedVectors.from_arrays(["a"], np.zeros((1, 2), np.float32))
        with pytest.raises(ValueError, match="have no counts to write"):
            vectors.save_word2vec_format(tmp_path / "v", tmp_path / "counts")
