"""The file formats of word2vec: a line "WORDS DIMENSIONS", then the words with their vectors.

In a text file each line holds a word and its numbers, separated by spaces. In a binary file a word
ends with a space, float32 numbers (little-endian) follow, and a line feed may stand before the next
word. gensim, fastText (``.vec``), GloVe (text without the first line) and word2vec itself read and
write these.

A file is not trusted: its first line is checked against its size before memory is allocated (memory
for a compressed one grows with what it holds), and everything that does not fit is an error that
says at which byte.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from seqkern.core.atomic_file import FilePath, whole_file
from seqkern.core.errors import UserError
from seqkern.text import TextFormatError
from seqkern.text.opening import PlainFile

LONGEST_WORD = 65_536  # bytes
LONGEST_NUMBER = 64  # bytes; float32 takes 15, but other programs may write more digits
_HEADER = re.compile(rb"[ \t]*(\d{1,18})[ \t]+(\d{1,18})[ \t]*\r?\n")
_LONGEST_HEADER = 128  # bytes
_LONGEST_FIRST_LINE = 1 << 26  # bytes; where no header says how long a line may be
_CHUNK = 1 << 22  # bytes
# In a compressed file, whose length is unknown before its end:
_MOST_DIMENSIONS = 1 << 20
_FIRST_NUMBERS = 1 << 22  # for which memory is allocated before that many were read
_NUMBER = "%.9g"  # nine digits bring every float32 back exactly


class FormatError(UserError, ValueError):
    """A file of word vectors that cannot be read; a ``ValueError``. The message says at which byte
    and why."""


class LoadedVectors(NamedTuple):
    """What a file held.

    Args:
        words: each once.
        vectors: float32, shape (words, dimensions).
    """

    words: list[str]
    vectors: np.ndarray


def save(
    path: FilePath,
    words: Sequence[str],
    vectors: np.ndarray,
    *,
    binary: bool = False,
    header: bool = True,
    prefix: str = "",
) -> None:
    """Write word vectors; the file is written completely or not at all.

    Args:
        path: the file.
        words: none may be empty or hold a white-space character that would end it for a reader.
        vectors: shape (words, dimensions); written as float32.
        binary: the binary format.
        header: whether to write the first line; False gives GloVe's format (text only).
        prefix: put before each word.

    Raises:
        ValueError: a word cannot be written, or `binary` without `header`.
        OSError: the file cannot be written.
    """
    if binary and not header:
        raise ValueError("write_header=False is for text files; a binary file needs its first line")
    if len(vectors) and not vectors.shape[1]:
        raise ValueError("vectors of 0 dimensions cannot be written")
    encoded = [_encode(prefix + word) for word in words]
    line = b" ".join([_NUMBER.encode()] * vectors.shape[1]) + b"\n"
    with whole_file(path) as file:
        if header:
            file.write(b"%d %d\n" % vectors.shape)
        for word, vector in zip(encoded, vectors, strict=True):
            if binary:
                file.write(word + b" " + vector.astype("<f4").tobytes())
            else:
                file.write(word + b" " + line % tuple(vector.astype(np.float32).tolist()))


def save_counts(path: FilePath, words: Sequence[str], counts: np.ndarray, prefix: str = "") -> None:
    """Write a line "WORD COUNT" for each word: word2vec's ``-save-vocab``. Errors as in
    :func:`save`."""
    encoded = [_encode(prefix + word) for word in words]
    with whole_file(path) as file:
        for word, count in zip(encoded, counts.tolist(), strict=True):
            file.write(b"%s %d\n" % (word, count))


def load(
    path: FilePath,
    *,
    binary: bool = False,
    header: bool = True,
    limit: int | None = None,
    unicode_errors: str = "strict",
) -> LoadedVectors:
    """Read word vectors.

    Args:
        path: the file, in the format written above, compressed or not; no pipe.
        binary: the binary format.
        header: whether the file begins with the line "WORDS DIMENSIONS".
        limit: read no more than so many words, and nothing after them.
        unicode_errors: what to do with words that are no UTF-8, as for ``bytes.decode``.

    Returns:
        The words, in the order of the file, and their vectors. Of a word that comes twice the first
        vector counts, with a warning.

    Raises:
        FormatError: the file is damaged, cut off or something else; says at which byte (of a
            compressed file: of what was decompressed).
        OSError: it cannot be read.
        ValueError: `limit` is negative, or `binary` without `header`.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be at least 0, got {limit}")
    if binary and not header:
        raise ValueError("no_header=True is for text files; a binary file needs its first line")
    with _open(path) as file:
        reader = _Reader(path, file, unicode_errors)
        promised, size = reader.header(binary) if header else reader.count_lines()
        count = promised if limit is None else min(promised, limit)
        vectors = np.empty((reader.rows_at_once(count, size), size), np.float32)
        rows = reader.binary_rows(count, size) if binary else reader.text_rows(count, size)
        words: dict[str, None] = {}
        repeated = 0
        for word, vector in rows:
            if word in words:
                repeated += 1
                continue
            if len(words) == len(vectors):  # in place, where the system can move pages
                vectors.resize((min(2 * len(vectors), count), size), refcheck=False)
            vectors[len(words)] = vector
            words[word] = None
        if count == promised:
            reader.end()
    if repeated:
        warnings.warn(
            f"{path}: {repeated} words occur more than once; the first vector of each counts",
            stacklevel=3,
        )
        vectors = vectors[: len(words)].copy()
    return LoadedVectors(list(words), vectors)


