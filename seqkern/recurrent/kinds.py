"""The kinds of recurrent layer, each with its two implementations behind one signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from seqkern.recurrent import autograd, reference

# (h,) or (h, c); None stands for zeros.
State = tuple[Tensor | None, ...]
# w_ih, w_hh, b_ih, b_hh, w_hr
Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]
# One layer in one direction: (input, state, weights, packed, batch_sizes, reverse).
Layer = Callable[
    [Tensor, State, Weights, Tensor | None, Tensor | None, bool],
    tuple[Tensor, tuple[Tensor, ...]],
]


class Kind(NamedTuple):
    """A recurrent layer: `states` is 2 for the LSTM's (h, c), otherwise 1."""

    name: str
    gates: int
    states: int
    kernel: Layer
    reference: Layer


def _lstm_kernel(
    x: Tensor,
    state: State,
    w: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    h0, c0 = state
    output, h_n, c_n = autograd.lstm(x, h0, c0, *w, packed, batch_sizes, reverse)
    return output, (h_n, c_n)


def _lstm_reference(
    x: Tensor,
    state: State,
    w: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    h0, c0 = state
    output, h_n, c_n = reference.lstm(x, h0, c0, *w, batch_sizes, reverse)
    return output, (h_n, c_n)


def _gru_kernel(
    x: Tensor,
    state: State,
    w: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    (h0,) = state
    output, h_n = autograd.gru(x, h0, *w[:4], packed, batch_sizes, reverse)
    return output, (h_n,)


def _gru_reference(
    x: Tensor,
    state: State,
    w: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    (h0,) = state
    output, h_n = reference.gru(x, h0, *w[:4], batch_sizes, reverse)
    return output, (h_n,)


def _rnn_kernel(relu: bool) -> Layer:
    def kernel(
        x: Tensor,
        state: State,
        w: Weights,
        packed: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h0,) = state
        output, h_n = autograd.rnn(x, h0, *w[:4], packed, batch_sizes, reverse, relu)
        return output, (h_n,)

    return kernel


def _rnn_reference(nonlinearity: str) -> Layer:
    def textbook(
        x: Tensor,
        state: State,
        w: Weights,
        packed: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (h0,) = state
        output, h_n = reference.rnn(x, h0, *w[:4], batch_sizes, reverse, nonlinearity)
        return output, (h_n,)

    return textbook


LSTM = Kind("lstm", 4, 2, _lstm_kernel, _lstm_reference)
GRU = Kind("gru", 3, 1, _gru_kernel, _gru_reference)
RNN_TANH = Kind("rnn_tanh", 1, 1, _rnn_kernel(relu=False), _rnn_reference("tanh"))
RNN_RELU = Kind("rnn_relu", 1, 1, _rnn_kernel(relu=True), _rnn_reference("relu"))
