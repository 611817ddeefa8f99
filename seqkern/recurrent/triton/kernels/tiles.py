"""One tile of one time step: the matrix product, the cell, and what is stored of it.

A tile is BLOCK_B rows of the batch by BLOCK_U hidden units. `steps` runs a launch
of tiles for each step, `streamed` walks through steps and tiles in one launch.

What the arguments of the tiles mean:

- A step works on rows 0 ... alive of the batch. Its pointers (`gates`, `cells`, `out`, ...) point
  to row 0 of the step. `rows` are the tile's rows, 64 bits wide as every offset.
- `before` and `after`: how many rows are alive at the step that was processed just before it and
  at the one just after it, 0 where there is none. Rows from `before` on take their state from
  h0 and c0, rows from `after` on end here.
- hidden is H, width P, the size of the recurrent state (H, or the projection's size).
- `gates`: rows of `gates_stride` elements, a gate being H of them. In: the input's projection.
  Out, with `save`: the activated gates (GRU: r, z, n and q = R_n h + b_hn).
- `bias`, float32: one for each gate; GRU: r, z, n of the input and n of the state.
- `state`, float32 (B, H): the LSTM's c and the GRU's h, updated in place.
- `grad_gates`: LSTM 4H as i, f, g, o; GRU 4H as n, r, z, q, so that the part of the state (r, z, q)
  and that of the input (n, r, z) are contiguous; RNN H.
- `carry`, float32 (B, H): the gradient that reaches the previous step past the product: the LSTM's
  of c, the GRU's of h. Before the first step it holds the gradient of c_n, or zero.
- INTERPRETED: Triton's interpreter multiplies 16-bit numbers wrongly, so it gets them widened.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqkern.recurrent.triton.kernels import cells as cells_
from seqkern.recurrent.triton.kernels.cells import GRU, LSTM


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def product(
    left, left_stride, right, right_inner, right_column, rows, present, columns, count, depth,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Some rows and columns of left (., depth) times right (depth, count); 0 for rows that are not
    `present`."""
    inner = tl.arange(0, BLOCK_K)
    left_at = left + rows[:, None] * left_stride + inner[None, :]
    right_at = right + inner[:, None] * right_inner + columns[None, :] * right_column
    wanted = (columns < count)[None, :]
    total = tl.zeros([BLOCK_B, BLOCK_U], tl.float32)
    for k in range(0, depth, BLOCK_K):
        within = inner < depth - k
        a = tl.load(left_at, mask=present[:, None] & within[None, :], other=0.0)
        b = tl.load(right_at, mask=within[:, None] & wanted, other=0.0)
        total = dot(a, b, total, PRECISION, INTERPRETED)
        left_at += BLOCK_K
        right_at += BLOCK_K * right_inner
    return total


