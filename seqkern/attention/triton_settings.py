"""Tile sizes of the Triton kernels of attention, by kernel, width of a head, dtype and GPU.

Nothing is tuned at run time: the same call takes the same tiles whatever its batch and lengths, so
results do not depend on what ran before (which torch.use_deterministic_algorithms asks for), and no
new length compiles anything. The sizes start from those that FlashAttention-2 and -3 found for
these widths and were brought down until neither registers nor shared memory overflow, on any
architecture, as tests/triton_resources.json records. None has been timed on a GPU yet.
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

    @property
    def options(self) -> dict[str, int]:
        """Of a launch. Up to all of its registers are a thread's: the compiler would rather spill a
        few than keep a second program off a multiprocessor."""
        registers = min(255, 65536 // (32 * self.warps))
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": registers}


# Small, so that a test's few rows are several tiles.
_INTERPRETED = Tiles(32, 32, 4, 1)

# By padded width, 64 for all up to it: for sm_80 (Ampere, Ada) and for sm_90 and later, where a
# warpgroup of 4 warps multiplies at least 64 rows at once.
Table = dict[int, tuple[Tiles, Tiles]]


def _same(queries: int, keys: int, warps: int, stages: int) -> tuple[Tiles, Tiles]:
    tiles = Tiles(queries, keys, warps, stages)
    return tiles, tiles


# "crowded": masks, slopes or random words want registers beside the scores.
_16_BIT: dict[str, Table] = {
    "forward": {
        64: (Tiles(128, 64, 8, 3), Tiles(128, 128, 8, 3)),
        128: (Tiles(128, 32, 8, 2), Tiles(128, 64, 8, 3)),
        256: (Tiles(32, 32, 4, 2), Tiles(64, 64, 8, 2)),
    },
    "forward crowded": {
        64: _same(64, 64, 8, 2),
        128: (Tiles(64, 32, 8, 2), Tiles(64, 64, 8, 2)),
        256: _same(32, 32, 8, 2),
    },
    "queries": {
        64: _same(128, 64, 8, 2),
        128: _same(64, 64, 8, 2),
        256: _same(16, 32, 8, 1),
    },
    "queries crowded": {
        64: _same(64, 32, 8, 2),
        128: _same(64, 32, 8, 2),
        256: _same(16, 32, 8, 1),
    },
    "keys": {
        64: (Tiles(32, 64, 8, 2), Tiles(64, 64, 8, 2)),
        128: _same(32, 64, 8, 1),
        256: (Tiles(16, 32, 8, 1), Tiles(32, 32, 8, 1)),
    },
    "keys crowded": {
        64: (Tiles(32, 32, 8, 1), Tiles(32, 64, 8, 1)),
        128: _same(32, 32, 8, 1),
        256: _same(16, 32, 8, 1),
    },
    "bias": {
        64: (Tiles(64, 32, 8, 1), Tiles(64, 64, 8, 1)),
        128: (Tiles(16, 32, 8, 1), Tiles(64, 32, 8, 1)),
        256: _same(16, 32, 8, 1),
    },
    # The tile of queries is as small as can be multiplied, and memory is what takes time.
    "decode": {
        64: (Tiles(16, 64, 4, 2), Tiles(16, 64, 4, 3)),
        128: _same(16, 64, 4, 3),
        256: _same(16, 32, 4, 2),
    },
}
# Without TF32 float32 numbers are multiplied one by one, by threads that hold all that they
# multiply of a row and a column (see `triton_tiles.inner`), so tiles are small.
_32_BIT: dict[str, Table] = {
    "forward": {
        64: _same(32, 32, 8, 1),
        128: _same(32, 32, 8, 1),
        256: _same(16, 16, 8, 1),
    },
    "forward crowded": {
        64: _same(16, 32, 8, 1),
        128: _same(16, 32, 8, 1),
        256: _same(16, 16, 8, 1),
    },
    "queries": {64: _same(32, 32, 8, 1), 128: _same(16, 16, 8, 1), 256: _same(16, 16, 8, 1)},
    "keys": {64: _same(16, 32, 8, 1), 128: _same(16, 16, 8, 1), 256: _same(16, 16, 8, 1)},
    "keys crowded": {64: _same(16, 16, 8, 1), 128: _same(16, 16, 8, 1), 256: _same(16, 16, 8, 1)},
    "bias": {64: _same(16, 16, 8, 1), 128: _same(16, 16, 8, 1), 256: _same(16, 16, 8, 1)},
    "decode": {64: _same(16, 32, 4, 1), 128: _same(16, 32, 4, 1), 256: _same(16, 16, 8, 1)},
    "decode crowded": {64: _same(16, 16, 4, 1), 128: _same(16, 16, 4, 1), 256: _same(16, 16, 8, 1)},
}


def tiles_of(
    kernel: str,
    capability: tuple[int, int],
    width: int,
    dtype: torch.dtype,
    crowded: bool = False,
) -> Tiles:
    """Of one kernel: "forward", "decode", "queries" (for dQ), "keys" (for dK and dV), "bias".

    Args:
        width: the larger padded one of key and value.
        crowded: what a score passes through takes registers.
    """
    if triton_support.INTERPRETED:
        return _INTERPRETED
    table = _32_BIT if dtype == torch.float32 else _16_BIT
    if crowded:
        kernel = kernel + " crowded" if kernel + " crowded" in table else kernel
    older, newer = table[kernel][max(width, 64)]
    return newer if capability >= (9, 0) else older
