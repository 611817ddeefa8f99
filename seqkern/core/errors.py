"""Errors that the user can fix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something that the user of the command line can fix.

    Its message is one sentence that says what to do; the command line prints it without a
    traceback.
    """


class SettingError(UserError, ValueError):
    """An environment variable of seqkern has an invalid value; raised when seqkern is imported."""


@contextmanager
def without_traceback_on_the_command_line() -> Iterator[None]:
    """Makes a `SettingError` end the command line with its sentence and status 1.

    The package is imported before the command line runs, so this wraps its imports.
    In any other program the error is raised as it is.
    """
    try:
        yield
    except SettingError as error:
        if not _is_command_line(sys.argv[0] if sys.argv else ""):
            raise
        sys.exit(f"seqkern: {error}")


def _is_command_line(program: str) -> bool:
    """Whether this process is `python -m seqkern` (Python sets argv[0] to "-m" while it searches
    for the module) or the installed program `seqkern`."""
    return program == "-m" or Path(program).name == "seqkern"
