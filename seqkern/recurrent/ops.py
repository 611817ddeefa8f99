"""One recurrent layer in one direction: `reference` with the fastest backend that can run it.

Arguments, shapes and results are those of the functions of the same name in
`seqkern.recurrent.reference`. All tensors of a call share one dtype (autocast belongs to
`seqkern.nn`) and one device. `packed` is for `seqkern.prepack_`.

All raise RuntimeError, in PyTorch's words, for arguments that do not fit together, and where the
backend chosen with `seqkern.use_backend` cannot run the call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.core.dispatch import without_autocast
from seqkern.recurrent import checks, choice, torch_backend
from seqkern.recurrent.autograd import in_float32
from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH, Kind, State, Weights


def lstm_layer(
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    *,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (output, h_n, c_n)."""
    weights = (w_ih, w_hh, b_ih, b_hh, w_hr)
    output, (h_n, c_n) = _checked_layer(LSTM, x, (h0, c0), weights, packed, batch_sizes, reverse)
    return output, h_n, c_n


def gru_layer(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    *,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns (output, h_n)."""
    weights = (w_ih, w_hh, b_ih, b_hh, None)
    output, (h_n,) = _checked_layer(GRU, x, (h0,), weights, packed, batch_sizes, reverse)
    return output, h_n


def rnn_layer(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    nonlinearity: str = "tanh",
    *,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns (output, h_n)."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    kind = RNN_TANH if nonlinearity == "tanh" else RNN_RELU
    weights = (w_ih, w_hh, b_ih, b_hh, None)
    output, (h_n,) = _checked_layer(kind, x, (h0,), weights, packed, batch_sizes, reverse)
    return output, h_n


def _checked_layer(
    kind: Kind,
    x: Tensor,
    state: State,
    weights: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    if x.dim() == 3 and x.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if x.dim() != 2 and (x.dim() != 3 or batch_sizes is not None):
        raise RuntimeError(
            f"input must have {'2 or 3' if batch_sizes is None else 2} dimensions, got {x.dim()}"
        )
    checks.layer(kind, x, state, weights, batch_sizes)
    backend = choice.choose(x, (*state, *weights), projected=weights[4] is not None)
    return run_layer(kind, backend, x, state, weights, packed, batch_sizes, reverse)


def run_layer(
    kind: Kind,
    backend: str,
    x: Tensor,
    state: State,
    weights: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer on a backend already chosen."""
    if backend == "torch":
        return torch_backend.layer(kind, x, state, weights, batch_sizes, reverse)
    if batch_sizes is not None and None in state:
        state = zero_state(kind, x, weights, int(batch_sizes[0]))
    if backend == "reference":
        checks.layer(kind, x, state, weights, batch_sizes)
        with without_autocast(x.device.type):
            return _wide_reference(kind, x, state, weights, batch_sizes, reverse)
    try:
        if x.dtype == torch.float16 and backend == "cpu":
            return _by_float32(kind, x, state, weights, packed, batch_sizes, reverse)
        run = kind.triton if backend == "triton" else kind.kernel
        return run(x, state, weights, packed, batch_sizes, reverse)
    except RuntimeError:
        checks.layer(kind, x, state, weights, batch_sizes)
        raise


def zero_state(kind: Kind, x: Tensor, weights: Weights, batch: int) -> tuple[Tensor, ...]:
    w_hh = weights[1]
    widths = (w_hh.shape[1], w_hh.shape[0] // kind.gates)
    return tuple(x.new_zeros(batch, width) for width in widths[: kind.states])


def _wide_reference(
    kind: Kind,
    x: Tensor,
    state: State,
    weights: Weights,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The reference; 16-bit dtypes keep float32 states, as in the kernels."""

    def run(x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        state, w = tensors[: kind.states], tensors[kind.states :]
        output, final = kind.reference(x, state, w, None, batch_sizes, reverse)  # type: ignore
        return (output, *final)

    output, *final = in_float32(run)(x, *state, *weights)
    return output, tuple(final)


def _by_float32(
    kind: Kind,
    x: Tensor,
    state: State,
    weights: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """float16 through the float32 kernel; autograd sees the casts."""

    def run(x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        state, w = tensors[: kind.states], tensors[kind.states :]
        output, final = kind.kernel(x, state, w, packed, batch_sizes, reverse)  # type: ignore
        return (output, *final)

    output, *final = in_float32(run)(x, *state, *weights)
    return output, tuple(final)
