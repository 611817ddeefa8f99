"""Brings queries, keys, values and masks of any rank into the four dimensions of the operators.

PyTorch's attention broadcasts all dimensions but the last two. The operators take (batch, heads,
length, features) and masks of which each dimension is full or 1, so that no mask has to be
expanded: leading dimensions are split where the mask allows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from seqkern.attention import checks


@dataclass(frozen=True)
class Folded:
    """One call in four dimensions.

    Attributes:
        lead: the leading dimensions of the result, (..., heads).
        batch: how many of them are folded into the batch; the others are heads.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    lead: tuple[int, ...]
    batch: int

    def per_head(self, numbers: Tensor | None) -> Tensor | None:
        """(H,) or (*lead) for the folded call: (heads,) or (batch, heads)."""
        if numbers is None:
            return None
        if numbers.dim() == len(self.lead) and numbers.dim() > 1:
            return numbers.reshape(self.query.shape[:2])
        repeats = math.prod(self.lead[self.batch : -1])
        return numbers.repeat(repeats) if repeats != 1 else numbers

    def unfolded(self, result: Tensor) -> Tensor:
        """A result (batch, heads, ...) with the leading dimensions of the call."""
        return result.reshape(*self.lead, *result.shape[2:])


def folded(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, enable_gqa: bool
) -> Folded:
    """Folds a call that `checks.inputs` has passed.

    Where a leading dimension is 0 there is nothing to attend to, whatever the others are: PyTorch
    gives query's leading dimensions and zeros.

    Raises:
        RuntimeError, IndexError: the leading dimensions or the mask do not broadcast, or the heads
            of key and value do not divide those of query; in PyTorch's words.
    """
    if 0 in (*query.shape[:-2], *key.shape[:-2], *value.shape[:-2]):
        key, value = (
            t[..., :0, :].reshape(*query.shape[:-2], 0, t.shape[-1]) for t in (key, value)
        )
        # Of no keys, so that its gradient is computed: zeros.
        attn_mask = None if attn_mask is None else attn_mask[..., :0].reshape(1, 0)
    if enable_gqa:
        checks.grouped_heads(query, key, value)
        heads = query.shape[-3]
        if key.shape[-3] != value.shape[-3]:
            key, value = _repeated(key, heads), _repeated(value, heads)
        outer = _broadcast(3, query, key, value)
        lead = (*outer, heads)
        query = query.expand(*lead, *query.shape[-2:])
        key, value = (t.expand(*outer, *t.shape[-3:]) for t in (key, value))
    else:
        lead = tuple(_broadcast(2, query, key, value))
        query, key, value = (t.expand(*lead, *t.shape[-2:]) for t in (query, key, value))
    if attn_mask is not None:
        weights = (*lead, query.shape[-2], key.shape[-2])
        checks.mask_shape("attn_mask", attn_mask, weights)
        attn_mask = attn_mask[(None,) * (len(weights) - attn_mask.dim())]

    batch = _split(lead, attn_mask)
    query, key, value = (_folded(t, batch) for t in (query, key, value))
    if attn_mask is not None:
        attn_mask = _folded_mask(attn_mask, lead, batch)
    return Folded(query, key, value, attn_mask, lead, batch)


def _repeated(tensor: Tensor, heads: int) -> Tensor:
    shared = heads // tensor.shape[-3] if tensor.shape[-3] else 1
    return tensor.repeat_interleave(shared, dim=-3)


def _broadcast(inner: int, query: Tensor, key: Tensor, value: Tensor) -> list[int]:
    """The common shape of all but the last `inner` dimensions."""
    shapes = [t.shape[: t.dim() - inner] for t in (query, key, value)]
    if shapes[0] == shapes[1] == shapes[2]:
        return list(shapes[0])
    lead = checks.broadcast(shapes[0], shapes[1], query=query, key=key)
    return checks.broadcast(lead, shapes[2], query=query, key=key, value=value)


def _folded(tensor: Tensor, batch: int) -> Tensor:
    """(..., length, features) with the first `batch` dimensions as one and the others as heads."""
    lead, inner = tensor.shape[:-2], tensor.shape[-2:]
    if len(lead) == 2 and batch == 1:
        return tensor
    return tensor.reshape(math.prod(lead[:batch]), math.prod(lead[batch:]), *inner)


def _split(lead: Sequence[int], mask: Tensor | None) -> int:
    """How many leading dimensions become the batch: all but the heads, unless the mask would have
    to be expanded for that and not for another split."""
    usual = max(len(lead) - 1, 0)
    if mask is None or len(lead) <= 2:
        return usual
    for batch in (usual, *range(usual - 1, 0, -1)):
        if all(_uniform(mask, lead, part) for part in (slice(0, batch), slice(batch, None))):
            return batch
    return usual


def _uniform(mask: Tensor, lead: Sequence[int], part: slice) -> bool:
    """Whether the mask has all of these leading dimensions or none of them."""
    sizes = [(m, n) for m, n in zip(mask.shape[:-2][part], lead[part], strict=True) if n != 1]
    return all(m == 1 for m, _ in sizes) or all(m == n for m, n in sizes)


def _folded_mask(mask: Tensor, lead: Sequence[int], batch: int) -> Tensor:
    groups = []
    for part in (slice(0, batch), slice(batch, None)):
        absent = all(m == 1 for m in mask.shape[:-2][part])
        groups.append([1] * len(lead[part]) if absent else list(lead[part]))
    mask = mask.expand(*groups[0], *groups[1], *mask.shape[-2:])
    return mask.reshape(math.prod(groups[0]), math.prod(groups[1]), *mask.shape[-2:])
