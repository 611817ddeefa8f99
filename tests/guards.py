"""Tensors between guard bands: a read beyond any edge of any dimension finds NaN.

An interpreted kernel, or one on a GPU, may read past a tensor without an error, and multiply what
it found by zero; NaN survives that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

POISON = {torch.bool: True, torch.uint8: 255, torch.int32: 2**30, torch.int64: 2**40}


def guarded(tensor: Tensor, band: int = 3) -> Tensor:
    """A tensor of the same numbers with `band` elements of NaN (huge integers, True) before and
    after each of its dimensions in memory; a dimension of which all elements are one (stride 0)
    stays so. It is a leaf that requires grad if `tensor` does."""
    full = [slice(None) if s or n == 1 else slice(0, 1)
            for n, s in zip(tensor.shape, tensor.stride(), strict=True)]  # fmt: skip
    source = tensor.detach()[tuple(full)]
    order = sorted(range(source.dim()), key=lambda dim: -(source.stride(dim) or 2**62))
    poison = torch.nan if tensor.is_floating_point() else POISON[tensor.dtype]
    memory = torch.full(
        [source.shape[dim] + 2 * band for dim in order],
        poison,
        dtype=tensor.dtype,
        device=tensor.device,
    )
    back = [order.index(dim) for dim in range(source.dim())]
    inside = memory[tuple(slice(band, band + source.shape[dim]) for dim in order)].permute(back)
    inside.copy_(source)
    return inside.expand(tensor.shape).requires_grad_(tensor.requires_grad)


def all_guarded(tensors: dict[str, Any]) -> dict[str, Any]:
    """`guarded` for each tensor that has dimensions."""
    return {
        name: guarded(t) if isinstance(t, Tensor) and t.dim() else t for name, t in tensors.items()
    }
