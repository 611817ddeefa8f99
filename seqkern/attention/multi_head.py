"""Attention between the projections of multi-head attention, on the CPU, as a differentiable
function.

The operators take the projections as they are: query, key and value one after the other in the
features of one tensor, where they are projections of one. Nothing is split, transposed or joined
again, in neither direction, and the attention weights are made of what the output is made of.

Where someone differentiates through the weights, or a second time, the operators of single heads
and `weights.attention_weights` say what that means.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqkern.attention.ops import attention
from seqkern.attention.recomputation import check_implementation
from seqkern.attention.weights import attention_weights
from seqkern.core import library
from seqkern.core.double_backward import differentiable_backward, reference_gradients
from seqkern.core.saving import copy_of, direct, kept

NO_WEIGHTS, MEAN, OF_EACH_HEAD = 0, 1, 2

_grad_enabled = torch.is_grad_enabled
if library.cpu.loaded:
    _forward = torch.ops.seqkern.multi_head_attention_forward.default._op
    _backward = torch.ops.seqkern.multi_head_attention_backward.default._op


class Call(NamedTuple):
    """What a call has beside its projections and a floating mask, in the operator's order."""

    heads: int
    batch_first: bool
    mask: Tensor | None
    mask_excludes: bool
    seed: Tensor | None
    dropout_p: float
    is_causal: bool
    weights: int


def attend(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    bias: Tensor | None,
    call: Call,
) -> tuple[Tensor, Tensor | None]:
    """Output, (B, N, E) or laid out as `query` is, and the weights that `call` asks for, (B, N, M)
    or (B, H, N, M), or None.

    For calls that `choice.runs_directly`, outside a compiler.

    Args:
        query: (B, N, E) with call.batch_first, else (N, B, E), or (N, E); the features of a head
            side by side. Without `key` (..., 3 E), query, key and value.
        key: the same for M keys; without `value` (..., 2 E), key and value.
        value: the same.
        bias: (B or 1, H or 1, N or 1, M or 1), added to the scores.
        call: its mask is boolean, of those dimensions or (B, M), True where a query attends to a
            key, or with mask_excludes where it does not.

    Raises:
        RuntimeError: the tensors do not fit together; the module has checked that they do.
    """
    if call.dropout_p:
        check_implementation("cpu")
    if _grad_enabled() and (
        query.requires_grad
        or (key is not None and key.requires_grad)
        or (value is not None and value.requires_grad)
        or (bias is not None and bias.requires_grad)
    ):
        output, weights = _apply(query, key, value, bias, call)
        return output, weights
    output, _, weights = _run(query, key, value, bias, call)
    return output, weights


def _run(
    query: Tensor, key: Tensor | None, value: Tensor | None, bias: Tensor | None, call: Call
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    heads, batch_first, mask, mask_excludes, seed, dropout_p, is_causal, weights = call
    return _forward(
        query, key, value, heads, batch_first, mask, mask_excludes, bias, seed, dropout_p,
        is_causal, weights,
    )  # fmt: skip


class _MultiHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        bias: Tensor | None,
        call: Call,
    ) -> tuple[Tensor, Tensor | None]:
        output, lse, weights = _run(query, key, value, bias, call)
        ctx.set_materialize_grads(False)
        saved = None if lse is None else kept(output)  # a small call needs neither
        mask = call.mask
        if mask is not None and call.mask_excludes:
            mask = copy_of(mask)  # the caller's own
        # Where PyTorch does not save a floating one, neither as it is: for weights it adds it to
        # the scores, and a padding mask goes into another. What is differentiated stays itself.
        if (
            bias is not None
            and not ctx.needs_input_grad[3]
            and (weights is not None or bias.shape[2] == 1)
        ):
            bias = copy_of(bias)
        if weights is not None and not any(ctx.needs_input_grad[i] for i in (0, 1, 3)):
            ctx.mark_non_differentiable(weights)
        ctx.save_for_backward(query, key, value, bias, mask, call.seed, saved, lse)
        ctx.call = call._replace(mask=None, seed=None)
        return output, weights

    @staticmethod
    def backward(
        ctx: Any, grad_output: Tensor | None, grad_weights: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, bias, mask, seed, output, lse = ctx.saved_tensors
        call = ctx.call._replace(mask=mask, seed=seed)
        need = ctx.needs_input_grad
        if grad_output is None and grad_weights is None:
            return None, None, None, None, None
        tensors = (query, key, value, bias)
        grads = (grad_output, grad_weights)
        if grad_weights is not None or differentiable_backward(grads):
            return (*reference_gradients(_Composed(call), tensors, need, grads), None)
        heads, batch_first, _, mask_excludes, _, dropout_p, is_causal, _ = call
        d_query, d_key, d_value, d_bias = _backward(
            grad_output, query, key, value, output, lse, heads, batch_first, mask,
            mask_excludes, bias, seed, dropout_p, is_causal, need[3],
        )  # fmt: skip
        return (
            d_query,
            None if key is None else d_key,
            None if value is None else d_value,
            d_bias if need[3] else None,
            None,
        )


_apply = direct(_MultiHead)


class _Composed:
    """Output and weights as a function of the projections, of operators that autograd knows."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(
        self, query: Tensor, key: Tensor | None, value: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        call = self.call
        q, k, v = (self._heads_first(x) for x in _parts(query, key, value))
        mask = call.mask
        if mask is not None and mask.dim() == 2:
            mask = mask[:, None, None]
        if mask is not None and call.mask_excludes:
            mask = ~mask
        output, lse = attention(
            q, k, v, mask=mask, bias=bias, seed=call.seed, dropout_p=call.dropout_p,
            is_causal=call.is_causal,
        )  # fmt: skip
        batched = query.dim() == 3
        if not batched:
            result = output[0].transpose(0, 1).flatten(1)
        elif call.batch_first:
            result = output.transpose(1, 2).flatten(2)
        else:
            result = output.permute(2, 0, 1, 3).flatten(2)
        if call.weights == NO_WEIGHTS:
            return result, result.new_empty(0)
        if call.is_causal:
            causal = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril_()
            mask = causal[None, None] if mask is None else mask & causal
        average = call.weights == MEAN
        return result, attention_weights(q, k, lse, mask, bias, call.dropout_p, call.seed, average)

    def _heads_first(self, x: Tensor) -> Tensor:
        """(B, H, L, D) of a projection."""
        x = x.unflatten(-1, (self.call.heads, -1))
        if x.dim() == 3:
            return x.transpose(0, 1).unsqueeze(0)
        return x.transpose(1, 2) if self.call.batch_first else x.permute(1, 2, 0, 3)


def _parts(query: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, ...]:
    if key is None:
        return query.chunk(3, -1)
    if value is None:
        return (query, *key.chunk(2, -1))
    return query, key, value
