"""The whole loop over time in one launch, weights and state in registers.

For hidden sizes of one tile. Each program owns BLOCK_B rows of the batch, loads the recurrent
weights once, and keeps h and c to itself; memory sees only what a step takes and leaves. The
operands of the next step are on their way while a step is computed, because nothing hides a load's
latency from a program that walks through time alone.

The weights are tiles of BLOCK_P (the state's columns) by BLOCK_H (hidden units) for each gate.
Arguments: `tiles` and `streamed`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqkern.recurrent.triton.kernels import cells as cells_
from seqkern.recurrent.triton.kernels.cells import GRU, LSTM
from seqkern.recurrent.triton.kernels.streamed import CHANGING, step_at
from seqkern.recurrent.triton.kernels.tiles import dot, store_gates


@triton.jit
def load_gates(gates_at, hidden, inside, CELL: tl.constexpr):
    """Three gates of a GRU, four of an LSTM, one of an Elman cell; the rest are copies."""
    g0 = tl.load(gates_at, mask=inside, other=0.0)
    g1 = g0
    g2 = g0
    g3 = g0
    if CELL <= GRU:
        g1 = tl.load(gates_at + hidden, mask=inside, other=0.0)
        g2 = tl.load(gates_at + 2 * hidden, mask=inside, other=0.0)
    if CELL == LSTM:
        g3 = tl.load(gates_at + 3 * hidden, mask=inside, other=0.0)
    return g0, g1, g2, g3


@triton.jit
def biased(x, bias, units, hidden):
    """Read at each step: registers are scarcer than what the L1 gives."""
    return x.to(tl.float32) + tl.load(bias + units, mask=units < hidden, other=0.0)[None, :]


@triton.jit(do_not_specialize=CHANGING)
def forward_resident(
    gates, gates_stride, bias, h0, w_hh, w_hr, state, cells, cell_output, output, steps,
    batch: tl.int64, time: tl.int64, reverse: tl.int32, save: tl.int32, hidden, width,
    CELL: tl.constexpr, PROJECTED: tl.constexpr, RAGGED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_P: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (batch tiles,). `state`: the LSTM's c, in and out; a GRU's h in float32, in.
    `cell_output`, of a projected layer, is written with `save` only."""
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_B
    rows = first_row + tl.arange(0, BLOCK_B)
    units = tl.arange(0, BLOCK_H)
    columns = tl.arange(0, BLOCK_P)
    mine = (rows < batch)[:, None]
    unit = (units < hidden)[None, :]
    column = (columns < width)[None, :]
    place = rows[:, None] * hidden + units[None, :]
    storage: tl.constexpr = output.dtype.element_ty

    used = (columns < width)[:, None] & unit
    weights = w_hh + columns[:, None] + units[None, :] * width
    gate = hidden * width
    w0 = tl.load(weights, mask=used, other=0.0)
    if CELL <= GRU:
        w1 = tl.load(weights + gate, mask=used, other=0.0)
        w2 = tl.load(weights + 2 * gate, mask=used, other=0.0)
    if CELL == LSTM:
        w3 = tl.load(weights + 3 * gate, mask=used, other=0.0)
    if PROJECTED:
        w_hr_at = w_hr + units[:, None] + columns[None, :] * hidden
        projection = tl.load(w_hr_at, mask=(units < hidden)[:, None] & column, other=0.0)

    h0_at = h0 + rows[:, None] * width + columns[None, :]
    h = tl.load(h0_at, mask=mine & column, other=0.0).to(tl.float32)
    if CELL <= GRU:
        c = tl.load(state + place, mask=mine & unit, other=0.0)
    if CELL == GRU:
        h = c
    alive, now = step_at(steps, 0, batch, time, reverse, RAGGED)
    gates_at = gates + (now + rows)[:, None] * gates_stride + units[None, :]
    x0, x1, x2, x3 = load_gates(gates_at, hidden, (rows < alive)[:, None] & unit, CELL)
    for s in range(0, time):
        next_alive, next_now = step_at(steps, s + 1, batch, time, reverse, RAGGED)
        next_at = gates + (next_now + rows)[:, None] * gates_stride + units[None, :]
        n0, n1, n2, n3 = load_gates(next_at, hidden, (rows < next_alive)[:, None] & unit, CELL)

        present = (rows < alive)[:, None]
        inside = present & unit
        left = h.to(storage)
        p0 = dot(left, w0, biased(x0, bias, units, hidden), PRECISION, INTERPRETED)
        if CELL == LSTM:
            x1 = biased(x1, bias + hidden, units, hidden)
            p1 = dot(left, w1, x1, PRECISION, INTERPRETED)
            x2 = biased(x2, bias + 2 * hidden, units, hidden)
            p2 = dot(left, w2, x2, PRECISION, INTERPRETED)
            x3 = biased(x3, bias + 3 * hidden, units, hidden)
            p3 = dot(left, w3, x3, PRECISION, INTERPRETED)
            i, f, g, o, c_new, new = cells_.lstm(p0, p1, p2, p3, c)
            c = tl.where(present, c_new, c)
            if save:
                store_gates(gates_at, hidden, i, f, g, o, inside)
                tl.store(cells + now * hidden + place, c, mask=inside)
        elif CELL == GRU:
            x1 = biased(x1, bias + hidden, units, hidden)
            p1 = dot(left, w1, x1, PRECISION, INTERPRETED)
            x2 = biased(x2, bias + 2 * hidden, units, hidden)
            q = biased(tl.zeros_like(p0), bias + 3 * hidden, units, hidden)
            q = dot(left, w2, q, PRECISION, INTERPRETED)
            r, z, n, new = cells_.gru(p0, p1, x2, q, h)
            if save:
                store_gates(gates_at, hidden, r, z, n, q, inside)
        else:
            new = cells_.rnn(p0, CELL)
        if PROJECTED:
            m = new.to(storage)
            if save:
                tl.store(cell_output + now * hidden + place, m, mask=inside)
            new = dot(m, projection, tl.zeros_like(h), PRECISION, INTERPRETED)
        h = tl.where(present, new, h)
        out_at = output + (now + rows)[:, None] * width + columns[None, :]
        tl.store(out_at, h, mask=present & column)

        alive = next_alive
        now = next_now
        gates_at = next_at
        x0 = n0
        if CELL <= GRU:
            x1 = n1
            x2 = n2
        if CELL == LSTM:
            x3 = n3
    if CELL == LSTM:
        tl.store(state + place, c, mask=mine & unit)


