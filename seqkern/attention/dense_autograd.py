"""Dense attention with nothing but a mask on the CPU as a differentiable function.

The same as `autograd.attention` by operators with fewer arguments and a Function with one result:
in a small call the arguments take longer than the numbers.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from seqkern.attention.autograd import Specification
from seqkern.attention.needs import KEY, QUERY, VALUE
from seqkern.core import library
from seqkern.core.double_backward import differentiable_backward, reference_gradients
from seqkern.core.saving import copy_of, direct, kept

_grad_enabled = torch.is_grad_enabled
if library.cpu.loaded:
    _forward = torch.ops.seqkern.attention_dense_forward.default._op
    _backward = torch.ops.seqkern.attention_dense_backward.default._op

_Options = tuple[Tensor | None, float | None, bool]
"""Mask, scale and is_causal. One argument of the Function: each takes time."""

# The operator's `needs` for each ctx.needs_input_grad.
_NEEDS = {
    (*need, False): sum(
        bit for bit, wanted in zip((QUERY, KEY, VALUE), need, strict=True) if wanted
    )
    for need in product((False, True), repeat=3)
}


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
        DoesNotFit: the tensors are not what this operator takes, or the mask has a gradient. What
            is wrong with them, if anything is, `checks` knows.
    """
    if _grad_enabled():
        if attn_mask is not None and attn_mask.requires_grad:
            raise DoesNotFit
        if query.requires_grad or key.requires_grad or value.requires_grad:
            return _apply(query, key, value, (attn_mask, scale, is_causal))
    try:
        return _forward(query, key, value, attn_mask, scale, is_causal)[0]
    except RuntimeError as error:
        raise DoesNotFit from error


class _DenseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, options: _Options) -> Tensor:
        try:
            output, lse = _forward(query, key, value, *options)
        except RuntimeError as error:
            raise DoesNotFit from error
        attn_mask = options[0]
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = copy_of(attn_mask)
        if lse is None:  # a small call, of which the backward needs nothing else
            ctx.save_for_backward(query, key, value, attn_mask)
        else:
            ctx.save_for_backward(query, key, value, attn_mask, kept(output), lse)
        ctx.options = options[1:]
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, attn_mask, *more = ctx.saved_tensors
        output, lse = more or (None, None)
        scale, is_causal = ctx.options
        need = ctx.needs_input_grad
        if differentiable_backward((grad_output,)):
            run = _Specification(attn_mask, scale, is_causal)
            found = reference_gradients(run, (query, key, value), need, (grad_output,))
            return (*found, None)
        d_query, d_key, d_value = _backward(
            grad_output, query, key, value, output, lse, attn_mask, scale, is_causal, _NEEDS[need]
        )
        return (
            d_query if need[0] else None,
            d_key if need[1] else None,
            d_value if need[2] else None,
            None,
        )


_apply = direct(_DenseAttention)


class _Specification:
    """The reference as a function of query, key and value."""

    def __init__(self, attn_mask: Tensor | None, scale: float | None, is_causal: bool) -> None:
        if attn_mask is not None:
            attn_mask = attn_mask[(None,) * (4 - attn_mask.dim())]
        boolean = attn_mask is not None and attn_mask.dtype == torch.bool
        self.mask = attn_mask if boolean else None
        self.bias = None if boolean else attn_mask
        self.scale, self.is_causal = scale, is_causal

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor]:
        scale = query.shape[3] ** -0.5 if self.scale is None else self.scale
        options = (scale, 0.0, 0.0, self.is_causal, -1, -1)
        run = Specification(self.mask, None, None, None, options)
        return (run(query, key, value, self.bias, None, None)[0],)