def looks_binary(path: FilePath) -> bool:
    """Whether a file with a first line is in the binary format: whether control characters, which
    no text has and hardly any vector lacks, stand near its beginning.

    Raises:
        OSError: it cannot be read.
    """
    with _open(path) as file:
        beginning = file.stream.read(_CHUNK)
    return any(byte in beginning for byte in set(range(32)) - set(b"\t\n\v\f\r"))


def load_counts(path: FilePath, unicode_errors: str = "strict") -> dict[str, int]:
    """Read the lines "WORD COUNT" that :func:`save_counts` and word2vec write.

    Raises:
        FormatError: a line is something else; says at which byte.
        OSError: the file cannot be read.
    """
    counts = {}
    with _open(path) as file:
        reader = _Reader(path, file, unicode_errors)
        while line := reader.line(LONGEST_WORD + LONGEST_NUMBER):
            parts = line.split()
            if len(parts) != 2 or not re.fullmatch(rb"\d{1,18}", parts[1]):
                raise reader.error("a line must hold a word and its count", reader.at - len(line))
            counts[reader.decode(parts[0], reader.at - len(line))] = int(parts[1])
    return counts


@contextmanager
def _open(path: FilePath) -> Iterator[PlainFile]:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait for a writer
        raise FormatError(f"cannot read the word vectors {path}: byte 0: it is no plain file")
    try:
        with PlainFile(path) as file:
            yield file
    except TextFormatError as error:  # of what is compressed
        raise FormatError(str(error)) from error


