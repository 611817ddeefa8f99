"""RNN, LSTM, GRU and their cells as drop-in modules for `torch.nn`'s.

Constructor arguments, attributes, `state_dict` keys, results and errors are those of torch.nn, so
a trained module turns into one of these by assigning its ``__class__`` (`seqkern.swap`). All of
them derive from torch.nn's class of the same name, because other code checks `isinstance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkern.core.fx_leaf import record_call
from seqkern.recurrent import cells, dynamo, stack
from seqkern.recurrent.kinds import GRU as GRU_KIND
from seqkern.recurrent.kinds import LSTM as LSTM_KIND
from seqkern.recurrent.kinds import RNN_RELU, RNN_TANH, Kind
from seqkern.recurrent.prepack import Prepackable


class _Layers(Prepackable, torch.nn.RNNBase):
    """What RNN, LSTM and GRU share: from the caller's shapes to those of `stack.run` and back."""

    def _weights(self) -> list[Tensor]:
        """The weights as they are now. torch's `_flat_weights` is stale under a parametrization,
        and attribute look-up in a module is slow, so the parameters are read directly if they
        can."""
        parameters: Any = self._parameters
        try:
            return [parameters[name] for name in self._flat_weights_names]
        except KeyError:  # parametrized, weight_norm, a replica of DataParallel
            return [getattr(self, name) for name in self._flat_weights_names]

    def _recurrent_weights(self) -> list[tuple[Tensor, int]]:
        gates = {"LSTM": 4, "GRU": 3}.get(self.mode, 1)
        names = self._flat_weights_names
        return [(getattr(self, name), gates) for name in names if name.startswith("weight_hh")]

    def _run(
        self, kind: Kind, input: Tensor, states: Sequence[Tensor] | None, batch_sizes: Tensor | None
    ) -> tuple[Tensor, ...]:
        weights = self._weights()
        packed = None
        if self._packed_weights is not None:  # w_hh is the second weight of each layer
            packed = self._packed_for(weights[1 :: len(weights) // len(self._packed_weights)])
        dtype = weights[0].dtype
        if input.dtype != dtype and not torch._C._is_any_autocast_enabled():
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
            )
        return stack.run(
            kind,
            input,
            states,
            weights,
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            self.batch_first,
            batch_sizes,
            packed,
        )

    def _run_sequences(
        self,
        kind: Kind,
        input: Tensor | PackedSequence,
        states: Sequence[Tensor] | None,
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, ...]]:
        """Returns the output and the final states for batched, unbatched and packed input."""
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, original_order = input
            output, *final = self._run(kind, data, _permuted(states, order), batch_sizes)
            packed = PackedSequence(output, batch_sizes, order, original_order)
            return packed, tuple(_permuted(final, original_order))  # type: ignore[arg-type]
        if input.dim() == 3:
            results = self._run(kind, input, states, None)
            return results[0], results[1:]
        batch_dim = 0 if self.batch_first else 1
        if states is not None:
            states = [state.unsqueeze(1) for state in states]
        output, *final = self._run(kind, input.unsqueeze(batch_dim), states, None)
        return output.squeeze(batch_dim), tuple(state.squeeze(1) for state in final)

    def _run_single_state(
        self, kind: Kind, input: Tensor | PackedSequence, hx: Tensor | None, got: str
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """The forward of GRU and RNN. `got` is how torch's message about the input ends."""
        if not isinstance(input, PackedSequence):
            dim = input.dim()
            if dim != 3 and dim != 2:
                raise ValueError(
                    f"{type(self).__name__}: Expected input to be 2D or 3D, got {dim}D {got}"
                )
            if hx is not None and hx.dim() != dim:
                kind_of = "batched" if dim == 3 else "unbatched"
                raise RuntimeError(
                    f"For {kind_of} {dim}-D input, hx should also be {dim}-D but got "
                    f"{hx.dim()}-D tensor"
                )
        output, (h_n,) = self._run_sequences(kind, input, None if hx is None else (hx,))
        return output, h_n


dynamo.admit(_Layers)


class RNN(_Layers, torch.nn.RNN):
    """Elman network, `torch.nn.RNN` (Elman 1990)::

        h_t = phi(W x_t + b + R h_{t-1} + d),    phi = tanh or relu

    Args:
        input_size: the width of the input, I, a positive integer.
        hidden_size: the width of the state, H, a positive integer.
        num_layers: layers on top of each other, L.
        nonlinearity: "tanh" or "relu".
        bias: whether b and d exist.
        batch_first: input and output are (B, T, .) instead of (T, B, .).
        dropout: probability to zero an output between two layers in training.
        bidirectional: a second direction beside each layer; D = 2, otherwise 1.
        device: of the parameters.
        dtype: of the parameters. On the CPU kernels exist for float32, bfloat16 and float64, and
            float16 is computed in float32; on a GPU for float32, bfloat16 and float16.
        unsupported: whatever else is given is refused by torch.nn.RNN.

    Call: `output, h_n = module(input, hx=None)` with input (T, B, I), hx and h_n (D*L, B, H),
    output (T, B, D*H); without the batch dimension for a single sequence; or a PackedSequence.

    Raises:
        ValueError, TypeError: constructor arguments, input of the wrong rank or dtype.
        RuntimeError: input or hx of the wrong size, device or dtype. All as torch.nn.RNN.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers=num_layers,
            nonlinearity=nonlinearity,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            **unsupported,
        )

    def forward(  # type: ignore[override]  # torch.nn's is overloaded
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        if type(input) is not Tensor or (hx is not None and type(hx) is not Tensor):
            node = _recorded(self, input, hx)
            if node is not None:
                return node
        kind = RNN_TANH if self.mode == "RNN_TANH" else RNN_RELU
        return self._run_single_state(kind, input, hx, "tensor instead")


class GRU(_Layers, torch.nn.GRU):
    """Gated recurrent unit, `torch.nn.GRU` (Cho et al. 2014 in cuDNN's variant)::

        r_t = s(W_r x_t + b_r + R_r h_{t-1} + d_r)
        z_t = s(W_z x_t + b_z + R_z h_{t-1} + d_z)
        n_t = tanh(W_n x_t + b_n + r_t * (R_n h_{t-1} + d_n))
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    Args:
        input_size, hidden_size, num_layers, bias: as in `RNN` and torch.nn.GRU.
        batch_first, dropout, bidirectional, device, dtype: as there.
        unsupported: whatever else is given is refused by torch.nn.GRU.

    Call: `output, h_n = module(input, hx=None)`, with the shapes of `RNN`.

    Raises:
        ValueError, TypeError, RuntimeError: as `RNN` and torch.nn.GRU.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            device=device,
            dtype=dtype,
            **unsupported,
        )

    def forward(  # type: ignore[override]  # torch.nn's is overloaded
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        if type(input) is not Tensor or (hx is not None and type(hx) is not Tensor):
            node = _recorded(self, input, hx)
            if node is not None:
                return node
        return self._run_single_state(GRU_KIND, input, hx, "instead")


class LSTM(_Layers, torch.nn.LSTM):
    """Long short-term memory, `torch.nn.LSTM` (Hochreiter & Schmidhuber 1997, Gers et al. 2000)::

        i_t = s(W_i x_t + b_i + R_i h_{t-1} + d_i)
        f_t = s(W_f x_t + b_f + R_f h_{t-1} + d_f)
        g_t = tanh(W_g x_t + b_g + R_g h_{t-1} + d_g)
        o_t = s(W_o x_t + b_o + R_o h_{t-1} + d_o)
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t),    with proj_size (Sak et al. 2014)  h_t = W_hr (o_t * tanh(c_t))

    Args:
        input_size, hidden_size, num_layers, bias: as in `RNN` and torch.nn.LSTM.
        batch_first, dropout, bidirectional, device, dtype: as there.
        proj_size: width P < H of a projection of the hidden state; 0 for none, P = H.

    Call: `output, (h_n, c_n) = module(input, hx=None)` with hx = (h_0, c_0), h of shape
    (D*L, B, P), c of shape (D*L, B, H), output (T, B, D*P); input and dtypes as in `RNN`.

    Raises:
        ValueError, TypeError, RuntimeError: as `RNN` and torch.nn.LSTM.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            device=device,
            dtype=dtype,
        )

    def forward(  # type: ignore[override]  # torch.nn's is overloaded
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
        if type(input) is not Tensor or (
            hx is not None
            and (type(hx) is not tuple or type(hx[0]) is not Tensor or type(hx[1]) is not Tensor)
        ):
            node = _recorded(self, input, hx)
            if node is not None:
                return node
        if not isinstance(input, PackedSequence):
            dim = input.dim()
            if dim != 3 and dim != 2:
                raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {dim}D instead")
            if hx is not None and (hx[0].dim() != dim or hx[1].dim() != dim):
                kind_of = "batched" if dim == 3 else "unbatched"
                raise RuntimeError(
                    f"For {kind_of} {dim}-D input, hx and cx should also be {dim}-D but got "
                    f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
                )
        output, (h_n, c_n) = self._run_sequences(LSTM_KIND, input, hx)
        return output, (h_n, c_n)


class _Cell(Prepackable):
    """What the cells share."""

    _gates: int
    _parameters: Any
    weight_hh: Tensor

    def _cell_weights(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """See `_Layers._weights`."""
        p: Any = self._parameters
        try:
            return p["weight_ih"], p["weight_hh"], p["bias_ih"], p["bias_hh"]
        except KeyError:
            s: Any = self
            return s.weight_ih, s.weight_hh, s.bias_ih, s.bias_hh

    def _recurrent_weights(self) -> list[tuple[Tensor, int]]:
        return [(self.weight_hh, self._gates)]

    def _packed_weight(self, w_hh: Tensor) -> Tensor | None:
        packed = self._packed_for((w_hh,))
        return None if packed is None else packed[0]


class LSTMCell(_Cell, torch.nn.LSTMCell):
    """One step of an `LSTM`, `torch.nn.LSTMCell` (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    Args:
        input_size, hidden_size, bias, device, dtype: as in `RNN` and torch.nn.LSTMCell.

    Call: `h, c = cell(input, hx=None)` with input (B, I), hx = (h, c) each (B, H); without B for
    a single sample.

    Raises:
        ValueError, RuntimeError: input or hx of the wrong rank, size, device or dtype, as
            torch.nn.LSTMCell.
    """

    _gates = 4

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        if type(input) is not Tensor or (
            hx is not None
            and (type(hx) is not tuple or type(hx[0]) is not Tensor or type(hx[1]) is not Tensor)
        ):
            node = _recorded(self, input, hx)
            if node is not None:
                return node
        weights = self._cell_weights()
        packed = None if self._packed_weights is None else self._packed_weight(weights[1])
        rank = input.dim()
        if hx is not None:
            h, c = hx
            if h.dim() != rank or c.dim() != rank:
                _check_rank("LSTMCell", "input", input)
                _check_rank("LSTMCell", "hx[0]", h)
                _check_rank("LSTMCell", "hx[1]", c)
        if rank == 2:
            return cells.lstm_cell(input, hx, *weights, packed=packed)
        _check_rank("LSTMCell", "input", input)
        if hx is not None:
            hx = (h.unsqueeze(0), c.unsqueeze(0))
        h, c = cells.lstm_cell(input.unsqueeze(0), hx, *weights, packed=packed)
        return h.squeeze(0), c.squeeze(0)


class GRUCell(_Cell, torch.nn.GRUCell):
    """One step of a `GRU`, `torch.nn.GRUCell` (Cho et al. 2014 in cuDNN's variant).

    Args:
        input_size, hidden_size, bias, device, dtype: as in `RNN` and torch.nn.GRUCell.

    Call: `h = cell(input, hx=None)` with input (B, I), hx (B, H); without B for a single sample.

    Raises:
        ValueError, RuntimeError: input or hx of the wrong rank, size, device or dtype, as
            torch.nn.GRUCell.
    """

    _gates = 3

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if type(input) is not Tensor or (hx is not None and type(hx) is not Tensor):
            node = _recorded(self, input, hx)
            if node is not None:
                return node
        rank = input.dim()
        if rank != 2 or (hx is not None and hx.dim() != 2):
            _check_rank("GRUCell", "input", input)
            if hx is not None:
                _check_rank("GRUCell", "hidden", hx)
        weights = self._cell_weights()
        packed = None if self._packed_weights is None else self._packed_weight(weights[1])
        if rank == 2:
            return cells.gru_cell(input, hx, *weights, packed=packed)
        hx = None if hx is None else hx.unsqueeze(0)
        h = cells.gru_cell(input.unsqueeze(0), hx, *weights, packed=packed)
        return h.squeeze(0)


class RNNCell(_Cell, torch.nn.RNNCell):
    """One step of an `RNN`, `torch.nn.RNNCell` (Elman 1990).

    Args:
        input_size, hidden_size, bias, nonlinearity, device, dtype: as in `RNN` and
            torch.nn.RNNCell.

    Call: `h = cell(input, hx=None)` with input (B, I), hx (B, H); without B for a single sample.

    Raises:
        ValueError, RuntimeError: input or hx of the wrong rank, size, device or dtype, or an
            unknown nonlinearity, as torch.nn.RNNCell.
    """

    _gates = 1

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if type(input) is not Tensor or (hx is not None and type(hx) is not Tensor):
            node = _recorded(self, input, hx)
            if node is not None:
                return node
        rank = input.dim()
        if rank != 2 or (hx is not None and hx.dim() != 2):
            _check_rank("RNNCell", "input", input)
            if hx is not None:
                _check_rank("RNNCell", "hidden", hx)
        if self.nonlinearity == "tanh":
            step = cells.rnn_tanh_cell
        elif self.nonlinearity == "relu":
            step = cells.rnn_relu_cell
        else:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        weights = self._cell_weights()
        packed = None if self._packed_weights is None else self._packed_weight(weights[1])
        if rank == 2:
            return step(input, hx, *weights, packed=packed)
        hx = None if hx is None else hx.unsqueeze(0)
        h = step(input.unsqueeze(0), hx, *weights, packed=packed)
        return h.squeeze(0)


def _recorded(module: torch.nn.Module, input: Any, hx: Any) -> Any:
    """The call as a node of torch.fx, where it is tracing. `forward` checks this only if an
    argument is not a Tensor: even this check costs a cell time."""
    return record_call(module, (input,) if hx is None else (input, hx))


def _check_rank(cell: str, name: str, tensor: Tensor) -> None:
    if tensor.dim() not in (1, 2):
        raise ValueError(f"{cell}: Expected {name} to be 1D or 2D, got {tensor.dim()}D instead")


def _permuted(states: Sequence[Tensor] | None, order: Tensor | None) -> Sequence[Tensor] | None:
    """The states with the batch in another order, as `pack_padded_sequence` sorted it."""
    if states is None or order is None:
        return states
    return [state.index_select(1, order) for state in states]
