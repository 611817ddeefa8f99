"""Types of command-line options, for argparse."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

from seqkern.core.errors import UserError


def integer(smallest: int, largest: int) -> Callable[[str], int]:
    """A whole number within bounds."""

    def parse(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            value = smallest - 1
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {smallest} to {largest}, got {word!r}"
            )
        return value

    return parse


def real(smallest: float, largest: float) -> Callable[[str], float]:
    """A number within bounds."""

    def parse(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not smallest <= value <= largest:
            raise argparse.ArgumentTypeError(
                f"must be a number from {smallest:g} to {largest:g}, got {word!r}"
            )
        return value

    return parse


def check_output(option: str, path: Path) -> None:
    """Checks before the work, not after it, that a file can be written.

    Raises:
        UserError: it cannot; the message begins with the name of the option.
    """
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "lies in a folder that does not exist"
        raise UserError(f"{option}: {path} {problem}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{option}: no permission to write {path}")
