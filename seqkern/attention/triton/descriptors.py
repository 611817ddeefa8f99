"""Query, key and value as tensor descriptors, by which a GPU from Hopper on loads a tile with one
instruction (TMA): no registers hold addresses, and what lies beyond an edge is 0.

FlashAttention-3 (Shah et al. 2024) and Triton's own tutorial on fused attention load so. The plain
forward does: 16 bits, not packed (rows behind the end of a packed sequence are its neighbour's, not
0), no mask, bias, slopes or dropout. Tensors that a descriptor cannot describe, and older GPUs, go
by pointers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from seqkern.attention.triton.operands import ALIGNED, Operands, Rows, padded
from seqkern.attention.triton.settings import Tiles
from seqkern.core.triton import support

_OLDEST = (9, 0)


def suit(call: Operands, capability: tuple[int, int]) -> bool:
    """Whether the forward loads this call's tensors by descriptors."""
    return (
        (capability >= _OLDEST or support.INTERPRETED)
        and call.packed is None
        and not call.crowded
        and call.query.at.dtype != torch.float32
        and all(describable(rows.at) for rows in (call.query, call.key, call.value))
    )


def blocks(call: Operands, tiles: Tiles) -> tuple[TensorDescriptor, ...]:
    """Descriptors of query, key and value with the tiles' rows and all features of a head."""
    given = ((call.query, tiles.queries), (call.key, tiles.keys), (call.value, tiles.keys))
    return tuple(_descriptor(rows, count) for rows, count in given)


def describable(tensor: Tensor) -> bool:
    """Whether a descriptor can describe (B, H, rows, width); the width is contiguous already."""
    size = tensor.element_size()
    return (
        tensor.numel() > 0
        and tensor.data_ptr() % ALIGNED == 0
        and all(
            s > 0 and s * size % ALIGNED == 0
            for n, s in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
            if n > 1
        )
    )


def _descriptor(rows: Rows, count: int) -> TensorDescriptor:
    tensor = rows.at
    # The stride of a dimension of one counts nothing, but is checked.
    strides = [
        s if n > 1 else ALIGNED
        for n, s in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    ]
    block = [1, 1, count, padded(tensor.shape[-1])]
    return TensorDescriptor(tensor, list(tensor.shape), [*strides, 1], block)
