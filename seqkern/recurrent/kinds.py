"""The kinds of recurrent layer, each with its implementations behind one signature."""

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
LayerFunction = Callable[
    [Tensor, State, Weights, Tensor | None, Tensor | None, bool],
    tuple[Tensor, tuple[Tensor, ...]],
]


class Kind(NamedTuple):
    """A recurrent layer: `states` is 2 for the LSTM's (h, c), otherwise 1. `kernel` is the compiled
    one for the input's device."""

    name: str
    gates: int
    states: int
    kernel: LayerFunction
    triton: LayerFunction
    reference: LayerFunction


def _kernel(name: str, weights: int, *options: bool, backend: str = "cpu") -> LayerFunction:
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
        output, *final = run(
            x, *state, *w[:weights], packed, batch_sizes, reverse, *options, backend
        )
        return output, tuple(final)

    return layer


def _reference(name: str, weights: int, *options: str) -> LayerFunction:
    """The same of the reference's functions, which take no packed weights."""

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


def _kind(name: str, function: str, gates: int, states: int, nonlinearity: str = "") -> Kind:
    weights = 5 if states == 2 else 4
    options = (nonlinearity == "relu",) if nonlinearity else ()
    return Kind(
        name,
        gates,
        states,
        _kernel(function, weights, *options),
        _kernel(function, weights, *options, backend="triton"),
        _reference(function, weights, *((nonlinearity,) if nonlinearity else ())),
    )


LSTM = _kind("lstm", "lstm", 4, 2)
GRU = _kind("gru", "gru", 3, 1)
RNN_TANH = _kind("rnn_tanh", "rnn", 1, 1, "tanh")
RNN_RELU = _kind("rnn_relu", "rnn", 1, 1, "relu")
# In the order of csrc/recurrent/kernels.h's Cell.
CELLS = (LSTM, GRU, RNN_TANH, RNN_RELU)