@triton.jit
def forward_tile(
    gates, gates_stride, bias, previous, h0, w_hh, state, cells, out,
    rows, alive, before, first_unit, hidden, width, save,
    CELL: tl.constexpr, JOINING: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A step of some rows and units. `previous` points to the states of the step before, `out` to
    what takes the cell's output. JOINING: some rows of a step may begin with it while others go
    on; otherwise all or none do."""
    units = first_unit + tl.arange(0, BLOCK_U)
    inner = tl.arange(0, BLOCK_K)
    inside = (rows < alive)[:, None] & (units < hidden)[None, :]
    going_on = rows < (tl.minimum(alive, before) if JOINING else alive)
    beginning = (rows >= before) & (rows < alive)
    if before == 0:
        previous = h0

    # The product of all gates at once: the state is read once for all of them.
    state_at = previous + rows[:, None] * width + inner[None, :]
    h0_at = h0 + rows[:, None] * width + inner[None, :]
    weights_at = w_hh + units.to(tl.int64)[None, :] * width + inner[:, None]
    gate = tl.cast(hidden, tl.int64) * width
    p0 = tl.zeros([BLOCK_B, BLOCK_U], tl.float32)
    p1 = tl.zeros([BLOCK_B, BLOCK_U], tl.float32)
    p2 = tl.zeros([BLOCK_B, BLOCK_U], tl.float32)
    p3 = tl.zeros([BLOCK_B, BLOCK_U], tl.float32)
    for k in range(0, width, BLOCK_K):
        within = inner < width - k
        h = tl.load(state_at, mask=going_on[:, None] & within[None, :], other=0.0)
        if JOINING:
            h += tl.load(h0_at, mask=beginning[:, None] & within[None, :], other=0.0)
            h0_at += BLOCK_K
        used = within[:, None] & (units < hidden)[None, :]
        p0 = dot(h, tl.load(weights_at, mask=used, other=0.0), p0, PRECISION, INTERPRETED)
        if CELL <= GRU:
            w1 = tl.load(weights_at + gate, mask=used, other=0.0)
            p1 = dot(h, w1, p1, PRECISION, INTERPRETED)
            w2 = tl.load(weights_at + 2 * gate, mask=used, other=0.0)
            p2 = dot(h, w2, p2, PRECISION, INTERPRETED)
        if CELL == LSTM:
            w3 = tl.load(weights_at + 3 * gate, mask=used, other=0.0)
            p3 = dot(h, w3, p3, PRECISION, INTERPRETED)
        state_at += BLOCK_K
        weights_at += BLOCK_K

    gates_at = gates + rows[:, None] * gates_stride + units[None, :]
    place = rows[:, None] * hidden + units[None, :]
    p0 += pre_activation(gates_at, bias, 0, units, hidden, inside)
    if CELL == LSTM:
        p1 += pre_activation(gates_at, bias, 1, units, hidden, inside)
        p2 += pre_activation(gates_at, bias, 2, units, hidden, inside)
        p3 += pre_activation(gates_at, bias, 3, units, hidden, inside)
        c = tl.load(state + place, mask=inside, other=0.0)
        i, f, g, o, c, h = cells_.lstm(p0, p1, p2, p3, c)
        tl.store(state + place, c, mask=inside)
        if save:
            store_gates(gates_at, hidden, i, f, g, o, inside)
            tl.store(cells + place, c, mask=inside)
    elif CELL == GRU:
        p1 += pre_activation(gates_at, bias, 1, units, hidden, inside)
        x = pre_activation(gates_at, bias, 2, units, hidden, inside)
        q = p2 + tl.load(bias + 3 * hidden + units, mask=units < hidden, other=0.0)[None, :]
        h = tl.load(state + place, mask=inside, other=0.0)
        r, z, n, h = cells_.gru(p0, p1, x, q, h)
        tl.store(state + place, h, mask=inside)
        if save:
            store_gates(gates_at, hidden, r, z, n, q, inside)
    else:
        h = cells_.rnn(p0, CELL)
    tl.store(out + place, h, mask=inside)


@triton.jit
def pre_activation(gates_at, bias, gate: tl.constexpr, units, hidden, inside):
    """What the input and the biases give to a gate."""
    x = tl.load(gates_at + gate * hidden, mask=inside, other=0.0).to(tl.float32)
    return x + tl.load(bias + gate * hidden + units, mask=units < hidden, other=0.0)[None, :]


@triton.jit
def store_gates(gates_at, hidden, a, b, c, d, inside):
    tl.store(gates_at, a, mask=inside)
    tl.store(gates_at + hidden, b, mask=inside)
    tl.store(gates_at + 2 * hidden, c, mask=inside)
    tl.store(gates_at + 3 * hidden, d, mask=inside)


@triton.jit
def store_tile(out, tile, rows, alive, first_column, count, BLOCK_U: tl.constexpr):
    """Some columns of the rows (., count) at `out`."""
    columns = first_column + tl.arange(0, BLOCK_U)
    inside = (rows < alive)[:, None] & (columns < count)[None, :]
    tl.store(out + rows[:, None] * count + columns[None, :], tile, mask=inside)


@triton.jit
def state_gradient(
    grad_output, grad_h_n, next_grad_gates, grad_stride, w_hh, carry,
    rows, alive, after, first_unit, hidden, width,
    CELL: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """The whole gradient of some rows and columns of a step's state h_t."""
    columns = first_unit + tl.arange(0, BLOCK_U)
    inside = (rows < alive)[:, None] & (columns < width)[None, :]
    place = rows[:, None] * width + columns[None, :]
    dh = tl.load(grad_output + place, mask=inside, other=0.0).to(tl.float32)
    ending = inside & (rows >= after)[:, None]
    dh += tl.load(grad_h_n + place, mask=ending, other=0.0).to(tl.float32)
    if CELL == GRU:
        dh += tl.load(carry + place, mask=inside, other=0.0)
    if after > 0:
        depth = (4 if CELL == LSTM else 3 if CELL == GRU else 1) * hidden
        dh += product(
            next_grad_gates + (hidden if CELL == GRU else 0), grad_stride, w_hh, width, 1,
            rows, rows < tl.minimum(alive, after), columns, width, depth,
            BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
        )  # fmt: skip
    return dh


@triton.jit
def backward_cell(
    dh, gates, cells, out, cells_before, c0, out_before, h0, grad_gates, grad_stride, carry,
    rows, alive, before, first_unit, hidden,
    CELL: tl.constexpr, BLOCK_U: tl.constexpr,
):  # fmt: skip
    """From the gradient of the cell's output those of the gates and the carry."""
    units = first_unit + tl.arange(0, BLOCK_U)
    inside = (rows < alive)[:, None] & (units < hidden)[None, :]
    place = rows[:, None] * hidden + units[None, :]
    grads_at = grad_gates + rows[:, None] * grad_stride + units[None, :]
    continued = inside & (rows < before)[:, None]
    begun = inside & (rows >= before)[:, None]
    if CELL <= GRU:
        gates_at = gates + rows[:, None] * (4 * hidden) + units[None, :]
        g0 = tl.load(gates_at, mask=inside, other=0.0).to(tl.float32)
        g1 = tl.load(gates_at + hidden, mask=inside, other=0.0).to(tl.float32)
        g2 = tl.load(gates_at + 2 * hidden, mask=inside, other=0.0).to(tl.float32)
        g3 = tl.load(gates_at + 3 * hidden, mask=inside, other=0.0).to(tl.float32)
    if CELL == LSTM:
        c = tl.load(cells + place, mask=inside, other=0.0)
        c_prev = tl.load(cells_before + place, mask=continued, other=0.0)
        c_prev += tl.load(c0 + place, mask=begun, other=0.0)
        dc = tl.load(carry + place, mask=inside, other=0.0)
        d0, d1, d2, d3, dc = cells_.lstm_backward(g0, g1, g2, g3, c, c_prev, dh, dc)
        tl.store(carry + place, dc, mask=inside)
        store_gates(grads_at, hidden, d0, d1, d2, d3, inside)
    elif CELL == GRU:
        h_prev = tl.load(out_before + place, mask=continued, other=0.0).to(tl.float32)
        h_prev += tl.load(h0 + place, mask=begun, other=0.0).to(tl.float32)
        d0, d1, d2, d3, past = cells_.gru_backward(g0, g1, g2, g3, h_prev, dh)
        tl.store(carry + place, past, mask=inside)
        store_gates(grads_at, hidden, d0, d1, d2, d3, inside)
    else:
        h = tl.load(out + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(grads_at, cells_.rnn_backward(h, dh, CELL), mask=inside)