@triton.jit
def backward_operands(
    gates, cells, output, c0, h0, grad_output, rows, alive, before, now, earlier, units, columns,
    hidden, width, CELL: tl.constexpr,
):  # fmt: skip
    """What a step of the backward reads: the activated gates, what the step made (c, or an Elman
    cell's h), what it came from (c or a GRU's h), and the gradient of its output."""
    inside = (rows < alive)[:, None] & (units < hidden)[None, :]
    place = rows[:, None] * hidden + units[None, :]
    wide = rows[:, None] * width + columns[None, :]
    present = (rows < alive)[:, None] & (columns < width)[None, :]
    dy = tl.load(grad_output + now * width + wide, mask=present, other=0.0)
    continued = inside & (rows < before)[:, None]
    begun = inside & (rows >= before)[:, None]
    if CELL == LSTM:
        made = tl.load(cells + now * hidden + place, mask=inside, other=0.0)
        source = tl.load(cells + earlier * hidden + place, mask=continued, other=0.0)
        source += tl.load(c0 + place, mask=begun, other=0.0)
    elif CELL == GRU:
        source = tl.load(output + earlier * hidden + place, mask=continued, other=0.0)
        source += tl.load(h0 + place, mask=begun, other=0.0)
        made = source
    else:
        made = tl.load(output + now * hidden + place, mask=inside, other=0.0)
        source = made
    g0 = made
    g1 = made
    g2 = made
    g3 = made
    if CELL <= GRU:
        gates_at = gates + now * (4 * hidden) + rows[:, None] * (4 * hidden) + units[None, :]
        g0, g1, g2, g3 = load_gates(gates_at, hidden, inside, LSTM)
    return g0, g1, g2, g3, made, source, dy


