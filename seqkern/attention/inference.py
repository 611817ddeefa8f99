"""Transformer layers without gradients: sums and ReLU in place, and no dropout that does nothing.

What a layer's parts return belongs to the layer, unless a hook or a mode has seen it. So where
nobody differentiates or watches and every part is of the class that torch.nn's constructor made or
seqkern's, a residual is added where the block's result lies. Large layers are bound by memory, and
each tensor less is read and written once less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from seqkern.attention.modules import MultiheadAttention

_grad_enabled = torch.is_grad_enabled
_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack
_PARTS = {
    "self_attn": (MultiheadAttention,),
    "multihead_attn": (MultiheadAttention,),
    "linear1": (torch.nn.Linear,),
    "linear2": (torch.nn.Linear,),
    "activation": (torch.nn.ReLU, torch.nn.GELU),
    **{f"norm{i}": (torch.nn.LayerNorm,) for i in (1, 2, 3)},
    **{f"dropout{i}": (torch.nn.Dropout,) for i in ("", 1, 2, 3)},
}
"""What each part has to be: all but a dropout return a tensor of their own."""
_BLOCKS = {
    torch.nn.TransformerEncoderLayer: ("_sa_block", "_ff_block"),
    torch.nn.TransformerDecoderLayer: ("_sa_block", "_mha_block", "_ff_block"),
}
# As they are now: somebody may replace them in the classes themselves.
_FUNCTIONS = {of: {name: getattr(of, name) for name in names} for of, names in _BLOCKS.items()}
_FORWARDS: dict[type, Any] = {
    part: vars(part)["forward"] for parts in _PARTS.values() for part in parts
}
_RELUS = frozenset({F.relu, torch.relu, torch.nn.ReLU})


def may_work_in_place(layer: Any, of: type[torch.nn.Module]) -> bool:
    """Whether a call of the layer is one of those described above.

    Args:
        of: torch.nn's class of the layer, whose blocks nobody may have replaced.
    """
    return not (
        _grad_enabled()
        or layer.training
        or _compiling()
        or _modes()
        or _dispatch_modes()
        or hooks_everywhere()
        or any(not _is_plain(name, part) for name, part in layer._modules.items())
        or not has_own_blocks(layer, of)
    )


def hooks_everywhere() -> bool:
    """Whether somebody watches the calls of all modules."""
    return bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks)


def has_own_blocks(layer: Any, of: type[torch.nn.Module]) -> bool:
    """Whether the blocks of a layer are those that torch.nn's class of it has of its own."""
    return all(
        getattr(getattr(layer, name), "__func__", None) is function
        for name, function in _FUNCTIONS[of].items()
    )


def _is_plain(name: str, part: torch.nn.Module) -> bool:
    return (
        type(part) in _PARTS.get(name, ())
        and vars(type(part))["forward"] is _FORWARDS[type(part)]
        and not part.training
        and not part._forward_hooks
        and not part._forward_pre_hooks
        and "forward" not in part.__dict__
    )


def added(result: Tensor, residual: Tensor) -> Tensor:
    """residual + result, where `result` lies if that is what the sum would be like."""
    if result.dtype is residual.dtype and type(result) is Tensor and type(residual) is Tensor:
        return result.add_(residual)
    return residual + result


def feed_forward(layer: Any, x: Tensor) -> Tensor:
    """The layer's feed-forward block without its dropouts."""
    hidden = layer.linear1(x)
    activation: Callable[[Tensor], Tensor] = layer.activation
    kind = type(activation) if isinstance(activation, torch.nn.Module) else activation
    in_place = kind in _RELUS and type(hidden) is Tensor
    hidden = hidden.relu_() if in_place else activation(hidden)
    return layer.linear2(hidden)
