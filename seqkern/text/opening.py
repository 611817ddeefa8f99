"""Opens texts for reading, whatever they are compressed with, and decodes them."""

from __future__ import annotations

import codecs
import io
import os
import select
from collections.abc import Iterator
from stat import S_ISREG
from types import TracebackType

from seqkern.core.atomic_file import FilePath
from seqkern.text.compression import BEGINNING, Decompressed, compression_of
from seqkern.text.files import TextFormatError

_CHUNK = 1 << 18  # bytes
_PIECE = 1 << 16  # compressed bytes
_PATIENCE = 50  # milliseconds


class PlainFile:
    """The bytes of a file, decompressed if it is compressed. Use it in a ``with`` block.

    Args:
        path: a file or a pipe.
        patient: a read of a pipe blocks. If not, `stream` gives None after a while without data, so
            that its reader can check for interrupts.
        piece: so many compressed bytes are taken at once.

    Attributes:
        stream: the plain bytes, from their beginning.
        compression: what the file is compressed with; "" for nothing.
        size: bytes of the file itself; 0 for what is not a regular file, such as a pipe.

    Raises:
        OSError: the file cannot be opened.
        TextFormatError: it is an archive, or compressed with something that cannot be read here.
            While it is read: it is damaged.
    """

    def __init__(self, path: FilePath, *, patient: bool = True, piece: int | None = None) -> None:
        self._file = io.FileIO(path)
        try:
            status = os.fstat(self._file.fileno())
            regular = S_ISREG(status.st_mode)
            self.size = status.st_size if regular else 0
            self._beginning = b""  # taken from the descriptor
            if regular:
                beginning = os.pread(self._file.fileno(), BEGINNING, 0)
            else:
                beginning = self._beginning = _take(self._file, BEGINNING)
            found = compression_of(path, beginning)
            raw: io.RawIOBase = self._file
            if not regular:
                raw = _Pipe(self._beginning, self._file, patient)
            if found is not None:
                raw = Decompressed(path, raw, found, piece or _PIECE)
            self._raw = raw
            self.compression = "" if found is None else found.name
            self.stream = io.BufferedReader(self._raw, _CHUNK)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PlainFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stream.close()
        self._file.close()

    @property
    def source(self) -> tuple[object, bytes]:
        """What the text core reads: the descriptor, and what was taken from it already; or the
        stream of a compressed file. Nothing may have been read from the stream before."""
        if self.compression:
            return self.stream, b""
        return self._file.fileno(), self._beginning

    @property
    def taken(self) -> int:
        """Bytes of a compressed file that were taken so far."""
        return self._raw.taken if isinstance(self._raw, Decompressed) else 0

    def peek(self, size: int) -> bytes:
        """The first bytes, at most `size`, as many as are available."""
        if self.compression:
            return self.stream.peek(size)[:size]
        return self.piece(0, size) if self.size else self._beginning

    def piece(self, start: int, size: int) -> bytes:
        """Some bytes of a file that is not compressed, whatever the position of the stream."""
        return os.pread(self._file.fileno(), size, start)


class _Pipe(io.RawIOBase):
    """What was taken from a pipe already, and then the rest of it."""

    def __init__(self, beginning: bytes, file: io.FileIO, patient: bool) -> None:
        self._beginning = beginning
        self._file = file
        self._poll = None if patient else select.poll()
        if self._poll is not None:
            self._poll.register(file.fileno(), select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]
        if self._beginning:
            size = min(len(buffer), len(self._beginning))
            buffer[:size], self._beginning = self._beginning[:size], self._beginning[size:]
            return size
        if self._poll is not None and not self._poll.poll(_PATIENCE):
            return None
        return self._file.readinto(buffer)


def _take(file: io.FileIO, size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    taken = b""
    while len(taken) < size and (more := file.read(size - len(taken))):
        taken += more
    return taken


def decoded_lines(path: FilePath, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a text with their ends; CR, LF and both together end one. A byte order mark is
    dropped.

    Raises:
        OSError: it cannot be read.
        TextFormatError: it is damaged, or not in this encoding; says where.
    """
    inner = codecs.getincrementaldecoder(encoding)()
    decoder = io.IncrementalNewlineDecoder(inner, translate=True)
    rest, number, before = "", 0, 0  # `before`: bytes
    with PlainFile(path) as file:
        while True:
            chunk = file.stream.read(_CHUNK)
            held = len(inner.getstate()[0])
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                good = error.object[: error.start].decode(encoding, "ignore")
                raise undecodable(
                    path,
                    number + (rest + good).count("\n") + 1,
                    before - held + error.start,
                    error.object[error.start : error.start + 4],
                    encoding,
                    compressed=file.compression,
                ) from error
            if before == 0:
                text = text.removeprefix("\ufeff")
            before += len(chunk)
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                number += 1
                yield line + "\n"
            if not chunk:
                break
    if rest:
        yield rest


def undecodable(
    path: FilePath,
    line: int,
    byte: int,
    found: bytes,
    encoding: str = "UTF-8",
    *,
    compressed: str = "",
    remedy: str = "",
) -> TextFormatError:
    """The error for a text that is not in its encoding.

    Args:
        path: the file.
        line: where, from 1.
        byte: where, from 0.
        found: a few bytes from there on.
        encoding: in which the text should be.
        compressed: what it is compressed with, so that `byte` counts what was decompressed.
        remedy: what else can be done.
    """
    shown = " ".join(f"0x{number:02x}" for number in found)
    after = " after decompression" if compressed else ""
    unless = f" (unless its {compressed} data are damaged)" if compressed else ""
    is_utf16 = byte == 0 and found.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    guess = "; it begins as UTF-16 does" if is_utf16 else ""
    return TextFormatError(
        f"cannot read {path}: line {line}, byte {byte}{after}: {shown} is no {encoding}{guess}. "
        f"Convert the file first{unless}, with iconv say{remedy}"
    )


def check_is_text(path: FilePath, beginning: bytes) -> None:
    """Checks the first bytes of a file that should be a text.

    Raises:
        TextFormatError: it is an archive of files, or one byte in eight is zero: it is binary, or
            UTF-16 or UTF-32 without a mark, which may well be valid UTF-8.
    """
    if beginning[257:262] == b"ustar":
        raise TextFormatError(f"cannot read {path}: it is a tar archive; unpack it first")
    zeros = beginning.count(0)
    marked = beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # no UTF-8 anyway
    if zeros >= 8 and zeros * 8 >= len(beginning) and not marked:
        first = beginning.index(0)
        raise TextFormatError(
            f"cannot read {path}: line {beginning[:first].count(10) + 1}, byte {first}: the first "
            f"of {zeros} zeros in {len(beginning)} bytes; it is no UTF-8 text (UTF-16, or a binary "
            "file?). Convert it first, with iconv say"
        )
