"""Errors that name a file, and files that are written completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqkern.core import atomic_file
from seqkern.core.atomic_file import FilePath
from seqkern.core.errors import UserError


class TextFileError(UserError, OSError):
    """A text or corpus file that cannot be read or written; an ``OSError``. The message names the
    file and says why; `errno` and `filename` are set."""

    def __str__(self) -> str:
        return str(self.args[0])  # the sentence; OSError would build one of the number


class MissingTextFileError(TextFileError, FileNotFoundError):
    """A text or corpus file that does not exist; a ``FileNotFoundError``."""


class TextFormatError(UserError, ValueError):
    """A text that is not UTF-8, or a compressed one that was truncated or damaged or that no
    installed module can decompress; a ``ValueError``. The message says where."""


class CorpusFormatError(UserError, ValueError):
    """An encoded corpus that was truncated or changed, or a file that is none; a ``ValueError``.
    The message says what was found, at which byte."""


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
