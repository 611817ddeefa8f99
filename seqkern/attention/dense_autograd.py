"""Dense attention with nothing but a mask on the CPU as a differentiable function.

The same as `autograd.attention` by operators with fewer arguments and a Function with one result:
in a small call the arguments take longer than the numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.attention.autograd import Specification
from seqkern.attention.needs import BIAS, KEY, QUERY, VALUE
from seqkern.core import library
from seqkern.core.double_backward import differentiable_backward, reference_gradients
from seqkern.core.saving import copy_of, direct, kept

_grad_enabled = torch.is_grad_enabled
if library.cpu.loaded:
    _forward = torch.ops.seqkern.attention_dense_forward.default._op
    _backward = torch.ops.seqkern.attention_dense_backward.default._op


class DoesNotFit(Exception):
    """A call that this operator does not take; nothing has happened yet."""


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    scale: float | None,
    is_causal: bool,
) -> Tensor:
    """The output of `ops.attention` for a call that `choice.runs_directly`, outside a compiler.

    Args:
        query: (B, H, N, D), key: (B, H, M, D), value: (B, H, M, Dv), of one dtype.
        attn_mask: as PyTorch's function takes it, of four dimensions at most.

    Raises:
        DoesNotFit: the tensors are not what this operator takes. What is wrong with them, if
            anything is, `checks` knows.
    """
    if _grad_enabled() and (
        query.requires_grad
        or key.requires_grad
        or value.requires_grad
        or (attn_mask is not None and attn_mask.requires_grad)
    ):
        return _apply(query, key, value, attn_mask, scale, is_causal)
    return _run(query, key, value, attn_mask, scale, is_causal)[0]


def _run(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    try:
        return _forward(*arguments)
    except RuntimeError as error:
        raise DoesNotFit from error


class _DenseAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        scale: float | None,
        is_causal: bool,
    ) -> Tensor:
        output, lse = _run(query, key, value, attn_mask, scale, is_causal)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = copy_of(attn_mask)
        if lse is None:  # a small call, of which the backward needs nothing else
            ctx.save_for_backward(query, key, value, attn_mask)
        else:
            ctx.save_for_backward(query, key, value, attn_mask, kept(output), lse)
        ctx.options = (scale, is_causal)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, attn_mask, *more = ctx.saved_tensors
        output, lse = more or (None, None)
        scale, is_causal = ctx.options
        need = ctx.needs_input_grad
        if differentiable_backward((grad_output,)):
            run = _Specification(scale, is_causal, attn_mask)
            tensors = (query, key, value, attn_mask)
            return (*reference_gradients(run, tensors, need, (grad_output,)), None, None)
        needs = (
            (QUERY if need[0] else 0)
            | (KEY if need[1] else 0)
            | (VALUE if need[2] else 0)
            | (BIAS if need[3] else 0)
        )
        d_query, d_key, d_value, d_mask = _backward(
            grad_output, query, key, value, output, lse, attn_mask, scale, is_causal, needs
        )
        return (
            d_query if need[0] else None,
            d_key if need[1] else None,
            d_value if need[2] else None,
            d_mask.view(attn_mask.shape) if need[3] else None,
            None,
            None,
        )


_apply = direct(_DenseAttention)


class _Specification:
    """The reference as a function of query, key, value and the mask."""

    def __init__(self, scale: float | None, is_causal: bool, attn_mask: Tensor | None) -> None:
        self.boolean = attn_mask is not None and attn_mask.dtype == torch.bool
        self.scale, self.is_causal = scale, is_causal

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None
    ) -> tuple[Tensor]:
        if attn_mask is not None:
            attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
        mask, bias = (attn_mask, None) if self.boolean else (None, attn_mask)
        scale = query.shape[3] ** -0.5 if self.scale is None else self.scale
        run = Specification(mask, None, None, None, (scale, 0.0, 0.0, self.is_causal, -1, -1))
        return (run(query, key, value, bias, None, None)[0],)
