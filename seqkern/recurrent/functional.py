"""The functional form of the recurrent layers; `cells.py` has that of the cells.

They mirror PyTorch's own (`torch._VF.lstm` and its family) in gates, weights and shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seqkern.recurrent import stack
from seqkern.recurrent.cells import gru_cell, lstm_cell, rnn_relu_cell, rnn_tanh_cell
from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH

__all__ = [
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "rnn_relu",
    "rnn_relu_cell",
    "rnn_tanh",
    "rnn_tanh_cell",
]


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    flat_weights: Sequence[Tensor],
    *,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    packed: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gates: Gers et al. 2000).

    With (i, f, g, o) = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh, for every time step t::

        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t), with projections W_hr times that (Sak et al. 2014)

    Args:
        input: (T, B, I); with `batch_first` (B, T, I); with `batch_sizes` (sum of lengths, I). One
            of float32, float64, bfloat16 and float16; PyTorch's operator serves other dtypes.
        hx: (h0, c0) of shapes (L * D, B, P) and (L * D, B, H); None for zeros.
        flat_weights: for each layer and direction w_ih (4H, I or D * P), w_hh (4H, P), then with
            `bias` b_ih and b_hh (4H,), then with projections w_hr (P, H), else P = H: the order of
            `torch.nn.LSTM._flat_weights`.
        bias: whether `flat_weights` has biases.
        num_layers: the number of layers, L.
        dropout: the probability to zero an output between two layers while `training`, drawn from
            torch's generator, as PyTorch does it.
        training: whether `dropout` applies.
        bidirectional: D is 2 if so, else 1.
        batch_first: the layout of `input` and of the output; h0 and h_n are not affected.
        batch_sizes: (T,) int64 on the CPU, a PackedSequence's.
        packed: what `seqkern.prepack_` prepares; leave it out.

    Returns:
        output (T, B, D * P) in the layout of `input`, h_n (L * D, B, P), c_n (L * D, B, H).
        Under CPU autocast the dtypes are those of PyTorch's layers.

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    return stack.run(  # type: ignore[return-value]
        LSTM, input, hx, flat_weights, bias, num_layers, dropout,
        training, bidirectional, batch_first, batch_sizes, packed,
    )  # fmt: skip


def gru(
    input: Tensor,
    hx: Tensor | None,
    flat_weights: Sequence[Tensor],
    *,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    packed: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit (Cho et al. 2014), in the variant of PyTorch and cuDNN.

    For every time step t::

        r = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
        z = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        n = tanh(W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn))
        h_t = (1 - z) * n + z * h_{t-1}

    Args:
        input: (T, B, I); with `batch_first` (B, T, I); with `batch_sizes` (sum of lengths, I). One
            of float32, float64, bfloat16 and float16; PyTorch's operator serves other dtypes.
        hx: (L * D, B, H); None for zeros.
        flat_weights: for each layer and direction w_ih (3H, I or D * H), w_hh (3H, H), then with
            `bias` b_ih and b_hh (3H,): the order of `torch.nn.GRU._flat_weights`.
        bias: whether `flat_weights` has biases.
        num_layers: the number of layers, L.
        dropout: the probability to zero an output between two layers while `training`, drawn from
            torch's generator, as PyTorch does it.
        training: whether `dropout` applies.
        bidirectional: D is 2 if so, else 1.
        batch_first: the layout of `input` and of the output; h0 and h_n are not affected.
        batch_sizes: (T,) int64 on the CPU, a PackedSequence's.
        packed: what `seqkern.prepack_` prepares; leave it out.

    Returns:
        output (T, B, D * H) in the layout of `input`, h_n (L * D, B, H).
        Under CPU autocast the dtypes are those of PyTorch's layers.

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    return stack.run(  # type: ignore[return-value]
        GRU, input, None if hx is None else (hx,), flat_weights, bias, num_layers, dropout,
        training, bidirectional, batch_first, batch_sizes, packed,
    )  # fmt: skip


def rnn_tanh(
    input: Tensor,
    hx: Tensor | None,
    flat_weights: Sequence[Tensor],
    *,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    packed: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Elman network (Elman 1990) with tanh.

    h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh) for every time step t.

    Args:
        input: (T, B, I); with `batch_first` (B, T, I); with `batch_sizes` (sum of lengths, I). One
            of float32, float64, bfloat16 and float16; PyTorch's operator serves other dtypes.
        hx: (L * D, B, H); None for zeros.
        flat_weights: for each layer and direction w_ih (H, I or D * H), w_hh (H, H), then with
            `bias` b_ih and b_hh (H,): the order of `torch.nn.RNN._flat_weights`.
        bias: whether `flat_weights` has biases.
        num_layers: the number of layers, L.
        dropout: the probability to zero an output between two layers while `training`, drawn from
            torch's generator, as PyTorch does it.
        training: whether `dropout` applies.
        bidirectional: D is 2 if so, else 1.
        batch_first: the layout of `input` and of the output; h0 and h_n are not affected.
        batch_sizes: (T,) int64 on the CPU, a PackedSequence's.
        packed: what `seqkern.prepack_` prepares; leave it out.

    Returns:
        output (T, B, D * H) in the layout of `input`, h_n (L * D, B, H).
        Under CPU autocast the dtypes are those of PyTorch's layers.

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    return stack.run(  # type: ignore[return-value]
        RNN_TANH, input, None if hx is None else (hx,), flat_weights, bias, num_layers, dropout,
        training, bidirectional, batch_first, batch_sizes, packed,
    )  # fmt: skip


def rnn_relu(
    input: Tensor,
    hx: Tensor | None,
    flat_weights: Sequence[Tensor],
    *,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    packed: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Elman network (Elman 1990) with max(0, x) in place of tanh.

    h_t = relu(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh) for every time step t.

    Args:
        input: (T, B, I); with `batch_first` (B, T, I); with `batch_sizes` (sum of lengths, I). One
            of float32, float64, bfloat16 and float16; PyTorch's operator serves other dtypes.
        hx: (L * D, B, H); None for zeros.
        flat_weights: for each layer and direction w_ih (H, I or D * H), w_hh (H, H), then with
            `bias` b_ih and b_hh (H,): the order of `torch.nn.RNN._flat_weights`.
        bias: whether `flat_weights` has biases.
        num_layers: the number of layers, L.
        dropout: the probability to zero an output between two layers while `training`, drawn from
            torch's generator, as PyTorch does it.
        training: whether `dropout` applies.
        bidirectional: D is 2 if so, else 1.
        batch_first: the layout of `input` and of the output; h0 and h_n are not affected.
        batch_sizes: (T,) int64 on the CPU, a PackedSequence's.
        packed: what `seqkern.prepack_` prepares; leave it out.

    Returns:
        output (T, B, D * H) in the layout of `input`, h_n (L * D, B, H).
        Under CPU autocast the dtypes are those of PyTorch's layers.

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    return stack.run(  # type: ignore[return-value]
        RNN_RELU, input, None if hx is None else (hx,), flat_weights, bias, num_layers, dropout,
        training, bidirectional, batch_first, batch_sizes, packed,
    )  # fmt: skip
