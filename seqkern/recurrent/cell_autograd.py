"""The compiled cell operators as differentiable functions of a single step.

Beside `autograd`, which has whole layers: a step takes a few microseconds, so nothing unnecessary
is done here. What is said there holds here as well.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from seqkern.core import library
from seqkern.core.double_backward import differentiable_backward, reference_gradients
from seqkern.core.saving import Unchecked, direct, traced
from seqkern.recurrent import fake, reference  # noqa: F401  (fake registers its kernels)
from seqkern.recurrent.autograd import in_float32

# Bound once: an attribute look-up in torch.ops costs a good part of a microsecond.
if library.cpu.loaded:
    _ops = torch.ops.seqkern
    _lstm_forward = _ops.lstm_cell_forward.default
    _lstm_backward = _ops.lstm_cell_backward.default
    _gru_forward = _ops.gru_cell_forward.default
    _gru_backward = _ops.gru_cell_backward.default
    _rnn_forward = _ops.rnn_cell_forward.default
    _rnn_backward = _ops.rnn_cell_backward.default

_grad_enabled = torch.is_grad_enabled
_compiling = torch.compiler.is_compiling

# The operators' `needs` for each ctx.needs_input_grad: a bit for each gradient, in the order of the
# LSTM's arguments. The others have no c0.
_NEEDS = {
    need: sum(1 << i for i in range(7) if need[i]) for need in product((False, True), repeat=7)
}
_NEEDS_SINGLE = {(*need[:2], *need[3:]): needs for need, needs in _NEEDS.items() if not need[2]}


def lstm(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One step of `reference.lstm` by the compiled kernel; returns (h, c). Like the others here
    for calls that run directly (see `dispatch.runs_directly`)."""
    if _grad_enabled() and (
        w_hh.requires_grad
        or input.requires_grad
        or w_ih.requires_grad
        or (h0 is not None and h0.requires_grad)
        or (c0 is not None and c0.requires_grad)
        or (b_ih is not None and b_ih.requires_grad)
        or (b_hh is not None and b_hh.requires_grad)
    ):
        apply = _traced_lstm if _compiling() else _lstm_apply
        return apply(input, h0, c0, w_ih, w_hh, b_ih, b_hh)
    h, c, _ = _lstm_forward(input, h0, c0, w_ih, w_hh, b_ih, b_hh, False)
    return h, c


def gru(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> Tensor:
    """One step of `reference.gru` by the compiled kernel; returns h."""
    if _grad_enabled() and _any_requires_grad(input, h0, w_ih, w_hh, b_ih, b_hh):
        apply = _traced_gru if _compiling() else _gru_apply
        return apply(input, h0, w_ih, w_hh, b_ih, b_hh)
    return _gru_forward(input, h0, w_ih, w_hh, b_ih, b_hh, False)[0]


def rnn(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    relu: bool,
) -> Tensor:
    """One step of `reference.rnn` by the compiled kernel; returns h."""
    if _grad_enabled() and _any_requires_grad(input, h0, w_ih, w_hh, b_ih, b_hh):
        apply = _traced_rnn if _compiling() else _rnn_apply
        return apply(input, h0, w_ih, w_hh, b_ih, b_hh, relu)
    return _rnn_forward(input, h0, w_ih, w_hh, b_ih, b_hh, relu)


def _any_requires_grad(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> bool:
    return (
        w_hh.requires_grad
        or input.requires_grad
        or w_ih.requires_grad
        or (h0 is not None and h0.requires_grad)
        or (b_ih is not None and b_ih.requires_grad)
        or (b_hh is not None and b_hh.requires_grad)
    )


def _reference_step(name: str, *options: Any) -> Callable[..., tuple[Tensor, ...]]:
    """A step of `reference`'s layer of that name as a function of the cell's tensors; returns the
    final state."""
    layer = getattr(reference, name)
    projection = (None,) if name == "lstm" else ()

    def step(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        return layer(*tensors, *projection, None, False, *options)[1:]

    return in_float32(step)


class _LSTMCell(torch.autograd.Function):
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
    ) -> tuple[Tensor, Tensor]:
        h, c, gates = _lstm_forward(input, h0, c0, w_ih, w_hh, b_ih, b_hh, True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h0, c0, w_ih, w_hh, gates)
        ctx.biases = Unchecked(b_ih, b_hh)
        return h, c

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, h0, c0, w_ih, w_hh, gates = ctx.saved_tensors
        need = ctx.needs_input_grad
        if not differentiable_backward(grads):
            return _lstm_backward(*grads, input, h0, c0, w_ih, w_hh, gates, _NEEDS[need])
        tensors = (input, h0, c0, w_ih, w_hh, *ctx.biases.unchanged())
        return tuple(reference_gradients(_reference_step("lstm"), tensors, need, grads))


class _GRUCell(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        h0: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
    ) -> Tensor:
        h, gates = _gru_forward(input, h0, w_ih, w_hh, b_ih, b_hh, True)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h0, w_ih, w_hh, gates)
        ctx.biases = Unchecked(b_ih, b_hh)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, h0, w_ih, w_hh, gates = ctx.saved_tensors
        need = ctx.needs_input_grad
        if not differentiable_backward(grads):
            return _gru_backward(*grads, input, h0, w_ih, w_hh, gates, _NEEDS_SINGLE[need])
        tensors = (input, h0, w_ih, w_hh, *ctx.biases.unchanged())
        return tuple(reference_gradients(_reference_step("gru"), tensors, need, grads))


class _RNNCell(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        h0: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        relu: bool,
    ) -> Tensor:
        h = _rnn_forward(input, h0, w_ih, w_hh, b_ih, b_hh, relu)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, h0, w_ih, w_hh, h)
        ctx.biases = Unchecked(b_ih, b_hh)
        ctx.relu = relu
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, h0, w_ih, w_hh, h = ctx.saved_tensors
        need, relu = ctx.needs_input_grad[:6], ctx.relu
        if not differentiable_backward(grads):
            found = _rnn_backward(*grads, input, h0, w_ih, w_hh, h, relu, _NEEDS_SINGLE[need])
            return (*found, None)
        step = _reference_step("rnn", "relu" if relu else "tanh")
        tensors = (input, h0, w_ih, w_hh, *ctx.biases.unchanged())
        return (*reference_gradients(step, tensors, need, grads), None)


_traced_lstm = traced(_LSTMCell)
_traced_gru = traced(_GRUCell)
_traced_rnn = traced(_RNNCell)


_lstm_apply = direct(_LSTMCell)
_gru_apply = direct(_GRUCell)
_rnn_apply = direct(_RNNCell)
