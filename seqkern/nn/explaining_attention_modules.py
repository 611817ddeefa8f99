"""`seqkern.explain` for multi-head attention and the Transformer: where their attention runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.attention import choice
from seqkern.attention.modules import MultiheadAttention
from seqkern.attention.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from seqkern.backends import Explanation, explains


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
