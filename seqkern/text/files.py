"""Errors that name a file, and files that are written completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqkern.core import atomic_file
from seqkern.core.atomic_file import FilePath
from seqkern.core.errors import UserError


class TextFileError(UserError, OSError):
    """A text or corpus file that cannot be read or written; `errno` and `filename` are set."""

    def __str__(self) -> str:
        return str(self.args[0])  # the sentence; OSError would build one of the number


class MissingTextFileError(TextFileError, FileNotFoundError):
    """A text or corpus file that is not there."""


class TextFormatError(UserError, ValueError):
    """A text that is no UTF-8, or a compressed one that was cut off or damaged or that nothing here
    can decompress."""


class CorpusFormatError(UserError, ValueError):
    """An encoded corpus that was cut off, changed, or is none."""


def file_error(action: str, path: FilePath, error: OSError) -> TextFileError:
    """The error "cannot `action` `path`: reason" for what the system said."""
    kind = MissingTextFileError if isinstance(error, FileNotFoundError) else TextFileError
    named = kind(f"cannot {action} {path}: {error.strerror or error}")
    named.errno = error.errno
    named.filename = str(path)
    return named


@contextmanager
def whole_file(path: Path, what: str) -> Iterator[int]:
    """The descriptor of a new file that becomes `path` at the end of the block, or does not.

    Raises:
        TextFileError: the file cannot be made, or cannot take its place.
    """
    try:
        with atomic_file.whole_file(path, sync=False) as file:
            yield file.fileno()
    except TextFileError:
        raise
    except OSError as error:
        raise file_error(f"write {what}", path, error) from error
