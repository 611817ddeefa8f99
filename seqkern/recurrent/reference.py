r"""The reference for the recurrent layers: one equation a line, in plain PyTorch.

This file is the specification. Every kernel is measured against it in float64; it runs in any
dtype and on any device, can be differentiated any number of times and works under `torch.func`.

Notation. `x_t` is the input of step t, `h` the hidden state, `c` the cell state, `s` the logistic
function, `*` the element-wise product. `W_.`, `R_.`, `b_.` and `d_.` are the row blocks of `w_ih`,
`w_hh`, `b_ih` and `b_hh` that belong to one gate, in PyTorch's order.

LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers, Schmidhuber & Cummins 2000);
the last line is the recurrent projection of Sak, Senior & Beaufays 2014, without it h_t = m_t::

    i_t = s(W_i x_t + b_i + R_i h_{t-1} + d_i)        input gate
    f_t = s(W_f x_t + b_f + R_f h_{t-1} + d_f)        forget gate
    g_t = tanh(W_g x_t + b_g + R_g h_{t-1} + d_g)     candidate
    o_t = s(W_o x_t + b_o + R_o h_{t-1} + d_o)        output gate
    c_t = f_t * c_{t-1} + i_t * g_t                   cell
    m_t = o_t * tanh(c_t)                             hidden
    h_t = W_hr m_t                                    projection

GRU (Cho et al. 2014, in PyTorch's and cuDNN's variant: the reset gate acts after the recurrent
product, so that the product is one matrix multiplication)::

    r_t = s(W_r x_t + b_r + R_r h_{t-1} + d_r)        reset gate
    z_t = s(W_z x_t + b_z + R_z h_{t-1} + d_z)        update gate
    n_t = tanh(W_n x_t + b_n + r_t * (R_n h_{t-1} + d_n))
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}

Elman network (Elman 1990), with phi = tanh or relu::

    h_t = phi(W x_t + b + R h_{t-1} + d)

Shapes, for all three functions, with P = `w_hr.shape[0]` where there is a projection, otherwise H:

- `x`: (T, B, I); or (sum of lengths, I) with `batch_sizes`, the data of a PackedSequence; or
  (B, I) without `batch_sizes`, a single step.
- `h0`: (B, P) and `c0`: (B, H), or None for zeros.
- `batch_sizes`: (T,) integers that never increase: how many sequences are active at each step.
- `reverse`: walk through time from the last step to the first.
- Returned: output `x.shape[:-1] + (P,)`, final `h_n` (B, P) and for the LSTM `c_n` (B, H).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]


def lstm(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer in one direction; gates in the order i, f, g, o. See the module's text."""

    def step(x_t: Tensor, state: State) -> State:
        h, c = state
        gates = linear(x_t, w_ih, b_ih) + linear(h, w_hh, b_hh)
        a_i, a_f, a_g, a_o = gates.chunk(4, dim=-1)
        i = torch.sigmoid(a_i)
        f = torch.sigmoid(a_f)
        g = torch.tanh(a_g)
        o = torch.sigmoid(a_o)
        c = f * c + i * g
        m = o * torch.tanh(c)
        h = m if w_hr is None else linear(m, w_hr)
        return h, c

    first = _batch(x, batch_sizes)
    h = x.new_zeros(first, w_hh.shape[1]) if h0 is None else h0
    c = x.new_zeros(first, w_hh.shape[0] // 4) if c0 is None else c0
    output, (h_n, c_n) = _through_time(step, x, (h, c), batch_sizes, reverse)
    return output, h_n, c_n


def gru(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """One GRU layer in one direction; gates in the order r, z, n. See the module's text."""

    def step(x_t: Tensor, state: State) -> State:
        (h,) = state
        x_r, x_z, x_n = linear(x_t, w_ih, b_ih).chunk(3, dim=-1)
        h_r, h_z, h_n = linear(h, w_hh, b_hh).chunk(3, dim=-1)
        r = torch.sigmoid(x_r + h_r)
        z = torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * h_n)
        h = (1 - z) * n + z * h
        return (h,)

    h = x.new_zeros(_batch(x, batch_sizes), w_hh.shape[1]) if h0 is None else h0
    output, (final,) = _through_time(step, x, (h,), batch_sizes, reverse)
    return output, final


def rnn(
    x: Tensor,
    h0: Tensor | None,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """One Elman layer in one direction, `nonlinearity` "tanh" or "relu". See the module's text."""
    phi = torch.tanh if nonlinearity == "tanh" else torch.relu

    def step(x_t: Tensor, state: State) -> State:
        (h,) = state
        h = phi(linear(x_t, w_ih, b_ih) + linear(h, w_hh, b_hh))
        return (h,)

    h = x.new_zeros(_batch(x, batch_sizes), w_hh.shape[1]) if h0 is None else h0
    output, (final,) = _through_time(step, x, (h,), batch_sizes, reverse)
    return output, final


def _batch(x: Tensor, batch_sizes: Tensor | None) -> int:
    return x.shape[-2] if batch_sizes is None else int(batch_sizes[0])


def _through_time(
    step: Step, x: Tensor, state: State, batch_sizes: Tensor | None, reverse: bool
) -> tuple[Tensor, State]:
    """Runs `step` over every time step of `x`; returns all hidden states and the final state."""
    if batch_sizes is not None:
        return _through_ragged_time(step, x, state, batch_sizes.tolist(), reverse)
    if x.dim() == 2:
        state = step(x, state)
        return state[0], state
    outputs = []
    for x_t in reversed(x.unbind(0)) if reverse else x.unbind(0):
        state = step(x_t, state)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _through_ragged_time(
    step: Step, x: Tensor, state: State, sizes: list[int], reverse: bool
) -> tuple[Tensor, State]:
    """As above for sequences of falling length: step t belongs to the first `sizes[t]` rows."""
    steps = x.split(sizes)
    outputs = []
    if reverse:
        # Backwards, the longest sequences start first and the shorter ones join with h0, c0.
        initial = state
        state = tuple(s[: sizes[-1]] for s in initial)
        for x_t, active in zip(reversed(steps), reversed(sizes), strict=True):
            waiting = (s[len(old) : active] for s, old in zip(initial, state, strict=True))
            state = tuple(torch.cat(pair) for pair in zip(state, waiting, strict=True))
            state = step(x_t, state)
            outputs.append(state[0])
        return torch.cat(outputs[::-1]), state
    finished: list[State] = []
    for x_t, active in zip(steps, sizes, strict=True):
        finished.append(tuple(s[active:] for s in state))
        state = step(x_t, tuple(s[:active] for s in state))
        outputs.append(state[0])
    finished.append(state)
    # The last to end are the first rows.
    final = tuple(torch.cat(rows) for rows in zip(*reversed(finished), strict=True))
    return torch.cat(outputs), final
