"""Tile sizes of the Triton kernels of attention, by GPU, width of a head and size of a number.

Nothing is tuned at run time: the same call takes the same tiles, whatever its batch and lengths, so
that results do not depend on what ran before (which torch.use_deterministic_algorithms asks for)
and no new length compiles anything. The sizes are those that FlashAttention-2 and -3 found for
these widths, brought down where Triton's registers or shared memory would not hold them
(tests/triton_resources.json records that nothing spills). None has been timed on a GPU yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from seqkern import triton_support


class Tiles(NamedTuple):
    """Queries and keys of a tile, warps of a program, loads in flight."""

    queries: int
    keys: int
    warps: int
    stages: int


# Small, so that a test's few rows are several tiles.
_INTERPRETED = Tiles(32, 32, 4, 1)
Table = dict[int, Tiles]  # by padded width

# One warpgroup multiplies 64 rows: two of them share a tile of 128.
_FORWARD_16_BIT: dict[int, Table] = {
    80: {
        16: Tiles(128, 64, 4, 3),
        32: Tiles(128, 64, 4, 3),
        64: Tiles(128, 64, 4, 3),
        128: Tiles(128, 64, 8, 2),
        256: Tiles(64, 32, 8, 2),
    },
    90: {
        16: Tiles(128, 128, 8, 3),
        32: Tiles(128, 128, 8, 3),
        64: Tiles(128, 128, 8, 3),
        128: Tiles(128, 128, 8, 2),
        256: Tiles(128, 64, 8, 2),
    },
}
_FORWARD_32_BIT: Table = {
    16: Tiles(64, 64, 4, 2),
    32: Tiles(64, 64, 4, 2),
    64: Tiles(64, 64, 8, 2),
    128: Tiles(64, 32, 8, 2),
    256: Tiles(32, 32, 8, 1),
}


def forward_tiles(
    capability: tuple[int, int], width: int, dtype: torch.dtype, crowded: bool
) -> Tiles:
    """Of the forward.

    Args:
        width: the larger padded one of key and value.
        crowded: whether masks, slopes or random words want registers too.
    """
    if triton_support.INTERPRETED:
        return _INTERPRETED
    if dtype == torch.float32:
        tiles = _FORWARD_32_BIT[width]
    else:
        tiles = _FORWARD_16_BIT[90 if capability >= (9, 0) else 80][width]
    if crowded and tiles.keys > 64:
        tiles = tiles._replace(keys=64)
    return tiles


_BACKWARD_16_BIT: dict[str, Table] = {
    "queries": {
        16: Tiles(128, 64, 8, 2),
        32: Tiles(128, 64, 8, 2),
        64: Tiles(128, 64, 8, 2),
        128: Tiles(128, 64, 8, 1),
        256: Tiles(64, 32, 8, 1),
    },
    "keys": {
        16: Tiles(64, 128, 8, 2),
        32: Tiles(64, 128, 8, 2),
        64: Tiles(64, 128, 8, 2),
        128: Tiles(64, 64, 8, 1),
        256: Tiles(32, 64, 8, 1),
    },
}
_BACKWARD_32_BIT: Table = {
    16: Tiles(32, 32, 4, 1),
    32: Tiles(32, 32, 4, 1),
    64: Tiles(32, 32, 4, 1),
    128: Tiles(32, 32, 4, 1),
    256: Tiles(16, 32, 8, 1),
}


def backward_tiles(
    direction: str, capability: tuple[int, int], width: int, dtype: torch.dtype, crowded: bool
) -> Tiles:
    """Of a kernel of the backward: "queries" for dQ, "keys" for dK and dV, "bias"."""
    if triton_support.INTERPRETED:
        return _INTERPRETED
    if direction == "bias":
        direction = "queries"
    if dtype == torch.float32:
        return _BACKWARD_32_BIT[width]
    return _BACKWARD_16_BIT[direction][width]


def decode_tiles(width: int, dtype: torch.dtype) -> Tiles:
    """Of decoding, where the tile of queries is as small as can be multiplied and memory is what
    takes time: loads in flight."""
    if triton_support.INTERPRETED:
        return _INTERPRETED
    if dtype == torch.float32:
        return Tiles(16, 32, 4, 2)
    return Tiles(16, 64, 4, 3 if width <= 128 else 2)