class _Reader:
    """Reads a file and keeps the position."""

    def __init__(self, path: FilePath, file: PlainFile, unicode_errors: str) -> None:
        self._path = path
        self._stream = file.stream
        self._unicode_errors = unicode_errors
        self.at = 0
        """Bytes taken so far."""
        self._rest = b""
        """Bytes taken from the stream but not in `at`."""
        self._size = None if file.compression else file.size
        """None: unknown before the end."""

    def error(self, problem: str, at: int) -> FormatError:
        return FormatError(f"cannot read the word vectors {self._path}: byte {at}: {problem}")

    def line(self, longest: int) -> bytes:
        """The next line with its line feed; nothing at the end of the file."""
        line = self._stream.readline(longest + 1)
        if len(line) > longest:
            raise self.error(f"a line of more than {longest} bytes", self.at)
        self.at += len(line)
        return line

    def decode(self, word: bytes, at: int) -> str:
        if not word:
            raise self.error("a word is missing", at)
        try:
            return word.decode("utf-8", self._unicode_errors)
        except UnicodeDecodeError as error:
            raise self.error(
                f"the word {word[:40]!r} is no UTF-8; unicode_errors='replace' would read it", at
            ) from error

    def header(self, binary: bool) -> tuple[int, int]:
        """Number of words and of dimensions, which the size of the file allows."""
        line = self._stream.readline(_LONGEST_HEADER)
        match = _HEADER.fullmatch(line)
        if match is None:
            raise self.error(
                "it must begin with a line of two numbers, words and dimensions, not "
                f"{line[:40]!r}",
                0,
            )
        self.at = len(line)
        words, size = int(match[1]), int(match[2])
        if words and not size:
            raise self.error("vectors of 0 dimensions", 0)
        if self._size is None and size > _MOST_DIMENSIONS:
            raise self.error(f"vectors of {size} dimensions", 0)
        # A word of one byte, a space, and in text at least a digit and a separator a number; the
        # last line feed may be missing.
        least = words * (2 + 4 * size if binary else 2 + 2 * size) - (not binary)
        if self._size is not None and least > self._size - self.at:
            raise self.error(
                f"{words} words of {size} dimensions take at least {least} bytes more, but the "
                f"file ends after {self._size - self.at}",
                self.at,
            )
        return words, size

    def rows_at_once(self, count: int, size: int) -> int:
        """For how many of `count` rows memory may be allocated before they are read: all, if the
        file is large enough for them."""
        if self._size is not None:
            return count
        return min(count, max(1, _FIRST_NUMBERS // max(size, 1)))

    def count_lines(self) -> tuple[int, int]:
        """Number of words and of dimensions of a file without the first line, which is read twice
        for it."""
        start = self._stream.tell()
        first = self._stream.readline(_LONGEST_FIRST_LINE)
        size = len(first.split()) - 1
        if size < 1 or len(first) == _LONGEST_FIRST_LINE:
            raise self.error("the first line must hold a word and its numbers", 0)
        self._stream.seek(start)
        words, last = 0, b"\n"
        while chunk := self._stream.read(_CHUNK):
            words += chunk.count(b"\n")
            last = chunk[-1:]
        self._stream.seek(start)
        words += last != b"\n"
        if self._size is not None and words * (2 + 2 * size) - 1 > self._size:
            raise self.error(
                f"{words} lines of {size} numbers do not fit into {self._size} bytes; are the "
                "lines equally long?",
                0,
            )
        return words, size

    def text_rows(self, count: int, size: int) -> Iterator[tuple[str, np.ndarray]]:
        longest = LONGEST_WORD + (LONGEST_NUMBER + 1) * size
        for number in range(1, count + 1):
            start = self.at
            line = self.line(longest)
            if not line:
                raise self.error(f"the file ends before word {number} of {count}", start)
            word, *numbers = line.rstrip().split(b" ")
            if len(numbers) != size:
                raise self.error(
                    f"word {number} has {len(numbers)} numbers, not {size}; is it a binary file?",
                    start,
                )
            try:
                if b"_" in line[len(word) :]:  # Python reads 1_000, C does not
                    raise ValueError
                with np.errstate(over="ignore"):  # beyond float32's range: infinity
                    vector = np.array(list(map(float, numbers))).astype(np.float32)
            except ValueError:
                raise self.error(
                    f"something in the vector of word {number} is no number", start
                ) from None
            yield self.decode(word, start), vector

    def binary_rows(self, count: int, size: int) -> Iterator[tuple[str, np.ndarray]]:
        length = 4 * size
        buffer, place = b"", 0
        for number in range(1, count + 1):
            longest = LONGEST_WORD + 2 + length
            if len(buffer) - place < longest:
                buffer, place = buffer[place:] + self._stream.read(_CHUNK + longest), 0
            start = place + (buffer[place : place + 1] == b"\n")
            space = buffer.find(b" ", start, start + LONGEST_WORD + 1)
            if space < 0:
                ends = len(buffer) - start <= LONGEST_WORD
                raise self.error(
                    f"the file ends before word {number} of {count} does"
                    if ends
                    else f"word {number} is longer than {LONGEST_WORD} bytes; is it a text file?",
                    self.at,
                )
            word = self.decode(buffer[start:space], self.at)
            vector = np.frombuffer(buffer[space + 1 : space + 1 + length], "u1")
            if len(vector) < length:
                raise self.error(
                    f"the file ends within the vector of word {number} of {count}",
                    self.at + space + 1 - place,
                )
            yield word, vector.view("<f4")
            self.at += space + 1 + length - place
            place = space + 1 + length
        self._rest = buffer[place:]

    def end(self) -> None:
        """Nothing but white space may follow."""
        rest = self._rest + self._stream.read(_LONGEST_HEADER)
        if rest.strip():
            follow = (
                "something follows"
                if self._size is None
                else f"{self._size - self.at} bytes follow"
            )
            raise self.error(f"{follow} the last word that the first line announces", self.at)


def _encode(word: str) -> bytes:
    try:
        encoded = word.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the word {word!r} cannot be written as UTF-8") from error
    if encoded.split() != [encoded]:
        raise ValueError(
            f"the word {word!r} cannot be written: in this format a word is not empty and holds no "
            "white space"
        )
    if len(encoded) > LONGEST_WORD:
        raise ValueError(f"the word {word[:40]!r}... is longer than {LONGEST_WORD} bytes")
    return encoded
