"""The demo's options."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqkern.core.cli_options import check_output, integer
from seqkern.core.errors import UserError


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
        ("word-epochs", 5, 10_000, "passes of the word vectors over the text; 0: no word vectors"),
        ("threads", None, 1024, "CPU threads (default: PyTorch's choice)"),
        ("seed", 0, 2**63 - 1, "of the weights, the batches and the sample"),
    ):
        parser.add_argument(
            f"--{name}",
            type=integer(0 if name in ("seed", "word-epochs") else 1, largest),
            default=default,
            metavar="N",
            help=text if default is None else f"{text} (default: %(default)s)",
        )


def check_picture(path: Path) -> None:
    """Find out before the training, not after it, that the picture cannot be written."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--out: {path} must end in .png")
    check_output("--out", path)
