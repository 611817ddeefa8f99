"""A single step of a recurrent layer: the functional form of the cells.

A step takes a few microseconds, so the common case only checks that it is one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.recurrent import casting, cell_autograd, checks, choice, torch_backend
from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH, Kind, State, Weights
from seqkern.recurrent.ops import run_layer

_runs_directly = choice.runs_directly
_compiling = torch.compiler.is_compiling
_tracing = torch._C._get_tracing_state  # torch.jit's, which knows no optional results
_lstm, _gru, _rnn = cell_autograd.lstm, cell_autograd.gru, cell_autograd.rnn


def lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM (Hochreiter & Schmidhuber 1997; forget gates: Gers et al. 2000).

    With (i, f, g, o) = W_ih x + b_ih + W_hh h + b_hh, the next c is
    sigmoid(f) * c + sigmoid(i) * tanh(g), and the next h is sigmoid(o) * tanh(c).

    Args:
        input: (B, I), one of float32, float64, bfloat16 and float16; PyTorch's operator serves
            other dtypes.
        hx: (h, c), each (B, H); None for zeros.
        w_ih: (4H, I).
        w_hh: (4H, H).
        b_ih: (4H,), or None.
        b_hh: (4H,), or None.
        packed: what `seqkern.prepack_` prepares; leave it out.

    Returns:
        The next (h, c), each (B, H).

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    h0, c0 = (None, None) if hx is None else hx
    if packed is None and _runs_directly(input) and (_compiling() or not _tracing()):
        try:
            return _lstm(input, h0, c0, w_ih, w_hh, b_ih, b_hh)
        except RuntimeError:
            _check(LSTM, input, (h0, c0), (w_ih, w_hh, b_ih, b_hh, None))
            raise
    h, c = _step(LSTM, input, (h0, c0), (w_ih, w_hh, b_ih, b_hh, None), packed)
    return h, c


def gru_cell(
    input: Tensor,
    hx: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    packed: Tensor | None = None,
) -> Tensor:
    """One step of a GRU (Cho et al. 2014), in the variant of PyTorch and cuDNN.

    With r, z = sigmoid of the first two gates and n = tanh(W_in x + b_in + r * (W_hn h + b_hn)),
    the next h is (1 - z) * n + z * h.

    Args:
        input: (B, I), one of float32, float64, bfloat16 and float16; PyTorch's operator serves
            other dtypes.
        hx: h (B, H); None for zeros.
        w_ih: (3H, I).
        w_hh: (3H, H).
        b_ih: (3H,), or None.
        b_hh: (3H,), or None.
        packed: what `seqkern.prepack_` prepares; leave it out.

    Returns:
        The next h (B, H).

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    if packed is None and _runs_directly(input) and (_compiling() or not _tracing()):
        try:
            return _gru(input, hx, w_ih, w_hh, b_ih, b_hh)
        except RuntimeError:
            _check(GRU, input, (hx,), (w_ih, w_hh, b_ih, b_hh, None))
            raise
    return _step(GRU, input, (hx,), (w_ih, w_hh, b_ih, b_hh, None), packed)[0]


def rnn_tanh_cell(
    input: Tensor,
    hx: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    packed: Tensor | None = None,
) -> Tensor:
    """One step of an Elman network (Elman 1990) with tanh.

    The next h is tanh(W_ih x + b_ih + W_hh h + b_hh).

    Args:
        input: (B, I), one of float32, float64, bfloat16 and float16; PyTorch's operator serves
            other dtypes.
        hx: h (B, H); None for zeros.
        w_ih: (H, I).
        w_hh: (H, H).
        b_ih: (H,), or None.
        b_hh: (H,), or None.
        packed: what `seqkern.prepack_` prepares; leave it out.

    Returns:
        The next h (B, H).

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    return _rnn_cell(RNN_TANH, input, hx, w_ih, w_hh, b_ih, b_hh, packed)


def rnn_relu_cell(
    input: Tensor,
    hx: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    packed: Tensor | None = None,
) -> Tensor:
    """One step of an Elman network (Elman 1990) with max(0, x) in place of tanh.

    The next h is relu(W_ih x + b_ih + W_hh h + b_hh).

    Args:
        input: (B, I), one of float32, float64, bfloat16 and float16; PyTorch's operator serves
            other dtypes.
        hx: h (B, H); None for zeros.
        w_ih: (H, I).
        w_hh: (H, H).
        b_ih: (H,), or None.
        b_hh: (H,), or None.
        packed: what `seqkern.prepack_` prepares; leave it out.

    Returns:
        The next h (B, H).

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    return _rnn_cell(RNN_RELU, input, hx, w_ih, w_hh, b_ih, b_hh, packed)


def _rnn_cell(
    kind: Kind,
    input: Tensor,
    hx: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    packed: Tensor | None,
) -> Tensor:
    if packed is None and _runs_directly(input) and (_compiling() or not _tracing()):
        try:
            return _rnn(input, hx, w_ih, w_hh, b_ih, b_hh, kind is RNN_RELU)
        except RuntimeError:
            _check(kind, input, (hx,), (w_ih, w_hh, b_ih, b_hh, None))
            raise
    return _step(kind, input, (hx,), (w_ih, w_hh, b_ih, b_hh, None), packed)[0]


def _step(
    kind: Kind, input: Tensor, state: State, weights: Weights, packed: Tensor | None
) -> tuple[Tensor, ...]:
    """The general case: another backend or dtype, autocast, function transforms."""
    _check_rank(input)
    backend = choice.choose(input, (*state, *weights))
    if backend == "torch":
        states = [
            input.new_zeros(input.shape[0], weights[1].shape[1]) if s is None else s for s in state
        ]
        result = torch_backend.cell(kind, input, states, weights)
        return result if kind.states == 2 else (result,)
    if torch._C._is_any_autocast_enabled():
        dtype = casting.autocast_dtype(kind, input, state[-1], weights, fused=False)
        if dtype is not None:
            packed = None  # packed in another dtype
            input = input.to(dtype)
            state = tuple(None if s is None else s.to(dtype) for s in state)
            weights = tuple(None if w is None else w.to(dtype) for w in weights)  # type: ignore
    checks.cell(kind, input, state, weights)
    if weights[1].shape[1] == 0 and backend == "cpu":
        backend = "reference"  # the layers' kernels, which are called next, need a hidden unit
    return run_layer(kind, backend, input, state, weights, packed, None, False)[1]


def _check(kind: Kind, input: Tensor, state: State, weights: Weights) -> None:
    """Raises what is wrong with a step that the operator refused; silent if nothing is."""
    _check_rank(input)
    checks.cell(kind, input, state, weights)


def _check_rank(input: Tensor) -> None:
    if input.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {input.dim()}")
