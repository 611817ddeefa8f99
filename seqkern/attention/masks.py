"""From the masks of `torch.nn.MultiheadAttention` to those of the operator.

The module's masks say True where a key is left out, or hold numbers to add to the scores. The
operator takes a boolean `mask`, True where a key takes part, and a floating `bias`, both at once
and each broadcast: so a padding mask stays (B, 1, 1, M) beside an attention mask of (N, M), and
nothing of size B x H x N x M is allocated that the caller did not pass.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def check_types(
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    padding_name: str = "key_padding_mask",
    attn_name: str = "attn_mask",
) -> None:
    """Both masks have to be boolean or floating.

    Raises:
        AssertionError: one of them is neither.
    """
    for name, mask in ((padding_name, key_padding_mask), (attn_name, attn_mask)):
        if mask is not None and mask.dtype != torch.bool and not mask.is_floating_point():
            raise AssertionError(
                f"only bool and floating types of {name} are supported, got {mask.dtype}"
            )


def warn_of_mixed_types(key_padding_mask: Tensor | None, attn_mask: Tensor | None) -> None:
    """torch.nn's warning about a boolean mask beside a floating one. Mixing them costs nothing
    here."""
    if key_padding_mask is None or attn_mask is None or torch.compiler.is_compiling():
        return
    if key_padding_mask.dtype != attn_mask.dtype:
        warnings.warn(
            "Support for mismatched key_padding_mask and attn_mask is deprecated. "
            "Use same type for both instead.",
            stacklevel=3,
        )


def check_ranks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
) -> None:
    """The number of dimensions of each argument, before any size is used.

    Raises:
        AssertionError: as torch.nn.MultiheadAttention.
    """
    rank = query.dim()
    if rank not in (2, 3):
        raise AssertionError(
            f"query should be unbatched 2D or batched 3D tensor but received {rank}-D query tensor"
        )
    call = f"For {'batched' if rank == 3 else 'unbatched'} ({rank}-D) `query`, expected"
    if key.dim() != rank or value.dim() != rank:
        raise AssertionError(
            f"{call} `key` and `value` to be {rank}-D but found {key.dim()}-D and "
            f"{value.dim()}-D tensors respectively"
        )
    if key_padding_mask is not None and key_padding_mask.dim() != rank - 1:
        raise AssertionError(
            f"{call} `key_padding_mask` to be `None` or {rank - 1}-D but found "
            f"{key_padding_mask.dim()}-D tensor instead"
        )
    if attn_mask is not None and attn_mask.dim() not in (2, 3):
        raise AssertionError(
            f"{call} `attn_mask` to be `None`, 2-D or 3-D but found {attn_mask.dim()}-D "
            "tensor instead"
        )


def check_padding_shape(mask: Tensor, batch: int, keys: int, batched: bool) -> None:
    """key_padding_mask has to be (batch, keys), or (keys,) for unbatched input.

    Raises:
        AssertionError: it is not.
    """
    shape = tuple(mask.shape) if batched else (1, *mask.shape)
    for dim, size in enumerate((batch, keys)):
        if shape[dim] != size:
            raise AssertionError(
                f"Expected key_padded_mask.shape[{dim}] to be {size}, but got {shape[dim]} "
                f"(key_padding_mask is {list(mask.shape)})"
            )


def check_attn_shape(
    mask: Tensor, heads: int, batch: int, queries: int, keys: int, batched: bool
) -> None:
    """attn_mask has to be (queries, keys) or (batch * heads, queries, keys).

    Raises:
        RuntimeError: it is not. AssertionError for a 3-D mask of unbatched input, as torch.nn.
    """
    if mask.dim() == 2:
        if mask.shape != (queries, keys):
            raise RuntimeError(
                f"The shape of the 2D attn_mask is {mask.shape}, but should be {(queries, keys)}."
            )
    elif mask.shape != (batch * heads, queries, keys):
        expected = (batch * heads, queries, keys)
        if not batched:
            raise AssertionError(
                f"Expected `attn_mask` shape to be {expected} but got {mask.shape}"
            )
        raise RuntimeError(
            f"The shape of the 3D attn_mask is {mask.shape}, but should be {expected}."
        )


def for_operator(
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    batch: int,
    heads: int,
    extra_keys: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Turns masks of checked shapes into the operator's.

    Args:
        key_padding_mask: (B, M) or (M,), boolean or floating.
        attn_mask: (N, M) or (B * H, N, M), boolean or floating.
        batch, heads: B and H.
        extra_keys: how many keys, which every query attends to, follow the M (add_bias_kv,
        add_zero_attn).

    Returns:
        (mask, bias): boolean, True to take part, and floating, to add; 4-D, each dimension full or
        of size 1, None where there is none. Two masks of one type merge to the smallest shape that
        holds both.
    """
    excluded: Tensor | None = None
    bias: Tensor | None = None
    views = []
    if key_padding_mask is not None:
        views.append(key_padding_mask.reshape(batch, 1, 1, key_padding_mask.shape[-1]))
    if attn_mask is not None:
        views.append(
            attn_mask[None, None]
            if attn_mask.dim() == 2
            else attn_mask.unflatten(0, (batch, heads))
        )
    for view in views:
        if extra_keys:
            view = torch.nn.functional.pad(view, (0, extra_keys))
        if view.dtype == torch.bool:
            excluded = view if excluded is None else excluded | view
        else:
            bias = view if bias is None else bias + view
    return None if excluded is None else ~excluded, bias
