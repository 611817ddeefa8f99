"""Stacks of recurrent layers: directions side by side, layers on top of each other, dropout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkern.recurrent import casting, checks, choice, stack_autograd, torch_backend
from seqkern.recurrent.kinds import Kind, State, Weights
from seqkern.recurrent.ops import run_layer


def run(
    kind: Kind,
    input: Tensor,
    states: Sequence[Tensor] | None,
    flat_weights: Sequence[Tensor],
    bias: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
    batch_sizes: Tensor | None,
    packed: Sequence[Tensor | None] | None,
) -> tuple[Tensor, ...]:
    """Returns (output, h_n) or for the LSTM (output, h_n, c_n), in PyTorch's shapes.

    `states` are (h0,) or (h0, c0), each (num_layers * directions, B, width); `packed` has a
    buffer of `recurrent_pack` or None for each layer and direction.
    """
    directions = 2 if bidirectional else 1
    layers = num_layers * directions
    plain = 4 if bias else 2
    projected = kind.states == 2 and len(flat_weights) == layers * (plain + 1)
    per_layer = plain + projected
    checks.stack(kind, input, states, flat_weights, per_layer, layers, batch_first, batch_sizes)
    direct = choice.runs_directly(input)
    tensors = (*(states or ()), *flat_weights)
    backend = "cpu" if direct else choice.choose(input, tensors, projected=projected)
    if backend == "torch":
        return _run_torch(
            kind, input, states, flat_weights, bias, num_layers, dropout, training,
            bidirectional, batch_first, batch_sizes, per_layer,
        )  # fmt: skip
    lower = None
    if not direct and torch._C._is_any_autocast_enabled():
        dtype = casting.autocast_dtype(
            kind,
            input,
            states[-1] if states is not None else None,
            flat_weights,
            casting.fused_lstm(kind, input, batch_sizes, projected),
        )
        if dtype is not None:
            lower = torch.get_autocast_dtype(input.device.type) if projected else None
            packed = None  # packed in another dtype
            input = input.to(dtype)
            flat_weights = [w.to(dtype) for w in flat_weights]
            states = None if states is None else [s.to(dtype) for s in states]

    x = input
    if batch_first and batch_sizes is None:
        # In training a copy, as PyTorch makes one, so that a caller may change `input` afterwards;
        # otherwise each of the two passes would make its own.
        x = input.transpose(0, 1)
        x = x.contiguous() if torch.is_grad_enabled() else x
    if backend == "cuda" and layers > 1:
        x, *last = _run_cuda(
            kind, x, states, flat_weights, bias, num_layers, dropout if training else 0.0,
            bidirectional, batch_sizes, per_layer,
        )  # fmt: skip
        return (x.transpose(0, 1) if batch_first and batch_sizes is None else x, *last)
    per_state = [s.unbind(0) for s in states] if states is not None else None
    finals: list[tuple[Tensor, ...]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            state: State = (
                (None,) * kind.states if per_state is None else tuple(s[index] for s in per_state)
            )
            weights = _weights(flat_weights, index * per_layer, bias, projected)
            buffer = packed[index] if packed is not None else None
            output, final = run_layer(
                kind, backend, x, state, weights, buffer, batch_sizes, direction == 1
            )
            outputs.append(output)
            finals.append(final)
        x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        if training and dropout > 0 and layer < num_layers - 1:
            x = torch.dropout(x, dropout, True)
    output = x.transpose(0, 1) if batch_first and batch_sizes is None else x
    if layers == 1:
        final = tuple(f.unsqueeze(0) for f in finals[0])
    else:
        final = tuple(torch.stack(rows) for rows in zip(*finals, strict=True))
    if lower is not None:
        return (output.to(lower), final[0].to(lower), *final[1:])
    return (output, *final)


def _weights(flat: Sequence[Tensor], start: int, bias: bool, projected: bool) -> Weights:
    b_ih, b_hh = (flat[start + 2], flat[start + 3]) if bias else (None, None)
    w_hr = flat[start + (4 if bias else 2)] if projected else None
    return flat[start], flat[start + 1], b_ih, b_hh, w_hr


def _run_cuda(
    kind: Kind,
    x: Tensor,
    states: Sequence[Tensor] | None,
    flat_weights: Sequence[Tensor],
    bias: bool,
    num_layers: int,
    dropout: float,
    bidirectional: bool,
    batch_sizes: Tensor | None,
    per_layer: int,
) -> tuple[Tensor, ...]:
    """As many layers in a call of the operator as have no dropout between them."""
    directions = 2 if bidirectional else 1
    together = num_layers if dropout == 0 else 1
    places = together * directions
    if states is None and batch_sizes is not None:
        shape = (num_layers * directions, int(batch_sizes[0]), flat_weights[1].shape[1])
        states = [x.new_zeros(shape)] * kind.states
    finals = []
    for first in range(0, num_layers * directions, places):
        own = None if states is None else [s[first : first + places] for s in states]
        weights = flat_weights[first * per_layer : (first + places) * per_layer]
        if first and dropout > 0:
            x = torch.dropout(x, dropout, True)
        try:
            x, *final = stack_autograd.stack(
                kind, x, own, weights, batch_sizes, bias, bidirectional
            )
        except RuntimeError:
            checks.stack_weights(kind, flat_weights, per_layer, directions, bias)
            raise
        finals.append(final)
    if len(finals) == 1:
        return (x, *finals[0])
    return (x, *(torch.cat(parts) for parts in zip(*finals, strict=True)))


def _run_torch(
    kind: Kind,
    input: Tensor,
    states: Sequence[Tensor] | None,
    flat_weights: Sequence[Tensor],
    bias: bool,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
    batch_sizes: Tensor | None,
    per_layer: int,
) -> tuple[Tensor, ...]:
    checks.stack_weights(kind, flat_weights, per_layer, 2 if bidirectional else 1, bias)
    if batch_sizes is not None and not torch.compiler.is_compiling():
        checks.ragged(input, batch_sizes)
    if states is None:
        batch = input.shape[0 if batch_first else 1] if batch_sizes is None else batch_sizes[0]
        w_hh = flat_weights[1]
        widths = (w_hh.shape[1], w_hh.shape[0] // kind.gates)
        layers = len(flat_weights) // per_layer
        states = [
            torch.zeros(layers, batch, width, dtype=input.dtype, device=input.device)  # type: ignore
            for width in widths[: kind.states]
        ]
    return torch_backend.stack(
        kind, input, states, flat_weights, bias, num_layers, dropout, training,
        bidirectional, batch_first, batch_sizes,
    )  # fmt: skip
