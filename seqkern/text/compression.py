"""Files that were compressed by gzip, bzip2, xz or zstd, as streams of their contents.

The format is recognised by the first bytes, not by the name. Memory stays constant whatever the
size. A file may have several members, one after the other, as `cat a.gz b.gz` makes them; what is
cut off, damaged or followed by something else is an error.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from seqkern.core.atomic_file import FilePath
from seqkern.text.files import TextFormatError, file_error

BEGINNING = 16
"""Bytes at the beginning of a file that tell."""

_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"LZIP\x01": "lzip",
    b"\x04\x22\x4d\x18": "LZ4",
    b"\x1f\x9d": "compress",
    b"\x5d\x00\x00": "lzma",
}


class Decoder(Protocol):
    """Decompresses one member, as `bz2.BZ2Decompressor` does."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Compression(NamedTuple):
    """How a kind of file is known and read."""

    name: str
    magic: re.Pattern[bytes]
    """With what each member begins."""
    packages: tuple[str, ...]
    """The modules that can do it, the first that there is does."""
    install: str
    """What to do where there is none."""

    def decoder(self, path: FilePath) -> Callable[[], Decoder]:
        """What makes decoders.

        Raises:
            TextFormatError: there is no module that could.
        """
        for name in self.packages:
            try:
                return _MAKERS[name](import_module(name))
            except ImportError:
                continue
        raise TextFormatError(
            f"cannot read {path}: it is compressed with {self.name}; {self.install}"
        )


class _Gzip:
    """zlib's decompressing object with the interface of the others."""

    def __init__(self, zlib: Any) -> None:
        self._object = zlib.decompressobj(wbits=31)  # gzip's header and checksum, not zlib's
        self._rest = b""
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        plain: bytes = self._object.decompress(self._rest + data, max_length)
        self._rest = self._object.unconsumed_tail
        self.needs_input = not self._rest and len(plain) < max_length
        return plain

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._object.unused_data)


class _Zstandard:
    """The package zstandard's object, which has no `max_length`: it is given small pieces."""

    _STEP = 1 << 12

    def __init__(self, zstandard: Any) -> None:
        self._object = zstandard.ZstdDecompressor().decompressobj()
        self._input = b""
        self._output = memoryview(b"")

    def decompress(self, data: bytes, max_length: int) -> bytes:
        self._input += data
        while not self._output and self._input and not self._object.eof:
            step, self._input = self._input[: self._STEP], self._input[self._STEP :]
            self._output = memoryview(self._object.decompress(step))
        plain, self._output = self._output[:max_length], self._output[max_length:]
        return bytes(plain)

    @property
    def eof(self) -> bool:
        return bool(self._object.eof) and not self._output

    @property
    def needs_input(self) -> bool:
        return not self._output and not self._input

    @property
    def unused_data(self) -> bytes:
        return bytes(self._object.unused_data) + self._input


_MAKERS: dict[str, Callable[[Any], Callable[[], Any]]] = {
    "zlib": lambda module: lambda: _Gzip(module),
    "bz2": lambda module: module.BZ2Decompressor,
    "lzma": lambda module: lambda: module.LZMADecompressor(module.FORMAT_XZ),
    "compression.zstd": lambda module: module.ZstdDecompressor,
    "backports.zstd": lambda module: module.ZstdDecompressor,
    "pyzstd": lambda module: module.ZstdDecompressor,
    "zstandard": lambda module: lambda: _Zstandard(module),
}

