"""The compiled recurrent operators as differentiable functions of one layer and one direction.

The autograd.Function stands outside the operator, and a call that needs no gradient does not
pass through it: a Python-visible autograd costs more than a small cell. The activations that a
forward call saves are never written again, so a graph may be walked twice (retain_graph).
What a caller may change in place, as with PyTorch's layers, are the outputs, the final states and
the biases; see `seqkern.core.saving`.

Differentiating a gradient once more differentiates the reference: the kernels' backward has no
backward of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqkern.core.double_backward import differentiable_backward, reference_gradients
from seqkern.core.saving import Unchecked, direct, kept, traced
from seqkern.recurrent import reference
from seqkern.recurrent.needs import layer_needs
from seqkern.recurrent.registration import triton_operators

_lstm_forward = triton_operators.by_backend("lstm_forward")
_lstm_backward = triton_operators.by_backend("lstm_backward")
_gru_forward = triton_operators.by_backend("gru_forward")
_gru_backward = triton_operators.by_backend("gru_backward")
_rnn_forward = triton_operators.by_backend("rnn_forward")
_rnn_backward = triton_operators.by_backend("rnn_backward")

_grad_enabled = torch.is_grad_enabled
_compiling = torch.compiler.is_compiling


def lstm(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
    backend: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.lstm` by the kernel of a backend, "cpu", "cuda" or "triton"; `packed` (inference
    only) is w_hh packed ahead."""
    if _grad_enabled() and (
        input.requires_grad
        or w_hh.requires_grad
        or w_ih.requires_grad
        or _any_requires_grad(h0, c0, b_ih, b_hh, w_hr)
    ):
        _refuse_packed(packed)
        return (_traced_lstm if _compiling() else _lstm_apply)(
            input, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, batch_sizes, reverse, backend
        )
    result = _lstm_forward[backend](
        input, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, packed, batch_sizes, reverse, False
    )
    return result[0], result[1], result[2]


def gru(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
    backend: str = "cpu",
) -> tuple[Tensor, Tensor]:
    """`reference.gru` by the kernel of a backend; `packed` as there."""
    if _grad_enabled() and (
        input.requires_grad
        or w_hh.requires_grad
        or w_ih.requires_grad
        or _any_requires_grad(h0, b_ih, b_hh)
    ):
        _refuse_packed(packed)
        return (_traced_gru if _compiling() else _gru_apply)(
            input, h0, w_ih, w_hh, b_ih, b_hh, batch_sizes, reverse, backend
        )
    result = _gru_forward[backend](
        input, h0, w_ih, w_hh, b_ih, b_hh, packed, batch_sizes, reverse, False
    )
    return result[0], result[1]


