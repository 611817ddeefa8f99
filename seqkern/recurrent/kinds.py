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


def _kernel(name: str, weights: int, *options: bool) -> Layer:
    """autograd's function of that name, which takes the state and the first so many weights."""

    def layer(
        x: Tensor,
        state: State,
        w: Weights,
        packed: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        run = getattr(autograd, name)
        output, *final = run(x, *state, *w[:weights], packed, batch_sizes, reverse, *options)
        return output, tuple(final)

    return layer


def _reference(name: str, weights: int, *options: str) -> Layer:
    """The same of the textbook's functions, which know no packed weights."""

    def layer(
        x: Tensor,
        state: State,
        w: Weights,
        packed: Tensor | None,
        batch_sizes: Tensor | None,
        reverse: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        run = getattr(reference, name)
        output, *final = run(x, *state, *w[:weights], batch_sizes, reverse, *options)
        return output, tuple(final)

    return layer


LSTM = Kind("lstm", 4, 2, _kernel("lstm", 5), _reference("lstm", 5))
GRU = Kind("gru", 3, 1, _kernel("gru", 4), _reference("gru", 4))
RNN_TANH = Kind("rnn_tanh", 1, 1, _kernel("rnn", 4, False), _reference("rnn", 4, "tanh"))
RNN_RELU = Kind("rnn_relu", 1, 1, _kernel("rnn", 4, True), _reference("rnn", 4, "relu"))
