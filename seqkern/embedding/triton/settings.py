"""Tile sizes of the Triton kernels of word vectors, by the width of a row.

Nothing is tuned at run time: the same call takes the same tiles whatever its batch, so results do
not depend on what ran before, and no new batch compiles anything. A row is one tile's width, padded
to a power of 2, so that it is read once. Rows of a tile: up to 8, and so many warps that a thread
holds 16 numbers of a tile: with 32 ptxas spilled a few bytes here and there
(tests/triton_resources.json). None has been timed on a GPU yet.
"""

from __future__ import annotations

from typing import Any

import torch

from seqkern.embedding.choice import TRITON_WIDEST as WIDEST

__all__ = ["CHUNK", "ROOMY", "WIDEST", "resident", "tile", "training", "unit", "width"]

CHUNK = 64
"""Sorted entries of which a key's are one piece: a program's longest loop is 8 tiles, and a key has
one more row in memory for 64 of its entries."""
ROOMY: dict[str, Any] = {"maxnreg": 255}
"""Of kernels that keep a tile in registers through a loop: ptxas, left to itself, aims at so many
programs of few warps that it spills some bytes of them."""
_REGISTERS = 65536  # of an SM, for 32-bit numbers
_MOST_ROWS = 8
_NUMBERS_A_THREAD = 16


def unit(*numbers: int) -> int:
    """4 where it divides all of these, features and strides, else 1. Kernels are handed the
    quotients and multiply them by it: that is how the compiler learns that rows may be read by 16
    bytes at once, and from Triton itself it would only hear of multiples of 16."""
    return 1 if any(number % 4 for number in numbers) else 4


def width(features: int) -> int:
    """Of a tile that holds rows of so many features."""
    return max(32, 1 << (features - 1).bit_length())


def tile(features: int, most_rows: int = _MOST_ROWS) -> tuple[int, dict[str, Any]]:
    """Rows of a tile, and the launch's WIDTH and num_warps; up to `most_rows` of them."""
    padded = width(features)
    rows = max(1, min(_MOST_ROWS, 1 << (max(most_rows, 1) - 1).bit_length(), 4096 // padded))
    warps = max(1, min(8, rows * padded // (32 * _NUMBERS_A_THREAD)))
    return rows, {"WIDTH": padded, "num_warps": warps}


def training(features: int, contexts: int, dtype: torch.dtype, bags: bool) -> dict[str, Any]:
    """Tiles of the training loop, for the most contexts of a window; 1: they are one vector.

    A window's two tiles of 128 float32 features are in registers at once; longer rows, and others,
    are read in chunks. The limits of registers are the least at which nothing spills, on sm_80,
    sm_90 and sm_100 (ptxas takes what it may have, and what it takes says how many programs share
    an SM).
    """
    if contexts == 1:
        config = {"CONTEXTS": 1, "TARGETS": 8, "ROWS": 8, "num_warps": 2, "maxnreg": 255}
        most = 128
    else:
        # A product sums over 16 of a side at least.
        padded = max(16, min(1 << (contexts - 1).bit_length(), 32))
        config = {"CONTEXTS": padded, "TARGETS": 16, "ROWS": 8, "num_warps": 4, "maxnreg": 168}
        most = 128 if features <= 128 and dtype == torch.float32 and not bags else 32
        if bags or dtype != torch.float32:
            config |= {"ROWS": 4, "maxnreg": 208}
    config["WIDTH"] = min(width(features), most)
    return {**config, "ONE_CHUNK": features <= config["WIDTH"]}


def resident(config: dict[str, Any]) -> int:
    """How many programs of a launch share an SM, by its registers."""
    return _REGISTERS // (int(config["maxnreg"]) * 32 * int(config["num_warps"]))