_PYTHONS = "this Python was built without the module for it; decompress the file first"
COMPRESSIONS = (
    Compression("gzip", re.compile(rb"\x1f\x8b\x08"), ("zlib",), _PYTHONS),
    # Without the beginning of its first block (or of its end) it might be a word.
    Compression("bzip2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), ("bz2",), _PYTHONS),
    Compression("xz", re.compile(rb"\xfd7zXZ\x00"), ("lzma",), _PYTHONS),
    Compression(
        "zstd",
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one to be skipped
        ("compression.zstd", "backports.zstd", "pyzstd", "zstandard"),
        "install a package that reads it (pip install zstandard; Python has its own from 3.14 on), "
        "or decompress the file first",
    ),
)


def compression_of(path: FilePath, beginning: bytes) -> Compression | None:
    """What a file with these first bytes is compressed with; None for one that is not.

    Raises:
        TextFormatError: with something that is not read here.
    """
    for compression in COMPRESSIONS:
        if compression.magic.match(beginning):
            return compression
    for magic, what in _ARCHIVES.items():
        if beginning.startswith(magic):
            raise TextFormatError(
                f"cannot read {path}: its first bytes are those of {what}; unpack it first"
            )
    return None


class Decompressed(io.RawIOBase):
    """What was compressed, as a stream that can be read, and read again from its beginning.

    Args:
        path: the file, for errors.
        file: its bytes, unbuffered. Where its `read` gives None, because nothing has come yet, so
            does this one's.
        compression: what it is compressed with.
        piece: compressed bytes that are taken at once.

    Raises:
        TextFormatError: while it is read: the file was cut off or damaged, or is followed by
            something else; when it is made: no package can read it.
    """

    def __init__(
        self,
        path: FilePath,
        file: io.RawIOBase,
        compression: Compression,
        piece: int,
    ) -> None:
        self._path = path
        self._file = file
        self._name = compression.name
        self._magic = compression.magic
        self._make = compression.decoder(path)
        self._piece = piece
        self._begin()

    def _begin(self) -> None:
        self._decoder: Decoder | None = None
        self._members = 0
        self._input = b""  # taken from the file, not yet given to the decoder
        self._ended = False
        self._position = 0
        self.taken = 0
        """Bytes of the file so far."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or offset not in (0, self._position):
            raise io.UnsupportedOperation("a compressed file has no place but its beginning")
        if offset != self._position:
            self._file.seek(0)
            self._begin()
        return offset

    def readinto(self, buffer: Any) -> int | None:
        room = memoryview(buffer).cast("B")
        while len(room):
            if self._decoder is None:
                begun = self._begin_member()
                if not begun:
                    return begun if begun is None else 0
            assert self._decoder is not None
            if self._decoder.needs_input and not self._input and not self._take():
                if not self._ended:
                    return None
                raise TextFormatError(
                    f"cannot read {self._path}: its {self._name} data stop at byte {self.taken}, "
                    "before their end; the file was cut off"
                )
            given = b""
            if self._decoder.needs_input:
                given, self._input = self._input, b""
            try:
                plain = self._decoder.decompress(given, len(room))
            except MemoryError:
                raise
            except Exception as error:  # each package has its own
                raise TextFormatError(
                    f"cannot read {self._path}: its {self._name} data are damaged before byte "
                    f"{self.taken} ({error})"
                ) from error
            if self._decoder.eof:
                self._input = self._decoder.unused_data + self._input
                self._decoder = None
            if plain:
                room[: len(plain)] = plain
                self._position += len(plain)
                return len(plain)
        return 0

    def _begin_member(self) -> bool | None:
        """Whether there is another one; None: nothing has come yet."""
        while True:
            if self._members:
                self._input = self._input.lstrip(b"\0")  # padding, of tapes and of xz
            if len(self._input) >= BEGINNING or self._ended:
                break
            if not self._take() and not self._ended:
                return None
        if not self._input:
            return False
        if not self._magic.match(self._input):
            raise TextFormatError(
                f"cannot read {self._path}: something else follows its {self._name} data at byte "
                f"{self.taken - len(self._input)}"
            )
        self._decoder = self._make()
        self._members += 1
        return True

    def _take(self) -> bool:
        """Takes more of the file."""
        if self._ended:
            return False
        try:
            more = self._file.read(self._piece)
        except OSError as error:
            raise file_error("read", self._path, error) from error
        if not more:
            self._ended = more is not None
            return False
        self._input += more
        self.taken += len(more)
        return True
