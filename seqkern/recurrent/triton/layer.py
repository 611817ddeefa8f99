"""A layer on a GPU, forward and backward: library products around Triton's loop over time.

The functions have the signatures and results of the operators of the same names (see
csrc/library.cpp and `fake`) and the same saved tensors, so a gradient does not care what ran the
forward. Before the loop the input is projected for all steps by one product; after the backward
loop the gradients of all weights are products over all rows, those of the biases sums.

All raise RuntimeError, in PyTorch's words, for arguments that do not fit together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from seqkern.core.dispatch import without_autocast
from seqkern.core.triton.support import on_device_of
from seqkern.recurrent import checks
from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH, Kind
from seqkern.recurrent.triton import launch_backward, launch_forward
from seqkern.recurrent.triton.launch_backward import BackwardArguments
from seqkern.recurrent.triton.launch_forward import ForwardArguments
from seqkern.recurrent.triton.loops import Call
from seqkern.recurrent.triton.steps import Steps


class Layer:
    """A checked call, its tensors contiguous."""

    def __init__(
        self,
        kind: Kind,
        input: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        w_ih: Tensor,
        w_hh: Tensor,
        w_hr: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> None:
        if input.dim() not in (2, 3) or (input.dim() == 3 and batch_sizes is not None):
            raise RuntimeError(
                f"input must have the shape (T, B, I), (B, I), or (rows, I) with batch_sizes, got "
                f"{list(input.shape)}"
            )
        state = (h0, c0)[: kind.states]
        checks.layer(kind, input, state, (w_ih, w_hh, b_ih, b_hh, w_hr), batch_sizes)
        if w_hh.numel() == 0:
            raise RuntimeError(
                f"w_hh must have at least one row a gate and one column, got {list(w_hh.shape)}"
            )
        if input.dim() == 3 and input.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if batch_sizes is not None and h0 is None:
            raise RuntimeError("h0 must be given where batch_sizes is")
        self.kind = kind
        self.steps = Steps(input, batch_sizes, reverse)
        self.lead = input.shape[:-1]
        self.input = input.contiguous().view(self.steps.rows, input.shape[-1])
        self.w_ih = w_ih.contiguous()
        self.w_hh = w_hh.contiguous()
        self.w_hr = None if w_hr is None else w_hr.contiguous()
        self.hidden = w_hh.shape[0] // kind.gates
        self.width = w_hh.shape[1]
        self.dtype = input.dtype
        batch = self.steps.batch
        self.h0 = input.new_zeros(batch, self.width) if h0 is None else h0.contiguous()
        self.c0 = c0

    def c0_or_zeros(self) -> Tensor:
        """A float32 tensor that nobody else holds."""
        if self.c0 is None:
            return self.new(self.steps.batch, self.hidden, dtype=torch.float32).zero_()
        return self.c0.to(torch.float32, memory_format=torch.contiguous_format, copy=True)

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.input.new_empty(shape, dtype=dtype)

    def call(self, output: Tensor) -> Call:
        rows = output.view(self.steps.rows, self.width)
        return Call(self.kind.name, self.steps, self.h0, self.w_hh, self.w_hr, rows)

    def saved(self, name: str, tensor: Tensor, *shape: int, wide: bool = False) -> Tensor:
        """A tensor of the forward or a gradient, checked: a kernel reads whatever is there."""
        dtype = torch.float32 if wide else self.dtype
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise RuntimeError(
                f"Expected {name} to be {dtype} of size {shape}, got {tensor.dtype} of size "
                f"{list(tensor.shape)}"
            )
        if tensor.device != self.input.device:
            raise RuntimeError(f"Expected {name} on {self.input.device}, got it on {tensor.device}")
        return tensor.contiguous()


class Forward(NamedTuple):
    """`gates`, `cells` and `cell_output` have no elements where nothing is saved, or the cell has
    none."""

    output: Tensor
    h_n: Tensor
    c_n: Tensor
    gates: Tensor
    cells: Tensor
    cell_output: Tensor


def forward(layer: Layer, b_ih: Tensor | None, b_hh: Tensor | None, save: bool) -> Forward:
    kind, steps, hidden = layer.kind, layer.steps, layer.hidden
    lstm, gru = kind is LSTM, kind is GRU
    projected = layer.w_hr is not None
    with on_device_of(layer.input), without_autocast(layer.input.device.type):
        kept = save and (lstm or gru)
        gates = layer.new(steps.rows, (4 if kept else kind.gates) * hidden)
        torch.mm(layer.input, layer.w_ih.t(), out=gates[:, : kind.gates * hidden])
        bias = _bias(layer, b_ih, b_hh)
        state = bias
        if lstm:
            state = layer.c0_or_zeros()
        elif gru:
            state = layer.h0.to(torch.float32, copy=True)
        cells = layer.new(steps.rows if save and lstm else 0, hidden, dtype=torch.float32)
        cell_output = layer.new((steps.rows if save else steps.batch) if projected else 0, hidden)
        output = layer.new(*layer.lead, layer.width)
        call = layer.call(output)
        if steps.rows:
            launch_forward.run(
                call,
                ForwardArguments(
                    gates, bias, state, cells, cell_output if projected else None, save
                ),
            )

        def saved(tensor: Tensor, keep: bool) -> Tensor:
            return tensor.view(*layer.lead, tensor.shape[1]) if keep else tensor.new_empty(0)

        return Forward(
            output,
            steps.last_rows(call.output),
            state.to(layer.dtype) if lstm else layer.new(0),
            saved(gates, kept),
            saved(cells, save and lstm),
            saved(cell_output, save and projected),
        )


def _bias(layer: Layer, b_ih: Tensor | None, b_hh: Tensor | None) -> Tensor:
    """In float32: one bias for each gate; GRU: r, z, n of the input and n of the state."""
    gru = layer.kind is GRU
    if b_ih is None or b_hh is None:
        count = (4 if gru else layer.kind.gates) * layer.hidden
        return layer.new(count, dtype=torch.float32).zero_()
    if not gru:
        return b_ih.float() + b_hh.float()
    both = 2 * layer.hidden
    parts = [b_ih[:both].float() + b_hh[:both].float(), b_ih[both:].float(), b_hh[both:].float()]
    return torch.cat(parts)


class Needs(NamedTuple):
    """Which gradients are wanted."""

    input: bool
    h0: bool
    c0: bool
    w_ih: bool
    w_hh: bool
    bias: bool
    w_hr: bool

    @classmethod
    def of(cls, bits: int) -> Needs:
        return cls(*(bool(bits >> i & 1) for i in range(7)))


class Backward(NamedTuple):
    """None for what is not wanted. `b_hh` differs from `b_ih` for the GRU only."""

    input: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    w_ih: Tensor | None
    w_hh: Tensor | None
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None


def backward(
    layer: Layer,
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    output: Tensor,
    gates: Tensor | None,
    cells: Tensor | None,
    cell_output: Tensor | None,
    needs: Needs,
) -> Backward:
    kind, steps, hidden, width = layer.kind, layer.steps, layer.hidden, layer.width
    lstm, gru = kind is LSTM, kind is GRU
    projected = layer.w_hr is not None
    with on_device_of(layer.input), without_autocast(layer.input.device.type):
        output = layer.saved("output", output, *layer.lead, width)
        call = layer.call(output)
        carry = _wide_or_zeros(layer, "grad_c_n", grad_c_n if lstm else None)
        if gates is not None:
            gates = layer.saved("gates", gates, *layer.lead, 4 * hidden)
        if cells is not None:
            cells = layer.saved("cells", cells, *layer.lead, hidden, wide=True)
        if projected and cell_output is not None:
            cell_output = layer.saved("hidden", cell_output, *layer.lead, hidden)
        grads = layer.new(steps.rows, (4 if gru else kind.gates) * hidden)
        arguments = BackwardArguments(
            output if gates is None else gates,
            carry if cells is None else cells,
            layer.c0_or_zeros() if lstm else carry,
            _given_or_zeros(layer, "grad_output", grad_output, *layer.lead, width),
            _given_or_zeros(layer, "grad_h_n", grad_h_n, steps.batch, width),
            carry,
            grads,
            layer.new(steps.rows, width) if projected else None,
        )
        empty = steps.rows == 0
        grad_h0 = torch.zeros_like(layer.h0) if empty else launch_backward.run(call, arguments)
        w_hr = None
        if needs.w_hr and arguments.grad_projected is not None and cell_output is not None:
            w_hr = torch.mm(arguments.grad_projected.t(), cell_output.view(-1, hidden))
        b_ih, b_hh = _bias_gradients(layer, grads) if needs.bias else (None, None)
        return Backward(
            _input_gradient(layer, grads) if needs.input else None,
            grad_h0 if needs.h0 else None,
            carry.to(layer.dtype) if needs.c0 and lstm else None,
            _input_weights(layer, grads) if needs.w_ih else None,
            _state_weights(layer, call, grads) if needs.w_hh else None,
            b_ih,
            b_hh,
            w_hr,
        )


def _wide_or_zeros(layer: Layer, name: str, tensor: Tensor | None) -> Tensor:
    """A float32 tensor (batch, hidden) that nobody else holds."""
    shape = layer.steps.batch, layer.hidden
    if tensor is None:
        return layer.new(*shape, dtype=torch.float32).zero_()
    return layer.saved(name, tensor, *shape).to(torch.float32, copy=True)


def _given_or_zeros(layer: Layer, name: str, tensor: Tensor | None, *shape: int) -> Tensor:
    if tensor is None:
        return layer.new(*shape).zero_()
    return layer.saved(name, tensor, *shape)


# The GRU's gradients stand as n (input), r, z, n (state): the input's weights, which stand as r, z,
# n, are turned by a gate to fit the first three, the state's fit the last three.


def _input_gates(layer: Layer, grads: Tensor) -> Tensor:
    return grads[:, : layer.kind.gates * layer.hidden]


def _input_gradient(layer: Layer, grads: Tensor) -> Tensor:
    weights = layer.w_ih.roll(layer.hidden, 0) if layer.kind is GRU else layer.w_ih
    return torch.mm(_input_gates(layer, grads), weights).view(*layer.lead, weights.shape[1])


def _input_weights(layer: Layer, grads: Tensor) -> Tensor:
    found = torch.mm(_input_gates(layer, grads).t(), layer.input)
    return found.roll(-layer.hidden, 0) if layer.kind is GRU else found


def _state_weights(layer: Layer, call: Call, grads: Tensor) -> Tensor:
    states = layer.steps.states_before(call.output, layer.h0)
    return torch.mm(grads[:, -layer.kind.gates * layer.hidden :].t(), states)


def _bias_gradients(layer: Layer, grads: Tensor) -> tuple[Tensor, Tensor]:
    sums = grads.sum(0, dtype=torch.float32).to(layer.dtype)
    if layer.kind is not GRU:
        return sums, sums
    hidden = layer.hidden
    return sums[: 3 * hidden].roll(-hidden), sums[hidden:].clone()


def _none(like: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """How the layers' operators return what was not asked for."""
    return tuple(like.new_empty(0) if t is None else t for t in tensors)


