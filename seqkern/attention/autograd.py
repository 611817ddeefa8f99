"""The attention operators of each backend as one differentiable function, dense and varlen.

The autograd.Function stands outside the operator, and a call that needs no gradient does not
pass through it: a Python-visible autograd costs more than a decoding step. What a forward call
saves is never written again, so a graph may be walked twice (retain_graph). A caller may change the
output in place on the CPU; see `seqkern.core.saving`.

Differentiating a gradient once more differentiates the reference: the kernels' backward has no
backward of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.attention import reference
from seqkern.attention.needs import BIAS, KEY, QUERY, SLOPES, VALUE
from seqkern.attention.recomputation import check_implementation
from seqkern.attention.registration import triton_operators
from seqkern.core.double_backward import differentiable_backward, reference_gradients
from seqkern.core.saving import copy_of, direct, kept, traced

_forward = triton_operators.by_backend("attention_forward")
_backward = triton_operators.by_backend("attention_backward")
# What an operator calls in its turn, one Python frame later; a compiler wants to see the operator.
_uncompiled = {backend: operator._op for backend, operator in _forward.items()}


def forward_operator(backend: str) -> Any:
    """The operator that computes output and log-sum-exp, below autograd."""
    return _uncompiled[backend]


def backward_operator(backend: str) -> Any:
    """The operator that computes the gradients."""
    return _backward[backend]


_grad_enabled = torch.is_grad_enabled
_compiling = torch.compiler.is_compiling


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    alibi_slopes: Tensor | None,
    sinks: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seed: Tensor | None,
    scale: float,
    softcap: float,
    dropout_p: float,
    is_causal: bool,
    window_left: int,
    window_right: int,
    backend: str = "cpu",
) -> tuple[Tensor, Tensor]:
    """`reference.attention` by the kernels of a backend, or `reference.varlen_attention` where
    cu_seqlens are given: (output, lse), with their shapes.

    Query, key and value are float32, float64 or bfloat16 for "cpu", float32, bfloat16 or float16
    for "triton"; bias is of their dtype or float32, slopes and sinks are float32 (float64 for
    float64), cu_seqlens int32 or int64. A softcap of 0.0, a dropout_p of 0.0 and windows of -1
    stand for none. The forward is FlashAttention's algorithm 1, the backward its algorithm 4 (Dao
    et al. 2022).

    Raises:
        RuntimeError: the operator refuses the arguments; it knows only its own names for them.
    """
    if dropout_p:
        check_implementation(backend)
    if _grad_enabled() and (
        query.requires_grad
        or key.requires_grad
        or value.requires_grad
        or (bias is not None and bias.requires_grad)
        or (alibi_slopes is not None and alibi_slopes.requires_grad)
        or (sinks is not None and sinks.requires_grad)
    ):
        return (_traced if _compiling() else _apply)(
            query, key, value, bias, alibi_slopes, sinks, mask, cu_seqlens_q, cu_seqlens_k, seed,
            backend, scale, softcap, dropout_p, is_causal, window_left, window_right,
        )  # fmt: skip
    return (_forward if _compiling() else _uncompiled)[backend](
        query, key, value, mask, bias, alibi_slopes, sinks, cu_seqlens_q, cu_seqlens_k, seed,
        scale, softcap, dropout_p, is_causal, window_left, window_right,
    )  # fmt: skip


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        alibi_slopes: Tensor | None,
        sinks: Tensor | None,
        mask: Tensor | None,
        cu_seqlens_q: Tensor | None,
        cu_seqlens_k: Tensor | None,
        seed: Tensor | None,
        backend: str,
        *options: Any,
    ) -> tuple[Tensor, Tensor]:
        output, lse = _uncompiled[backend](
            query, key, value, mask, bias, alibi_slopes, sinks, cu_seqlens_q, cu_seqlens_k, seed,
            *options,
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        mask = None if mask is None else copy_of(mask)
        ctx.save_for_backward(
            query, key, value, bias, alibi_slopes, sinks, mask, cu_seqlens_q, cu_seqlens_k, seed,
            kept(output), lse,
        )  # fmt: skip
        ctx.backend, ctx.options = backend, options
        return output, lse

    @staticmethod
    def backward(
        ctx: Any, grad_output: Tensor | None, grad_lse: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, bias, slopes, sinks, mask, cu_q, cu_k, seed, output, lse = (
            ctx.saved_tensors
        )
        need = ctx.needs_input_grad
        no_more = (None,) * 11
        if grad_output is None:  # values and weights have nothing to do with each other
            need = (*need[:2], False, *need[3:])
        if grad_output is None and grad_lse is None:
            return (None,) * 6 + no_more
        if differentiable_backward((grad_output, grad_lse)):
            run = Specification(mask, cu_q, cu_k, seed, ctx.options)
            tensors = (query, key, value, bias, slopes, sinks)
            found = reference_gradients(run, tensors, need, (grad_output, grad_lse))
            return (*found, *no_more)
        if grad_output is None:  # only lse was used
            grad_output = output.new_zeros(()).expand(output.shape)
        needs = (
            (QUERY if need[0] else 0)
            | (KEY if need[1] else 0)
            | (VALUE if need[2] else 0)
            | (BIAS if need[3] else 0)
            | (SLOPES if need[4] else 0)
        )
        d_query = d_key = d_value = d_bias = d_slopes = None
        if needs:
            d_query, d_key, d_value, d_bias, d_slopes = _backward[ctx.backend](
                grad_output, grad_lse, query, key, value, output, lse, mask, bias, slopes,
                sinks, cu_q, cu_k, seed, *ctx.options, needs,
            )  # fmt: skip
        if d_slopes is not None and need[4] and slopes.dim() == 1:
            d_slopes = d_slopes.sum(0)
        return (
            d_query if need[0] else None,
            d_key if need[1] else None,
            d_value if need[2] else None,
            d_bias if need[3] else None,
            d_slopes if need[4] else None,
            _grad_sinks(sinks, grad_output, grad_lse, output, lse) if need[5] else None,
            *no_more,
        )


_apply = direct(_Attention)
_traced = traced(
    _Attention,
    "(Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? alibi_slopes, Tensor? sinks, "
    "Tensor? mask, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seed, str backend, float "
    "scale, float softcap, float dropout_p, bool is_causal, int window_left, int window_right) "
    "-> (Tensor, Tensor)",
)


class Specification:
    """The reference as a function of the tensors that have gradients; `options` are the last six
    arguments of the operator, from scale on."""

    def __init__(
        self,
        mask: Tensor | None,
        cu_seqlens_q: Tensor | None,
        cu_seqlens_k: Tensor | None,
        seed: Tensor | None,
        options: tuple[Any, ...],
    ) -> None:
        self.mask, self.cu_seqlens = mask, (cu_seqlens_q, cu_seqlens_k)
        scale, softcap, dropout_p, is_causal, left, right = options
        self.options = {
            "scale": scale,
            "softcap": softcap,
            "dropout_p": dropout_p,
            "is_causal": is_causal,
            "window": (left, right),
            "seed": seed,
        }

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        alibi_slopes: Tensor | None,
        sinks: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        options = {"alibi_slopes": alibi_slopes, "sinks": sinks, **self.options}
        cu_q, cu_k = self.cu_seqlens
        if cu_q is None or cu_k is None:
            return reference.attention(query, key, value, mask=self.mask, bias=bias, **options)
        return reference.varlen_attention(query, key, value, cu_q, cu_k, **options)


def _grad_sinks(
    sinks: Tensor, grad_output: Tensor, grad_lse: Tensor | None, output: Tensor, lse: Tensor
) -> Tensor:
    """sum over rows of P_sink * (grad_lse - grad_output . output), where P_sink = exp(sink - lse).

    Heads are dimension -2 of lse, and dimension 1 of output in both forms; a row that is empty in
    spite of its sink, one of -inf, has no P_sink.
    """
    inner = -(grad_output.to(lse.dtype) * output.to(lse.dtype)).sum(-1)
    if lse.dim() == 2:  # varlen: (H, total)
        inner = inner.transpose(0, 1)
    if grad_lse is not None:
        inner = inner + grad_lse
    share = torch.exp(sinks[:, None] - lse.masked_fill(lse == -torch.inf, torch.inf))
    grad = (share * inner).sum(-1)
    return grad.sum(0) if grad.dim() == 2 else grad
