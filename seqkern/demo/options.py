"""The demo's options."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from seqkern.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the demo's options."""
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="UTF-8 text in any language (default: the documentation of the installed packages)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        default=Path("seqkern-demo.png"),
        help="where to draw the loss curves (default: %(default)s)",
    )
    for name, default, largest, text in (
        ("steps", 600, 1_000_000, "training steps of each of the two"),
        ("hidden", 128, 16_384, "units of an LSTM layer"),
        ("layers", 2, 64, "LSTM layers"),
        ("batch", 16, 65_536, "sequences in a batch"),
        ("seq", 128, 65_536, "characters in a sequence"),
        ("threads", None, 1024, "CPU threads (default: PyTorch's choice)"),
        ("seed", 0, 2**63 - 1, "of the weights, the batches and the sample"),
    ):
        parser.add_argument(
            f"--{name}",
            type=_integer(0 if name == "seed" else 1, largest),
            default=default,
            metavar="N",
            help=text if default is None else f"{text} (default: %(default)s)",
        )


def check_output(path: Path) -> None:
    """Find out before the training, not after it, that the picture cannot be written."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--out: {path} must end in .png")
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "lies in a folder that does not exist"
        raise UserError(f"--out: {path} {problem}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"--out: no permission to write {path}")


def _integer(smallest: int, largest: int) -> Callable[[str], int]:
    """A type for argparse: a whole number within bounds."""

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
