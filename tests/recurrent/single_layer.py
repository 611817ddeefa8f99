"""One layer in one direction as `seqkern.nn` runs it: checked, on the backend that is chosen.

Arguments, shapes and results are those of the functions of the same name in
`seqkern.recurrent.reference`. All raise RuntimeError, in PyTorch's words, for arguments that do not
fit together, and where the backend chosen with `seqkern.use_backend` cannot run the call.
"""

from __future__ import annotations

from torch import Tensor

from seqkern.recurrent import checks, choice
from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH, Kind, State, Weights
from seqkern.recurrent.ops import run_layer


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
