"""Checks the free space for the files that reading a text writes: an error before the work, not
after it."""

from __future__ import annotations

import errno
import os
import re
import warnings
from pathlib import Path

from seqkern.core.atomic_file import FilePath
from seqkern.text.files import TextFileError
from seqkern.text.opening import PlainFile

LARGE = 2**24
"""Bytes in memory instead of on a disk that are worth a warning."""

_ENTRY = 4  # bytes of a word or of the end of a sentence, in the spool file as in the corpus
_SAMPLES = 4
_SAMPLE = 2**16  # bytes
_DECOMPRESSED_SAMPLE = 2**20  # bytes, made of a file's first bytes
_PIECE = 2**12  # of these, so that not many more are taken than were needed
# The shares of the estimate below which the work is refused: the spool file takes every word, the
# corpus only the known ones.
_SPOOL_SHARE, _CORPUS_SHARE = 0.9, 0.7

Pattern = re.Pattern[str]


class Room:
    """The free space of a folder.

    Args:
        folder: where the files will be.
        in_memory: whether it is in memory.
        advice: where to put them instead.
    """

    def __init__(self, folder: Path, in_memory: bool, advice: str) -> None:
        self._folder = folder
        self._in_memory = in_memory
        self._advice = advice

    def expect(self, path: FilePath, file: PlainFile, pattern: Pattern | None) -> None:
        """Before a text is read.

        Raises:
            TextFileError: there is less room than it will take, by a few samples of it.
        """
        free = _free(self._folder)
        # "a\na\n" is the worst text. Deflate cannot do better than 1032 to 1; others can.
        worst = 2 * _ENTRY * file.size * (1032 if file.compression else 1)
        if worst <= (min(free, LARGE) if self._in_memory else free):
            return
        spool = corpus = _ENTRY * _entries(path, file, pattern)
        if free < _SPOOL_SHARE * spool + _CORPUS_SHARE * corpus:
            raise self._error(
                f"encoding {path} takes about {_bytes(spool + corpus)} there, of which half stay",
                free,
            )
        self.taken(spool + corpus, "will take about")

    def taken(self, size: int, takes: str = "takes") -> None:
        """Warns once if so many bytes are large for a folder in memory."""
        if self._in_memory and size > LARGE:
            self._in_memory = False
            warnings.warn(
                f"the encoded corpus {takes} {_bytes(size)} of memory: {self._folder} is no disk "
                f"(tmpfs). {self._advice}",
                stacklevel=2,
            )

    def check_corpus(self, words: int) -> None:
        """Before a corpus of so many known words is written.

        Raises:
            TextFileError: there is less room.
        """
        needed, free = _ENTRY * words, _free(self._folder)
        if free < needed:
            raise self._error(f"it takes {_bytes(needed)} more", free)

    def full(self, spooled: int) -> str:
        """What to add to the system's message that the disk is full."""
        return (
            f"; {_bytes(spooled)} of numbers of words lie there, {_bytes(_free(self._folder))} are "
            f"free, and the corpus takes as much again. {self._advice}"
        )

    def _error(self, needs: str, free: int) -> TextFileError:
        error = TextFileError(
            f"cannot write the encoded corpus in {self._folder}: {needs}, but {_bytes(free)} are "
            f"free. {self._advice}"
        )
        error.errno = errno.ENOSPC
        error.filename = str(self._folder)
        return error


def _entries(path: FilePath, file: PlainFile, pattern: Pattern | None) -> int:
    """About how many words and ends of sentences a text has."""
    if file.compression:
        pieces, size = _decompressed(path, file.size)
    else:
        starts = [file.size * number // _SAMPLES for number in range(_SAMPLES)]
        pieces = [file.piece(start, min(_SAMPLE, file.size // _SAMPLES + 1)) for start in starts]
        size = file.size
    entries = 0
    for piece in pieces:
        entries += piece.count(b"\n")
        if pattern is None:
            entries += len(piece.split())
        else:
            entries += sum(1 for _ in pattern.finditer(piece.decode("utf-8", "replace")))
    return entries * size // max(sum(map(len, pieces)), 1)


def _decompressed(path: FilePath, size: int) -> tuple[list[bytes], int]:
    """The beginning of a compressed text, and about how many bytes of text there are in a file of
    `size` bytes."""
    pieces: list[bytes] = []
    length = 0
    with PlainFile(path, piece=_PIECE) as file:
        while True:
            taken = file.taken
            piece = file.stream.read1()
            # Up to here all that was taken has been decompressed, but for what has no effect yet.
            if not piece or (length >= _DECOMPRESSED_SAMPLE and file.taken > taken):
                return pieces, size * length // max(taken, 1)
            length += len(piece)
            if length <= _DECOMPRESSED_SAMPLE:
                pieces.append(piece)


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
