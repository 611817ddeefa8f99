"""Sources of text: a file, or the documentation of the Python packages on this machine."""

from __future__ import annotations

import ast
import codecs
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from seqkern.core.errors import UserError
from seqkern.text.opening import PlainFile

_LARGEST_SOURCE = 400_000  # bytes; longer Python files are generated tables
_LONGEST_CHARACTER = 4  # bytes in UTF-8


def read_text(path: str | Path, limit: int) -> str:
    """Read the beginning of a UTF-8 text file, compressed or not.

    Args:
        path: the file.
        limit: how many characters to read at most. A longer file is cut, not refused.

    Returns:
        The text, with a byte order mark removed.

    Raises:
        UserError: the file is missing, unreadable, empty, or not UTF-8 text. The message says
            which.
    """
    try:
        with PlainFile(path) as file:
            data = file.stream.read(limit * _LONGEST_CHARACTER)
            whole = not file.stream.read(1)
    except OSError as error:
        raise UserError(f"cannot read the text file {path}: {error.strerror}") from error
    if not data:
        raise UserError(f"the text file {path} is empty")
    if b"\0" in data:
        raise UserError(f"the text file {path} is binary (it holds zero bytes); give UTF-8 text")
    try:
        # The last character may be cut where reading stopped; the decoder keeps it back.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=whole)
    except UnicodeDecodeError as error:
        raise UserError(
            f"the text file {path} is not UTF-8 text (byte {error.start}); convert it first"
        ) from error
    if not text.strip():
        raise UserError(f"the text file {path} holds nothing but white space")
    return text[:limit]


def documentation_text(limit: int) -> str:
    """The documentation strings of the installed Python packages, then of the standard library.

    The files are parsed, never imported, in alphabetical order, so one machine always gives the
    same text.

    Args:
        limit: how many characters to collect at most.

    Returns:
        The documentation strings, each followed by an empty line; a file that cannot be read or
        parsed is left out.
    """
    pieces: list[str] = []
    length = 0
    for path in _python_files():
        for piece in _documentation_strings(path):
            pieces.append(piece + "\n\n")
            length += len(pieces[-1])
            if length >= limit:
                return "".join(pieces)[:limit]
    return "".join(pieces)


def _python_files() -> Iterator[Path]:
    """Every installed Python source file, except tests, in alphabetical order of each folder."""
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib"))
    for folder in map(Path, folders):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).parts
            # site-packages is inside the standard library's folder
            if not {"tests", "test", "site-packages"} & set(parts):
                yield path


def _documentation_strings(path: Path) -> Iterator[str]:
    """The documentation strings of a module, its classes and its functions."""
    try:
        if path.stat().st_size > _LARGEST_SOURCE:
            return
        with warnings.catch_warnings():  # invalid escapes in other people's strings
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return  # other people's files: templates, old Python, odd encodings
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text.split()) > 3:  # prose, not a placeholder
                yield text
