"""Tile sizes of the Triton kernels of attention, by kernel, width of a head, dtype and GPU.

Unless the user asks for tuning (`tuning.py`), the same call takes the same tiles whatever its
batch and lengths, so results do not depend on what ran before, and no new length compiles anything.
The sizes start from those that FlashAttention-2 and -3 found for these widths and were brought down
until neither registers nor shared memory overflow, on any architecture, as
tests/triton_resources.json records. None has been timed on a GPU yet.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from seqkern.core.triton import support


class Tiles(NamedTuple):
    """Queries and keys of a tile, warps of a program, loads in flight."""

    queries: int
    keys: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """Of a launch. Up to all of its registers are a thread's: the compiler would rather spill a
        few than keep a second program off an SM."""
        registers = min(255, 65536 // (32 * self.warps))
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": registers}


# Small, so that a test's few rows are several tiles.
_INTERPRETED = Tiles(32, 32, 4, 1)

# By padded width, 64 for all up to it: for sm_80 (Ampere, Ada) and for sm_90 and later, where a
# warpgroup of 4 warps multiplies at least 64 rows at once.
Table = dict[int, tuple[Tiles, Tiles]]
_NEWER = (9, 0)


def _same(queries: int, keys: int, warps: int, stages: int) -> tuple[Tiles, Tiles]:
    tiles = Tiles(queries, keys, warps, stages)
    return tiles, tiles


def _both(*alternatives: Tiles) -> tuple[tuple[Tiles, ...], tuple[Tiles, ...]]:
    return alternatives, alternatives


# "crowded": masks, slopes or random words want registers beside the scores. "windowed": a window's
# left edge is one more loop in the kernel, with numbers of its own. "by descriptors": without the
# addresses that pointers keep in registers; only newer GPUs have them.
_16_BIT: dict[str, Table] = {
    "forward": {
        64: _same(128, 64, 8, 3),
        128: (Tiles(128, 32, 8, 3), Tiles(128, 64, 8, 3)),
        256: (Tiles(32, 32, 4, 2), Tiles(32, 64, 8, 2)),
    },
    "forward by descriptors": {
        64: _same(128, 128, 8, 3),
        128: _same(128, 64, 8, 3),
        256: _same(64, 64, 8, 2),
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
        256: _same(16, 32, 8, 1),
    },
    "keys windowed": {128: _same(32, 32, 8, 1)},
    "keys crowded": {
        64: (Tiles(32, 32, 8, 1), Tiles(32, 64, 8, 1)),
        128: _same(32, 32, 8, 1),
        256: _same(16, 16, 8, 1),
    },
    "bias": {
        64: _same(64, 32, 8, 1),
        128: (Tiles(16, 32, 8, 1), Tiles(64, 32, 8, 1)),
        256: _same(16, 32, 8, 1),
    },
    # The tile of queries is as small as can be multiplied, and memory is what takes time.
    "decode": {
        64: (Tiles(16, 64, 4, 2), Tiles(16, 64, 4, 3)),
        128: (Tiles(16, 64, 8, 3), Tiles(16, 64, 4, 3)),
        256: _same(16, 32, 4, 2),
    },
    # Mostly of a few queries, or of one tile of keys: nothing to have under way.
    "row sums": {64: _same(16, 64, 4, 1), 128: _same(16, 64, 4, 1), 256: _same(16, 32, 4, 1)},
}
# Only where the tiles below do not fit TF32.
_TF32: dict[str, Table] = {"decode": {256: _same(16, 64, 8, 1)}}
# Without TF32 float32 numbers are multiplied one by one, by threads that hold all that they
# multiply of a row and a column (see `tiles.inner`), so tiles are small.
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
    "bias": {64: _same(32, 16, 8, 1), 128: _same(16, 16, 8, 1), 256: _same(16, 16, 8, 1)},
    "decode": {64: _same(16, 32, 4, 1), 128: _same(16, 32, 4, 1), 256: _same(16, 16, 8, 1)},
    "decode crowded": {64: _same(16, 16, 4, 1), 128: _same(16, 16, 4, 1), 256: _same(16, 16, 8, 1)},
}


# What a kernel may take instead, where tuning is on (see `tuning.py`), at widths that fill
# their row. What there is to weigh, per tile of n queries and m keys of d features in 16 bits: the
# forward computes 4 n m d FLOP for every 4 m d bytes of keys and values that it reads, which is n
# FLOP a byte; dQ 6 n m d, 1.5 n; dK and dV 8 n m d for 4 n d bytes, 2 m. Fewer rows mean more
# reading, but also more programs on an SM, which hide each other's waiting, as far as
# its 65536 registers and its shared memory go: what a program takes of both stands in
# tests/triton_resources.json. No time stands anywhere: none has been measured yet.
_ALTERNATIVES: dict[str, dict[int, tuple[tuple[Tiles, ...], tuple[Tiles, ...]]]] = {
    "forward": {
        # 64 FLOP a byte instead of 128, with 220 registers in 4 warps: two programs.
        64: ((Tiles(64, 64, 4, 3),), ()),
        # 64 instead of 128, but half as many rounds of the loop; 188 registers instead of 255.
        128: ((Tiles(64, 64, 8, 3),), ()),
    },
    "forward by descriptors": {
        # The same reading in smaller steps: 64 and 80 instead of 112 KiB; 4 warps with 234
        # registers make two programs.
        64: ((), (Tiles(128, 64, 4, 3), Tiles(128, 64, 8, 4))),
        # Steps twice as large, 160 KiB; or 64 FLOP a byte and two programs of 112 KiB.
        128: ((), (Tiles(128, 128, 8, 2), Tiles(64, 64, 4, 3))),
    },
    "queries": {
        # 96 FLOP a byte instead of 192; two programs of 4 warps, or one with three loads under way.
        64: _both(Tiles(64, 64, 4, 2), Tiles(64, 64, 8, 3)),
        # The same reading in smaller steps: 52 to 72 KiB instead of 72 to 112.
        128: _both(Tiles(64, 32, 8, 2)),
    },
    "keys": {
        # 256 FLOP a byte instead of 128, with one load under way; or two programs of 4 warps.
        64: _both(Tiles(32, 128, 8, 1), Tiles(32, 64, 4, 2)),
        # The same reading in half as many rounds: 80 KiB instead of 56.
        128: ((Tiles(64, 64, 8, 1),), ()),
    },
}


def tiles_of(
    kernel: str,
    capability: tuple[int, int],
    width: int,
    dtype: torch.dtype,
    *,
    crowded: bool = False,
    windowed: bool = False,
    tf32: bool = False,
) -> Tiles:
    """Of one kernel: "forward", "forward by descriptors", "decode", "row sums", "queries" (for dQ),
    "keys" (for dK and dV), "bias".

    Args:
        width: the larger padded one of key and value.
        crowded: what a score passes through takes registers.
        windowed: a query sees only so far to the left, which means one loop more.
        tf32: float32 numbers are multiplied by tensor cores.
    """
    if support.INTERPRETED:
        return _INTERPRETED
    tables = [_16_BIT]
    if dtype == torch.float32:
        tables = [_TF32, _32_BIT] if tf32 else [_32_BIT]
    kinds = [" crowded"] * crowded + [" windowed"] * windowed + [""]
    found = (t.get(kernel + kind, {}).get(max(width, 64)) for kind in kinds for t in tables)
    older, newer = next(tiles for tiles in found if tiles is not None)
    return newer if capability >= _NEWER else older


def alternatives(kernel: str, capability: tuple[int, int], width: int) -> tuple[Tiles, ...]:
    """What a call of 16-bit numbers that is not crowded could take instead of `tiles_of`."""
    older, newer = _ALTERNATIVES.get(kernel, {}).get(width, ((), ()))
    return newer if capability >= _NEWER else older
