"""Tile sizes of the Triton kernels of word vectors, by the width of a row.

Nothing is tuned at run time: the same call takes the same tiles whatever its batch, so results do
not depend on what ran before, and no new batch compiles anything. A row is one tile's width, padded
to a power of 2, so that it is read once. Rows of a tile: up to 8, and so many warps that a thread
holds 16 numbers of a tile: with 32 ptxas spilled a few bytes here and there
(tests/triton_resources.json). None has been timed on a GPU yet.
"""

from __future__ import annotations

from typing import Any

from seqkern.embedding.choice import TRITON_WIDEST as WIDEST

__all__ = ["CHUNK", "WIDEST", "tile", "training", "unit", "width"]

CHUNK = 64
"""Sorted entries of which a key's are one piece: a program's longest loop is 8 tiles, and a key has
one more row in memory for 64 of its entries."""
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


def training(features: int, terms: int, contexts: int) -> dict[str, Any]:
    """Tiles of the training loop: the most contexts of a window (1: they are one vector), which
    share `terms` targets. Rows are read in chunks of up to 128 features, so that two tiles of 16
    rows, their gains and what the tensor cores want of them fit into the registers of 4 warps
    whatever the features."""
    config = {"WIDTH": min(width(features), 128), "ROWS": 8, "num_warps": 4}
    if contexts == 1:
        config |= {"CONTEXTS": 1, "TARGETS": 8, "num_warps": 2}
    else:
        # A product sums over 16 of a side at least.
        padded = 1 << (contexts - 1).bit_length()
        config |= {"CONTEXTS": max(16, min(padded, 32)), "TARGETS": 16}
    return {**config, "ONE_CHUNK": features <= config["WIDTH"]}