@triton.jit(do_not_specialize=CHANGING)
def backward_resident(
    gates, cells, output, c0, h0, grad_output, grad_h_n, w_hh, w_hr, grad_gates, grad_stride,
    carry, grad_h0, grad_projected, steps,
    batch: tl.int64, time: tl.int64, reverse: tl.int32, hidden, width,
    CELL: tl.constexpr, PROJECTED: tl.constexpr, RAGGED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_P: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (batch tiles,). `grad_h0` (B, P) float32; `carry` of the LSTM only."""
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_B
    rows = first_row + tl.arange(0, BLOCK_B)
    units = tl.arange(0, BLOCK_H)
    columns = tl.arange(0, BLOCK_P)
    mine = (rows < batch)[:, None]
    unit = (units < hidden)[None, :]
    column = (columns < width)[None, :]
    place = rows[:, None] * hidden + units[None, :]
    wide = rows[:, None] * width + columns[None, :]
    storage: tl.constexpr = output.dtype.element_ty

    used = (units < hidden)[:, None] & column
    weights = w_hh + units[:, None] * width + columns[None, :]
    gate = hidden * width
    w0 = tl.load(weights, mask=used, other=0.0)
    if CELL <= GRU:
        w1 = tl.load(weights + gate, mask=used, other=0.0)
        w2 = tl.load(weights + 2 * gate, mask=used, other=0.0)
    if CELL == LSTM:
        w3 = tl.load(weights + 3 * gate, mask=used, other=0.0)
        dc = tl.load(carry + place, mask=mine & unit, other=0.0)
    if PROJECTED:
        w_hr_at = w_hr + columns[:, None] * hidden + units[None, :]
        projection = tl.load(w_hr_at, mask=(columns < width)[:, None] & unit, other=0.0)

    # The gradient that reaches a row's state from later steps; rows that end early wait with
    # that of h_n.
    back = tl.load(grad_h_n + wide, mask=mine & column, other=0.0).to(tl.float32)
    alive, now = step_at(steps, time - 1, batch, time, reverse, RAGGED)
    before, earlier = step_at(steps, time - 2, batch, time, reverse, RAGGED)
    g0, g1, g2, g3, made, source, dy = backward_operands(
        gates, cells, output, c0, h0, grad_output, rows, alive, before, now, earlier, units,
        columns, hidden, width, CELL,
    )  # fmt: skip
    for s in range(0, time):
        first, first_now = step_at(
            steps, tl.maximum(time - 3 - s, -1), batch, time, reverse, RAGGED
        )
        n0, n1, n2, n3, n_made, n_source, n_dy = backward_operands(
            gates, cells, output, c0, h0, grad_output, rows, before, first, earlier, first_now,
            units, columns, hidden, width, CELL,
        )  # fmt: skip

        present = (rows < alive)[:, None]
        inside = present & unit
        grads_at = grad_gates + (now + rows)[:, None] * grad_stride + units[None, :]
        dh = back + dy.to(tl.float32)
        if PROJECTED:
            projected = dh.to(storage)
            tl.store(grad_projected + now * width + wide, projected, mask=present & column)
            dh = dot(projected, projection, tl.zeros_like(dc), PRECISION, INTERPRETED)
        if CELL == LSTM:
            d0, d1, d2, d3, dc_new = cells_.lstm_backward(
                g0.to(tl.float32), g1.to(tl.float32), g2.to(tl.float32), g3.to(tl.float32),
                made, source, dh, dc,
            )  # fmt: skip
            dc = tl.where(present, dc_new, dc)
            store_gates(grads_at, hidden, d0, d1, d2, d3, inside)
            new = dot(d0.to(storage), w0, tl.zeros_like(back), PRECISION, INTERPRETED)
            new = dot(d1.to(storage), w1, new, PRECISION, INTERPRETED)
            new = dot(d2.to(storage), w2, new, PRECISION, INTERPRETED)
            new = dot(d3.to(storage), w3, new, PRECISION, INTERPRETED)
        elif CELL == GRU:
            d0, d1, d2, d3, past = cells_.gru_backward(
                g0.to(tl.float32), g1.to(tl.float32), g2.to(tl.float32), g3.to(tl.float32),
                source.to(tl.float32), dh,
            )  # fmt: skip
            store_gates(grads_at, hidden, d0, d1, d2, d3, inside)
            new = dot(d1.to(storage), w0, past, PRECISION, INTERPRETED)
            new = dot(d2.to(storage), w1, new, PRECISION, INTERPRETED)
            new = dot(d3.to(storage), w2, new, PRECISION, INTERPRETED)
        else:
            d0 = cells_.rnn_backward(made.to(tl.float32), dh, CELL)
            tl.store(grads_at, d0, mask=inside)
            new = dot(d0.to(storage), w0, tl.zeros_like(back), PRECISION, INTERPRETED)
        back = tl.where(present, new, back)

        alive = before
        now = earlier
        before = first
        earlier = first_now
        dy = n_dy
        made = n_made
        if CELL <= GRU:
            g0 = n0
            g1 = n1
            g2 = n2
            g3 = n3
            source = n_source
    tl.store(grad_h0 + wide, back, mask=mine & column)
    if CELL == LSTM:
        tl.store(carry + place, dc, mask=mine & unit)
