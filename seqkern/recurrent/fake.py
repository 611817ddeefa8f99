"""Shapes and dtypes of the operators' results; see `seqkern.core.fakes`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkern.core.dtypes import accumulation_dtype
from seqkern.core.fakes import Fakes
from seqkern.recurrent import needs as needed


def _none(like: Tensor) -> Tensor:
    """What the operators return for a gradient that is not needed."""
    return like.new_empty(0)


def _wanted(like: Tensor, wanted: int | bool) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format) if wanted else _none(like)


def _initial(input: Tensor, state: Tensor | None, width: int, wanted: int) -> Tensor:
    """The gradient of an initial state, which may have been left out."""
    if not wanted:
        return _none(input)
    return input.new_empty(input.shape[-2] if state is None else state.shape[0], width)


def _same_device(input: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None and other.device != input.device:
            kind = "hidden" if name in ("h0", "c0") else "parameter"
            raise RuntimeError(
                f"Input and {kind} tensors are not at the same device, found input tensor at "
                f"{input.device} and {kind} tensor at {other.device} ({name})"
            )


def _final(input: Tensor, h0: Tensor | None, width: int) -> Tensor:
    return input.new_empty(input.shape[-2] if h0 is None else h0.shape[0], width)


def lstm_forward(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    w_hr: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    _same_device(input, h0=h0, c0=c0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh, w_hr=w_hr)
    hidden = w_hh.shape[0] // 4
    width = w_hh.shape[1]
    lead = input.shape[:-1]
    wide = accumulation_dtype(input.dtype)
    return (
        input.new_empty((*lead, width)),
        _final(input, h0, width),
        _final(input, h0, hidden),
        input.new_empty((*lead, 4 * hidden) if save else 0),
        input.new_empty((*lead, hidden) if save else 0, dtype=wide),
        input.new_empty((*lead, hidden) if save and w_hr is not None else 0),
    )


def lstm_backward(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    needs: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        _wanted(input, needs & needed.INPUT),
        _initial(input, h0, w_hh.shape[1], needs & needed.H0),
        _initial(input, c0, w_hh.shape[0] // 4, needs & needed.C0),
        _wanted(w_ih, needs & needed.W_IH),
        _wanted(w_hh, needs & needed.W_HH),
        input.new_empty(w_ih.shape[0] if needs & needed.BIAS else 0),
        _none(input) if w_hr is None else _wanted(w_hr, needs & needed.W_HR),
    )


def gru_forward(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    _same_device(input, h0=h0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    hidden = w_hh.shape[1]
    lead = input.shape[:-1]
    return (
        input.new_empty((*lead, hidden)),
        _final(input, h0, hidden),
        input.new_empty((*lead, 4 * hidden) if save else 0),
    )


def gru_backward(
    input: Tensor, h0: Tensor | None, w_ih: Tensor, w_hh: Tensor, needs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = w_ih.shape[0] if needs & needed.BIAS else 0
    return (
        _wanted(input, needs & needed.INPUT),
        _initial(input, h0, w_hh.shape[1], needs & needed.H0),
        _wanted(w_ih, needs & needed.W_IH),
        _wanted(w_hh, needs & needed.W_HH),
        input.new_empty(bias),
        input.new_empty(bias),
    )


def rnn_forward(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> tuple[Tensor, Tensor]:
    _same_device(input, h0=h0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    hidden = w_hh.shape[1]
    return input.new_empty((*input.shape[:-1], hidden)), _final(input, h0, hidden)


def rnn_backward(
    input: Tensor, h0: Tensor | None, w_ih: Tensor, w_hh: Tensor, needs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        _wanted(input, needs & needed.INPUT),
        _initial(input, h0, w_hh.shape[1], needs & needed.H0),
        _wanted(w_ih, needs & needed.W_IH),
        _wanted(w_hh, needs & needed.W_HH),
        input.new_empty(w_ih.shape[0] if needs & needed.BIAS else 0),
    )


def recurrent_stack_forward(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    weights: Sequence[Tensor],
    cell: int,
    bias: bool,
    bidirectional: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    _same_device(input, h0=h0, c0=c0, weights=weights[0])
    places = len(weights) // (4 if bias else 2)
    directions = 2 if bidirectional else 1
    hidden = weights[1].shape[1]
    lead = input.shape[:-1]
    batch = input.shape[-2] if h0 is None else h0.shape[1]
    lstm, gru = cell == 0, cell == 1
    output = input.new_empty((*lead, directions * hidden))
    final = input.new_empty((places, batch, hidden))
    below = (places // directions - 1, *lead, directions * hidden)
    return (
        output,
        final,
        torch.empty_like(final) if lstm else _none(input),
        input.new_empty(below if save else 0),
        input.new_empty((places, *lead, 4 * hidden) if save and (lstm or gru) else 0),
        input.new_empty((places, *lead, hidden) if save and lstm else 0, dtype=torch.float32),
    )


def recurrent_stack_backward(
    input: Tensor,
    h0: Tensor | None,
    weights: Sequence[Tensor],
    cell: int,
    bias: bool,
    needs: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    each = 4 if bias else 2
    batch = input.shape[-2] if h0 is None else h0.shape[1]
    states = (len(needs), batch, weights[1].shape[1])
    found = []
    for place, bits in enumerate(needs):
        w_ih, w_hh = weights[place * each : place * each + 2]
        biases = [
            w_ih.shape[0] if bits & needed.BIAS else 0,
            w_ih.shape[0] if bits & needed.BIAS and cell == 1 else 0,
        ]
        found += [
            _wanted(w_ih, bits & needed.W_IH),
            _wanted(w_hh, bits & needed.W_HH),
            *map(input.new_empty, biases),
        ]
    return (
        _wanted(input, needs[0] & needed.INPUT),
        input.new_empty(states if needs[0] & needed.H0 else 0),
        input.new_empty(states if needs[0] & needed.C0 and cell == 0 else 0),
        found,
    )


def _state(input: Tensor, w_hh: Tensor) -> Tensor:
    return input.new_empty(input.shape[0], w_hh.shape[1])


def _gates(input: Tensor, w_hh: Tensor, save: bool) -> Tensor | None:
    """The activated gates that a step of an LSTM or GRU saves."""
    return input.new_empty(input.shape[0], 4 * w_hh.shape[1]) if save else None


def _cell_gradients(
    input: Tensor, w_ih: Tensor, w_hh: Tensor, needs: int
) -> tuple[Tensor | None, ...]:
    """Of input, h0, c0, both weights and both biases: None for what is not needed."""

    def wanted(index: int, *shape: int | torch.SymInt) -> Tensor | None:
        return input.new_empty(shape) if needs >> index & 1 else None

    batch, hidden = input.shape[0], w_hh.shape[1]
    return (
        wanted(0, *input.shape),
        wanted(1, batch, hidden),
        wanted(2, batch, hidden),
        wanted(3, *w_ih.shape),
        wanted(4, *w_hh.shape),
        wanted(5, w_ih.shape[0]),
        wanted(6, w_ih.shape[0]),
    )


def lstm_cell_forward(
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    _same_device(input, h0=h0, c0=c0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    return _state(input, w_hh), _state(input, w_hh), _gates(input, w_hh, save)


def lstm_cell_backward(
    input: Tensor, w_ih: Tensor, w_hh: Tensor, needs: int
) -> tuple[Tensor | None, ...]:
    return _cell_gradients(input, w_ih, w_hh, needs)


def gru_cell_forward(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor | None]:
    _same_device(input, h0=h0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    return _state(input, w_hh), _gates(input, w_hh, save)


def gru_cell_backward(
    input: Tensor, w_ih: Tensor, w_hh: Tensor, needs: int
) -> tuple[Tensor | None, ...]:
    grads = _cell_gradients(input, w_ih, w_hh, needs)
    return (*grads[:2], *grads[3:])


def rnn_cell_forward(
    input: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
) -> Tensor:
    _same_device(input, h0=h0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    return _state(input, w_hh)


def rnn_cell_backward(
    input: Tensor, w_ih: Tensor, w_hh: Tensor, needs: int
) -> tuple[Tensor | None, ...]:
    grads = _cell_gradients(input, w_ih, w_hh, needs)
    return (*grads[:2], *grads[3:])


# recurrent_pack has no fake kernel: the size of its result belongs to the ISA level of the
# machine that packs, and `seqkern.prepack_` calls it outside of any compiled function.
FAKES = Fakes(
    lstm_forward,
    lstm_backward,
    gru_forward,
    gru_backward,
    rnn_forward,
    rnn_backward,
    recurrent_stack_forward,
    recurrent_stack_backward,
    lstm_cell_forward,
    lstm_cell_backward,
    gru_cell_forward,
    gru_cell_backward,
    rnn_cell_forward,
    rnn_cell_backward,
)
