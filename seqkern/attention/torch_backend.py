"""PyTorch's own attention: what runs where seqkern has no kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.attention.recomputation import check_implementation

# PyTorch's own function, even if torch.nn.functional has been patched, by seqkern's users for
# example.
torch_attention = torch._C._nn.scaled_dot_product_attention


def call_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`torch_attention`, for calls that a checkpoint may recompute."""
    if dropout_p:
        check_implementation("torch")
    return torch_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    dropout_p: float,
    is_causal: bool,
) -> Tensor:
    """The output (B, H, N, Dv) for the arguments of `ops.attention`; PyTorch gives no lse, and
    raises its own errors."""
    attn_mask, is_causal = merged(query, key, mask, bias, is_causal)
    return call_torch(
        query,
        key,
        value,
        attn_mask,
        dropout_p,
        is_causal,
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def merged(
    query: Tensor, key: Tensor, mask: Tensor | None, bias: Tensor | None, is_causal: bool
) -> tuple[Tensor | None, bool]:
    """attn_mask and is_causal for PyTorch's function, which takes one of them."""
    if mask is None:
        attn_mask = bias
    elif bias is None:
        attn_mask = mask
    else:
        attn_mask = bias.masked_fill(~mask, -torch.inf)
    if is_causal and attn_mask is not None:  # not every path of PyTorch takes both
        causal = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        causal = causal.tril()
        if attn_mask.dtype == torch.bool:
            attn_mask = attn_mask & causal
        else:
            attn_mask = attn_mask.masked_fill(~causal, -torch.inf)
        is_causal = False
    return attn_mask, is_causal
