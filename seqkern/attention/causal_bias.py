"""`torch.nn.attention.bias`: masks given by a variant and two lengths.

A CausalBias is a Tensor over uninitialised memory. Its meaning is in its attributes, and an
operator that read its values would read garbage.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

TOP_LEFT, BOTTOM_RIGHT = "top_left", "bottom_right"


def is_causal_bias(mask: Any) -> bool:
    """Whether a mask is what `causal_upper_left` or `causal_lower_right` returns."""
    # Importing the module loads torch._dynamo. While it is not imported, there is no such mask.
    module = sys.modules.get("torch.nn.attention.bias")
    return module is not None and isinstance(mask, module.CausalBias)


def alignment(bias: Any, queries: int, keys: int) -> str:
    """`TOP_LEFT` or `BOTTOM_RIGHT`, for scores of (queries, keys).

    The upper left mask is the same for every size, and PyTorch ignores the size it was made with.
    The lower right one has to have been made for these numbers; where both are square it is the
    upper left one.

    Raises:
        RuntimeError: it was made for others.
        ValueError: its variant is neither, in PyTorch's words.
    """
    made_for = (int(bias.seq_len_q), int(bias.seq_len_kv))
    name = getattr(bias.variant, "name", None)
    if name == "UPPER_LEFT" or (queries == keys and made_for[0] == made_for[1]):
        return TOP_LEFT
    if name != "LOWER_RIGHT":
        raise ValueError(
            f"CausalBias.variant must be a CausalVariant type, but found: {bias.variant}"
        )
    if made_for != (queries, keys):
        raise RuntimeError(
            f"attn_mask is a lower right CausalBias for {made_for[0]} queries and {made_for[1]} "
            f"keys, but the attention weights are [{queries}, {keys}]"
        )
    return BOTTOM_RIGHT


def allowed(aligned: str, queries: int, keys: int, device: torch.device) -> Tensor:
    """The mask in full: bool (queries, keys), True where a query attends to a key."""
    shift = keys - queries if aligned == BOTTOM_RIGHT else 0
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(shift)
