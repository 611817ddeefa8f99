"""`seqkern.explain` for the functions of attention, multi-head attention and the Transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.attention import checks, choice
from seqkern.attention.dense import scaled_dot_product_attention
from seqkern.attention.modules import MultiheadAttention
from seqkern.attention.ops import unsupported_by_torch
from seqkern.attention.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from seqkern.attention.varlen import varlen_attention
from seqkern.core.backends import Explanation, explains


@explains("scaled_dot_product_attention", scaled_dot_product_attention)
def explain_attention(
    function: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    causal: str | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    return_lse: bool = False,
    sinks: Tensor | None = None,
) -> Explanation:
    """The arguments are those of the function."""
    name = function if isinstance(function, str) else function.__name__
    checks.types("explain", query=query, key=key, value=value, attn_mask=attn_mask)
    _, sides, cap = checks.options(dropout_p, is_causal, causal, window, softcap)
    extras = unsupported_by_torch(alibi_slopes, sinks, cap, sides, return_lse)
    tensors = (key, value, attn_mask, alibi_slopes, sinks)
    return choice.explanation(name, query, tensors, extras)


@explains("varlen_attention", varlen_attention)
def explain_varlen_attention(
    function: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *lengths: Any,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    **options: Any,
) -> Explanation:
    """The arguments are those of the function."""
    name = function if isinstance(function, str) else function.__name__
    checks.types("explain", query=query, key=key, value=value)
    tensors = (key, value, alibi_slopes, sinks)
    return choice.explanation(name, query, tensors, "cu_seqlens")


@explains(MultiheadAttention)
def explain_attention_module(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *options: Any, **named: Any
) -> Explanation:
    """The arguments are those of the module's forward."""
    call = f"MultiheadAttention(embed_dim={module.embed_dim}, num_heads={module.num_heads})"
    return _explanation(call, module, {"query": query, "key": key, "value": value}, options, named)


@explains(TransformerEncoderLayer, TransformerEncoder)
def explain_encoder(module: Any, src: Tensor, *options: Any, **named: Any) -> Explanation:
    """The arguments are those of the module's forward."""
    call = f"the attention of {type(module).__name__}"
    return _explanation(call, module, {"src": src}, options, named)


@explains(TransformerDecoderLayer, TransformerDecoder)
def explain_decoder(
    module: Any, tgt: Tensor, memory: Tensor, *options: Any, **named: Any
) -> Explanation:
    """The arguments are those of the module's forward."""
    call = f"the attention of {type(module).__name__}"
    return _explanation(call, module, {"tgt": tgt, "memory": memory}, options, named)


@explains(Transformer)
def explain_transformer(
    module: Any, src: Tensor, tgt: Tensor, *options: Any, **named: Any
) -> Explanation:
    """The arguments are those of the module's forward."""
    call = f"the attention of {type(module).__name__}"
    return _explanation(call, module, {"src": src, "tgt": tgt}, options, named)


def _explanation(
    call: str,
    module: torch.nn.Module,
    inputs: dict[str, Any],
    options: tuple[Any, ...],
    named: dict[str, Any],
) -> Explanation:
    for name, tensor in inputs.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"explain: {name} must be a Tensor, got {type(tensor).__name__}")
    tensors = [*inputs.values(), *options, *named.values(), *module.parameters()]
    others = [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
    nested = any(tensor.is_nested for tensor in inputs.values())
    return choice.explanation(call, tensors[0], others, "cu_seqlens" if nested else "")