# ---- the operators ----


def lstm_forward(
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
    save: bool,
) -> tuple[Tensor, ...]:
    _refuse_packed(packed)
    layer = Layer(LSTM, input, h0, c0, w_ih, w_hh, w_hr, batch_sizes, reverse, b_ih, b_hh)
    return tuple(forward(layer, b_ih, b_hh, save))


def lstm_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    batch_sizes: Tensor | None,
    output: Tensor,
    gates: Tensor,
    cells: Tensor,
    hidden: Tensor,
    reverse: bool,
    needs: int,
) -> tuple[Tensor, ...]:
    layer = Layer(LSTM, input, h0, c0, w_ih, w_hh, w_hr, batch_sizes, reverse)
    g = backward(
        layer, grad_output, grad_h_n, grad_c_n, output, gates, cells, hidden, Needs.of(needs)
    )
    return _none(input, g.input, g.h0, g.c0, g.w_ih, g.w_hh, g.b_ih, g.w_hr)


def gru_forward(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, ...]:
    _refuse_packed(packed)
    layer = Layer(GRU, input, h0, None, w_ih, w_hh, None, batch_sizes, reverse, b_ih, b_hh)
    found = forward(layer, b_ih, b_hh, save)
    return found.output, found.h_n, found.gates


def gru_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    batch_sizes: Tensor | None,
    output: Tensor,
    gates: Tensor,
    reverse: bool,
    needs: int,
) -> tuple[Tensor, ...]:
    layer = Layer(GRU, input, h0, None, w_ih, w_hh, None, batch_sizes, reverse)
    g = backward(layer, grad_output, grad_h_n, None, output, gates, None, None, Needs.of(needs))
    return _none(input, g.input, g.h0, g.w_ih, g.w_hh, g.b_ih, g.b_hh)


def rnn_forward(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    relu: bool,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, ...]:
    _refuse_packed(packed)
    kind = RNN_RELU if relu else RNN_TANH
    layer = Layer(kind, input, h0, None, w_ih, w_hh, None, batch_sizes, reverse, b_ih, b_hh)
    found = forward(layer, b_ih, b_hh, save)
    return found.output, found.h_n


def rnn_backward(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    batch_sizes: Tensor | None,
    output: Tensor,
    relu: bool,
    reverse: bool,
    needs: int,
) -> tuple[Tensor, ...]:
    kind = RNN_RELU if relu else RNN_TANH
    layer = Layer(kind, input, h0, None, w_ih, w_hh, None, batch_sizes, reverse)
    g = backward(layer, grad_output, grad_h_n, None, output, None, None, None, Needs.of(needs))
    return _none(input, g.input, g.h0, g.w_ih, g.w_hh, g.b_ih)


def _refuse_packed(packed: Tensor | None) -> None:
    if packed is not None:
        raise RuntimeError("packed weights are for the CPU kernels: seqkern.unprepack_ the module")
