"""A single step of a cell on a GPU: the layer's step kernel with T = 1.

Signatures and results are those of the cells' operators (see csrc/library.cpp and `fake`).
"""

from __future__ import annotations

from torch import Tensor

from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH, Kind
from seqkern.recurrent.triton.layer import Backward, Layer, Needs, backward, forward


def _layer(
    kind: Kind,
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Layer:
    if input.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {input.dim()}")
    return Layer(kind, input, h0, c0, w_ih, w_hh, None, None, False, b_ih, b_hh)


def _needs(bits: int) -> tuple[Needs, bool, bool]:
    """For the layer, then for each bias: the cells' bits know both."""
    b_ih, b_hh = bool(bits & 32), bool(bits & 64)
    return Needs.of(bits & 31 | (32 if b_ih or b_hh else 0)), b_ih, b_hh


def _biases(g: Backward, b_ih: bool, b_hh: bool) -> tuple[Tensor | None, ...]:
    """Two tensors, as an operator must not return one twice."""
    second = g.b_hh.clone() if b_ih and b_hh and g.b_hh is g.b_ih and g.b_hh is not None else g.b_hh
    return g.b_ih if b_ih else None, second if b_hh else None


def lstm_cell_forward(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    layer = _layer(LSTM, input, h0, c0, w_ih, w_hh, b_ih, b_hh)
    found = forward(layer, b_ih, b_hh, save)
    return found.output, found.c_n, found.gates if save else None


def lstm_cell_backward(
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    gates: Tensor,
    needs: int,
) -> tuple[Tensor | None, ...]:
    layer = _layer(LSTM, input, h0, c0, w_ih, w_hh)
    layer.saved("gates", gates, *layer.lead, 4 * layer.hidden)
    i, f, g, _ = gates.float().chunk(4, dim=-1)
    cells = f * layer.c0_or_zeros() + i * g
    wanted, b_ih, b_hh = _needs(needs)
    grads = backward(
        layer, grad_h, None, grad_c, layer.h0, gates, cells, None, wanted
    )  # fmt: skip
    biases = _biases(grads, b_ih, b_hh)
    return grads.input, grads.h0, grads.c0, grads.w_ih, grads.w_hh, *biases


def gru_cell_forward(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor | None]:
    layer = _layer(GRU, input, h0, None, w_ih, w_hh, b_ih, b_hh)
    found = forward(layer, b_ih, b_hh, save)
    return found.output, found.gates if save else None


def gru_cell_backward(
    grad_h: Tensor | None,
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    gates: Tensor,
    needs: int,
) -> tuple[Tensor | None, ...]:
    layer = _layer(GRU, input, h0, None, w_ih, w_hh)
    wanted, b_ih, b_hh = _needs(needs)
    grads = backward(layer, grad_h, None, None, layer.h0, gates, None, None, wanted)
    return grads.input, grads.h0, grads.w_ih, grads.w_hh, *_biases(grads, b_ih, b_hh)


def rnn_cell_forward(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    relu: bool,
) -> Tensor:
    kind = RNN_RELU if relu else RNN_TANH
    layer = _layer(kind, input, h0, None, w_ih, w_hh, b_ih, b_hh)
    return forward(layer, b_ih, b_hh, False).output


def rnn_cell_backward(
    grad_h: Tensor | None,
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    h: Tensor,
    relu: bool,
    needs: int,
) -> tuple[Tensor | None, ...]:
    kind = RNN_RELU if relu else RNN_TANH
    layer = _layer(kind, input, h0, None, w_ih, w_hh)
    wanted, b_ih, b_hh = _needs(needs)
    grads = backward(layer, grad_h, None, None, h, None, None, None, wanted)
    return grads.input, grads.h0, grads.w_ih, grads.w_hh, *_biases(grads, b_ih, b_hh)
