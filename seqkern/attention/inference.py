"""Transformer layers without gradients: sums and ReLU in place, and no dropout that does nothing.

What a layer's parts return belongs to the layer, unless a hook has seen it. So where nobody
differentiates, nothing is hooked and every part is of the class that torch.nn's constructor made or
seqkern's, a residual is added where the block's result lies. Large layers are bound by memory, and
each tensor less is read and written once less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from seqkern.attention.modules import MultiheadAttention

_grad_enabled = torch.is_grad_enabled
_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_function_stack
_PARTS = frozenset(
    {
        MultiheadAttention,
        torch.nn.Linear,
        torch.nn.LayerNorm,
        torch.nn.Dropout,
        torch.nn.ReLU,
        torch.nn.GELU,
    }
)
_RELUS = frozenset({F.relu, torch.relu, torch.nn.ReLU})


def may_work_in_place(layer: Any, blocks: Iterable[str], of: type[torch.nn.Module]) -> bool:
    """Whether a call of the layer is one of those described above.

    Args:
        blocks: the methods that a subclass may override, which are then to be called.
        of: torch.nn's class, whose methods they are otherwise.
    """
    return not (
        _grad_enabled()
        or layer.training
        or _compiling()
        or _modes()
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or any(not _is_plain(part) for part in layer._modules.values())
        or any(getattr(getattr(layer, b), "__func__", None) is not getattr(of, b) for b in blocks)
    )


def _is_plain(part: torch.nn.Module) -> bool:
    return (
        type(part) in _PARTS
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
