"""The functional form of attention, of the recurrent layers and cells, and of the losses of word
vectors.

`scaled_dot_product_attention`, `varlen_attention`, `skipgram_loss` and `cbow_loss` say in their own
documentation what they take.

The recurrent functions mirror PyTorch's own (`torch._VF.lstm` and its family). Gates, weights and
shapes are PyTorch's: D = 2 if `bidirectional` else 1, L = `num_layers`, P = the projection's size
or H.

Arguments of the recurrent layers:

- input: (T, B, I), with `batch_first` (B, T, I), with `batch_sizes` (sum of lengths, I).
- hx: (h0, c0) for the LSTM, h0 for the others, of shape (L * D, B, P or H); None for zeros.
- flat_weights: for each layer and direction w_ih, w_hh, then with `bias` b_ih, b_hh, then for an
  LSTM with projections w_hr: the order of `torch.nn.LSTM._flat_weights`.
- dropout: the probability to zero an output between two layers while `training`, drawn from
  torch's generator, as PyTorch does it.
- batch_sizes: a PackedSequence's, (T,) int64 on the CPU.
- packed: what `seqkern.freeze_` prepares; leave it out.

They return (output, h_n), the LSTM (output, h_n, c_n). Floating dtypes are float32, float64,
bfloat16 and float16; other dtypes and other devices go to PyTorch's operator. Under CPU autocast
the results have the dtypes of PyTorch's layers.

Raises RuntimeError for arguments that do not fit together, with PyTorch's wording.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seqkern.attention.dense import scaled_dot_product_attention
from seqkern.attention.varlen import varlen_attention
from seqkern.embedding.ops import cbow_loss, skipgram_loss
from seqkern.recurrent import stack
from seqkern.recurrent.cells import gru_cell, lstm_cell, rnn_relu_cell, rnn_tanh_cell
from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH

__all__ = [
    "cbow_loss",
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "rnn_relu",
    "rnn_relu_cell",
    "rnn_tanh",
    "rnn_tanh_cell",
    "scaled_dot_product_attention",
    "skipgram_loss",
    "varlen_attention",
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
    """Long short-term memory (Hochreiter & Schmidhuber 1997); see recurrent/reference.py."""
    return stack.run(  # type: ignore[return-value]
        LSTM,
        input,
        hx,
        flat_weights,
        bias,
        num_layers,
        dropout,
        training,
        bidirectional,
        batch_first,
        batch_sizes,
        packed,
    )


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
    """Gated recurrent unit (Cho et al. 2014, PyTorch's variant); see recurrent/reference.py."""
    return stack.run(  # type: ignore[return-value]
        GRU,
        input,
        None if hx is None else (hx,),
        flat_weights,
        bias,
        num_layers,
        dropout,
        training,
        bidirectional,
        batch_first,
        batch_sizes,
        packed,
    )


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
    """Elman network (Elman 1990) with tanh; equations in recurrent/reference.py."""
    return stack.run(  # type: ignore[return-value]
        RNN_TANH,
        input,
        None if hx is None else (hx,),
        flat_weights,
        bias,
        num_layers,
        dropout,
        training,
        bidirectional,
        batch_first,
        batch_sizes,
        packed,
    )


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
    """Elman network (Elman 1990) with relu; equations in recurrent/reference.py."""
    return stack.run(  # type: ignore[return-value]
        RNN_RELU,
        input,
        None if hx is None else (hx,),
        flat_weights,
        bias,
        num_layers,
        dropout,
        training,
        bidirectional,
        batch_first,
        batch_sizes,
        packed,
    )