def rnn(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
    relu: bool,
    backend: str = "cpu",
) -> tuple[Tensor, Tensor]:
    """`reference.rnn` by the kernel of a backend; `packed` as there."""
    if _grad_enabled() and (
        input.requires_grad
        or w_hh.requires_grad
        or w_ih.requires_grad
        or _any_requires_grad(h0, b_ih, b_hh)
    ):
        _refuse_packed(packed)
        return (_traced_rnn if _compiling() else _rnn_apply)(
            input, h0, w_ih, w_hh, b_ih, b_hh, batch_sizes, reverse, relu, backend
        )
    return _rnn_forward[backend](
        input, h0, w_ih, w_hh, b_ih, b_hh, packed, batch_sizes, relu, reverse, False
    )


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _refuse_packed(packed: Tensor | None) -> None:
    if packed is not None:
        raise RuntimeError(
            "a module prepacked by seqkern.prepack_ computes no gradients: call it under "
            "torch.no_grad() or torch.inference_mode(), or undo with seqkern.unprepack_"
        )


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        w_hr: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        output, h_n, c_n, *saved = _lstm_forward[backend](
            input, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, None, batch_sizes, reverse, True
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h0, c0, w_ih, w_hh, w_hr, batch_sizes, kept(output), *saved)
        ctx.biases = Unchecked(b_ih, b_hh)
        ctx.reverse = reverse
        ctx.backend = backend
        return output, h_n, c_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, h0, c0, w_ih, w_hh, w_hr, batch_sizes, *saved = ctx.saved_tensors
        reverse = ctx.reverse
        need = ctx.needs_input_grad
        if differentiable_backward(grads):
            run = partial(reference.lstm, batch_sizes=batch_sizes, reverse=reverse)
            tensors = (input, h0, c0, w_ih, w_hh, *ctx.biases.unchanged(), w_hr)
            return (*reference_gradients(in_float32(run), tensors, need, grads), None, None, None)
        bias = need[5] or need[6]
        needs = layer_needs(need[0], need[1], need[2], need[3], need[4], bias, need[7])
        d_x, d_h0, d_c0, d_w_ih, d_w_hh, d_b, d_w_hr = _lstm_backward[ctx.backend](
            *grads, input, h0, c0, w_ih, w_hh, w_hr, batch_sizes, *saved, reverse, needs
        )
        return (
            d_x if need[0] else None,
            d_h0 if need[1] else None,
            d_c0 if need[2] else None,
            d_w_ih if need[3] else None,
            d_w_hh if need[4] else None,
            d_b if need[5] else None,
            d_b if need[6] else None,
            d_w_hr if need[7] else None,
            None,
            None,
            None,
        )


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        h0: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        output, h_n, gates = _gru_forward[backend](
            input, h0, w_ih, w_hh, b_ih, b_hh, None, batch_sizes, reverse, True
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h0, w_ih, w_hh, batch_sizes, kept(output), gates)
        ctx.biases = Unchecked(b_ih, b_hh)
        ctx.reverse = reverse
        ctx.backend = backend
        return output, h_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, h0, w_ih, w_hh, batch_sizes, *saved = ctx.saved_tensors
        reverse = ctx.reverse
        need = ctx.needs_input_grad
        if differentiable_backward(grads):
            run = partial(reference.gru, batch_sizes=batch_sizes, reverse=reverse)
            tensors = (input, h0, w_ih, w_hh, *ctx.biases.unchanged())
            return (*reference_gradients(in_float32(run), tensors, need, grads), None, None, None)
        needs = layer_needs(need[0], need[1], False, need[2], need[3], need[4] or need[5], False)
        d_x, d_h0, d_w_ih, d_w_hh, d_b_ih, d_b_hh = _gru_backward[ctx.backend](
            *grads, input, h0, w_ih, w_hh, batch_sizes, *saved, reverse, needs
        )
        return (
            d_x if need[0] else None,
            d_h0 if need[1] else None,
            d_w_ih if need[2] else None,
            d_w_hh if need[3] else None,
            d_b_ih if need[4] else None,
            d_b_hh if need[5] else None,
            None,
            None,
            None,
        )


class _RNN(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        h0: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
        relu: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        output, h_n = _rnn_forward[backend](
            input, h0, w_ih, w_hh, b_ih, b_hh, None, batch_sizes, relu, reverse, True
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h0, w_ih, w_hh, batch_sizes, kept(output))
        ctx.biases = Unchecked(b_ih, b_hh)
        ctx.reverse = reverse
        ctx.backend = backend
        ctx.relu = relu
        return output, h_n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, h0, w_ih, w_hh, batch_sizes, output = ctx.saved_tensors
        reverse, relu = ctx.reverse, ctx.relu
        need = ctx.needs_input_grad
        if differentiable_backward(grads):
            run = partial(
                reference.rnn,
                batch_sizes=batch_sizes,
                reverse=reverse,
                nonlinearity="relu" if relu else "tanh",
            )
            tensors = (input, h0, w_ih, w_hh, *ctx.biases.unchanged())
            return (
                *reference_gradients(in_float32(run), tensors, need, grads),
                None,
                None,
                None,
                None,
            )
        needs = layer_needs(need[0], need[1], False, need[2], need[3], need[4] or need[5], False)
        d_x, d_h0, d_w_ih, d_w_hh, d_b = _rnn_backward[ctx.backend](
            *grads, input, h0, w_ih, w_hh, batch_sizes, output, relu, reverse, needs
        )
        return (
            d_x if need[0] else None,
            d_h0 if need[1] else None,
            d_w_ih if need[2] else None,
            d_w_hh if need[3] else None,
            d_b if need[4] else None,
            d_b if need[5] else None,
            None,
            None,
            None,
            None,
        )


_traced_lstm = traced(_LSTM)
_traced_gru = traced(_GRU)
_traced_rnn = traced(_RNN)
_lstm_apply = direct(_LSTM)
_gru_apply = direct(_GRU)
_rnn_apply = direct(_RNN)


def in_float32(run: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    """`run` with 16-bit tensors computed in float32, as the kernels do, and rounded at the end."""

    def wide(*args: Any) -> tuple[Tensor, ...]:
        dtype = args[0].dtype
        if dtype not in (torch.bfloat16, torch.float16):
            return run(*args)
        results = run(
            *(a.float() if isinstance(a, Tensor) and a.dtype == dtype else a for a in args)
        )
        return tuple(r.to(dtype) for r in results)

    return wide
