"""PyTorch's own recurrent operators: what runs where seqkern has no kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import _VF, Tensor

from seqkern.recurrent import checks
from seqkern.recurrent.kinds import Kind, State, Weights

_STACKS: dict[str, Any] = {
    "lstm": _VF.lstm,
    "gru": _VF.gru,
    "rnn_tanh": _VF.rnn_tanh,
    "rnn_relu": _VF.rnn_relu,
}
_CELLS: dict[str, Any] = {
    "lstm": _VF.lstm_cell,
    "gru": _VF.gru_cell,
    "rnn_tanh": _VF.rnn_tanh_cell,
    "rnn_relu": _VF.rnn_relu_cell,
}


def stack(
    kind: Kind,
    input: Tensor,
    states: Sequence[Tensor],
    flat_weights: Sequence[Tensor],
    bias: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, ...]:
    """All layers at once; returns (output, h_n) or for the LSTM (output, h_n, c_n)."""
    hx = tuple(states) if kind.states == 2 else states[0]
    options = (list(flat_weights), bias, num_layers, dropout, training, bidirectional)
    if batch_sizes is None:
        return _STACKS[kind.name](input, hx, *options, batch_first)
    return _STACKS[kind.name](input, batch_sizes, hx, *options)


def cell(kind: Kind, input: Tensor, states: Sequence[Tensor], weights: Weights) -> Any:
    """One step; returns h, or for the LSTM (h, c)."""
    hx = tuple(states) if kind.states == 2 else states[0]
    return _CELLS[kind.name](input, hx, *weights[:4])


def layer(
    kind: Kind,
    x: Tensor,
    state: State,
    weights: Weights,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One layer in one direction. PyTorch has no layer that only runs backwards, so that one is
    taken out of a bidirectional layer whose two directions have the same weights."""
    # PyTorch's fused operators do not check shapes, and read past the end of a short tensor.
    checks.layer(kind, x, state, weights, batch_sizes)
    one_step = x.dim() == 2 and batch_sizes is None
    batch = x.shape[-2] if batch_sizes is None else int(batch_sizes[0])
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    widths = (w_hh.shape[1], w_hh.shape[0] // kind.gates)
    directions = 2 if reverse else 1
    states = [
        (x.new_zeros(batch, width) if s is None else s).expand(directions, batch, width)
        for s, width in zip(state, widths, strict=False)
    ]
    flat = [w for w in (w_ih, w_hh, b_ih, b_hh, w_hr) if w is not None] * directions
    output, *final = stack(
        kind,
        x.unsqueeze(0) if one_step else x,
        [s.contiguous() for s in states],
        flat,
        b_ih is not None,
        1,
        0.0,
        torch.is_grad_enabled(),
        reverse,
        False,
        batch_sizes,
    )
    output = output[..., -widths[0] :]
    return output.squeeze(0) if one_step else output, tuple(f[-1] for f in final)
