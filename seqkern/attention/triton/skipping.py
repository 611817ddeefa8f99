"""Which tiles of keys a call needs, where a mask of padding excludes keys for all queries alike.

A kernel finds out which tiles of queries a launch takes from the causal rule and the window by
arithmetic; a mask has to be read. A mask or bias with one row for all queries is read once, before
the launch, and becomes a list of the tiles in which some key is allowed. The loops over keys run
over the list, so that tiles of padding are not loaded, wherever they stand, and loads stay
pipelined. (FlexAttention's block masks are lists of the same kind: Dong et al. 2024, "Flex
Attention: a programming model for generating optimized attention kernels".) What loops over queries
asks `tiles.some_allowed` for its own tile of keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from seqkern.attention.triton.operands import Operands, Pairs, programs
from seqkern.attention.triton.tiles import some_allowed

_AT_ONCE = 32  # tiles


class Needed(NamedTuple):
    """Lists, one for each sequence and head, or for all.

    At `at`: for each tile, and behind the last, how many needed ones stand before it. From
    `at + tiles` on: the numbers of the needed ones, ascending. All strides are multiples of 16 for
    any number of keys, so that none compiles anew.
    """

    at: Any  # int32
    batch: int
    head: int
    tiles: int


@triton.jit
def within(needed, b, h, start, end, TILE: tl.constexpr):
    """(list, first, last): where the needed ones of the tiles of the keys `start`, a multiple of
    TILE, to `end` stand."""
    row = needed.at + b * needed.batch + h * needed.head
    first = tl.load(row + start // TILE)
    last = tl.load(row + tl.cdiv(end, TILE))
    return row + needed.tiles, first, last


@triton.jit(do_not_specialize=["keys", "heads"])
def attention_needed_kernel(needed, scores, keys, heads, TILE: tl.constexpr, AT_ONCE: tl.constexpr):
    """Programs: every list."""
    h = tl.program_id(0) % heads
    b = tl.program_id(0) // heads
    row = needed.at + b * needed.batch + h * needed.head
    tiles = tl.cdiv(keys, TILE)
    count = h * 0
    for first in range(0, tiles + 1, AT_ONCE):
        t = first + tl.arange(0, AT_ONCE)
        j = t[:, None] * TILE + tl.arange(0, TILE)[None, :]
        some = tl.where(some_allowed(scores, b, h, j, keys) > 0, 1, 0)
        before = count + tl.cumsum(some, axis=0) - some
        tl.store(row + t, before, mask=t <= tiles)
        tl.store(row + needed.tiles + before, t, mask=some > 0)
        count += tl.sum(some)


def needed(call: Operands, tile: int, any_head: bool = True) -> Needed | None:
    """The lists of a call for tiles of `tile` keys; None without a mask or bias for all queries.

    Args:
        any_head: whether heads may have lists of their own; if not, None where they differ.
    """
    masks = [m for m in (call.scores.mask, call.scores.bias) if m is not None and m.row is None]
    heads = call.sizes.heads if any(m.head for m in masks) else 1
    if not masks or (heads > 1 and not any_head):
        return None
    batch = call.batch if any(m.batch for m in masks) else 1
    width = triton.cdiv(triton.cdiv(call.sizes.keys, tile) + 1, 16) * 16
    # The launch that follows on the same stream reads it; the allocator knows the stream.
    lists = masks[0].at.new_empty((batch, heads, 2 * width), dtype=torch.int32)
    found = Needed(
        lists, 2 * width * heads if batch > 1 else 0, 2 * width if heads > 1 else 0, width
    )
    mask, bias = _shared(call.scores.mask), _shared(call.scores.bias)
    shared = call.scores._replace(mask=mask, bias=bias, slopes=None)
    attention_needed_kernel[programs(batch * heads)](
        found, shared, call.sizes.keys, heads, TILE=tile, AT_ONCE=_AT_ONCE
    )
    return found


def _shared(pairs: Pairs | None) -> Pairs | None:
    return None if pairs is None or pairs.row is not None else pairs
