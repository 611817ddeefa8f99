"""The whole loop over time in one launch, the hidden units shared by a group of programs.

For weights that one program would read too slowly, and batches so small that most of a GPU would
stand idle otherwise. The group of a batch tile are `members` programs; each owns BLOCK_U hidden
units, keeps their recurrent weights (all gates) and their state to itself for all steps, and gives
the others what it makes of a step through memory, which means through the L2.
After each step the group meets: `arrive`, then `meet`. All programs of a launch must run at once,
so it has to be a cooperative one; a program waits for its own group only.

A product's depth is cut into CHUNKS, one for each warp, and the warps' sums are added up at the
end: so no warp reads what another one reads. Tiles of weights are (CHUNKS, depth of a chunk,
BLOCK_U), tiles of states (CHUNKS, BLOCK_B, depth of a chunk). The compiler keeps the weights in
shared memory for all steps.

`arrived`, int64, one for each group ARRIVED_STRIDE apart and zero at the start, counts arrivals: 64
bits do not overflow. What a step gives to others is written before `arrive`, what it only leaves
for the backward pass after it, and the next step's operands are asked for before `meet`, so that
the wait hides what can be hidden. Nothing written by others is read from the L1.
Other arguments: `tiles`, `streamed` and `resident`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqkern.recurrent.triton.kernels import cells as cells_
from seqkern.recurrent.triton.kernels.cells import GRU, LSTM
from seqkern.recurrent.triton.kernels.resident import backward_operands, biased, load_gates
from seqkern.recurrent.triton.kernels.streamed import CHANGING, step_at
from seqkern.recurrent.triton.kernels.tiles import dot, store_gates

# Between the counters of two groups: a cache line.
ARRIVED_STRIDE = tl.constexpr(16)


@triton.jit
def arrive(arrived):
    """Says that all threads of this program have written what they give to the group."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release", scope="gpu")


@triton.jit
def meet(arrived, expected):
    """Waits until so many arrivals are counted; what came before them is visible then."""
    while tl.atomic_add(arrived, 0, sem="acquire", scope="gpu") < expected:
        pass
    tl.debug_barrier()


@triton.jit
def depth_of(CHUNKS: tl.constexpr, DEPTH: tl.constexpr):
    """Where in a product's depth each element of each chunk lies: (CHUNKS, DEPTH / CHUNKS)."""
    each: tl.constexpr = DEPTH // CHUNKS
    return tl.arange(0, CHUNKS)[:, None] * each + tl.arange(0, each)[None, :]


@triton.jit
def load_weights(weights, inner, inner_stride, depth, columns, column_stride, count):
    used = (inner < depth)[:, :, None] & (columns < count)[None, None, :]
    at = weights + inner[:, :, None] * inner_stride + columns[None, None, :] * column_stride
    return tl.load(at, mask=used, other=0.0)


@triton.jit
def group_step_at(
    steps, s, batch, time, reverse, first_row, RAGGED: tl.constexpr, BLOCK_B: tl.constexpr
):
    """`step_at`, the rows alive counted within the group."""
    alive, first = step_at(steps, s, batch, time, reverse, RAGGED)
    return tl.minimum(tl.maximum(alive - first_row, 0), BLOCK_B).to(tl.int32), first


@triton.jit
def load_given(given, stride, rows, present, inner, depth):
    """Rows of `stride` elements that the group gave. `given` points to the first one, or to where
    it would be for each of them."""
    used = present[None, :, None] & (inner < depth)[:, None, :]
    at = given + rows[None, :, None] * stride + inner[:, None, :]
    return tl.load(at, mask=used, other=0.0, cache_modifier=".cg")


@triton.jit
def two_sums(a, b):
    """Of two products over their chunks, at once: the warps meet for each sum."""
    return tl.split(tl.sum(tl.join(a, b), 0))


@triton.jit(do_not_specialize=CHANGING)
def forward_grouped(
    gates, gates_stride, bias, h0, w_hh, w_hr, state, cells, cell_output, output, steps, arrived,
    batch: tl.int64, time: tl.int64, reverse: tl.int32, save: tl.int32, hidden, width,
    CELL: tl.constexpr, PROJECTED: tl.constexpr, RAGGED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_P: tl.constexpr,
    CHUNKS: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (members, batch tiles). `state` as in `forward_resident`, `cell_output` as in
    `forward_streamed`."""
    group = tl.program_id(1).to(tl.int64)
    arrived += group * ARRIVED_STRIDE
    members = tl.num_programs(0)
    # Everything counts rows from the group's first one, so that 32 bits are enough in a tile.
    first_row = group * BLOCK_B
    gates += first_row * gates_stride
    h0 += first_row * width
    state += first_row * hidden
    cells += first_row * hidden
    cell_output += first_row * hidden
    output += first_row * width
    rows = tl.arange(0, BLOCK_B)
    units = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    unit = (units < hidden)[None, :]
    place = rows[:, None] * hidden + units[None, :]
    mine = (rows < batch - first_row)[:, None] & unit
    across = depth_of(CHUNKS, BLOCK_P)

    gate = tl.cast(hidden, tl.int64) * width
    w0 = load_weights(w_hh, across, 1, width, units, width, hidden)
    if CELL <= GRU:
        w1 = load_weights(w_hh + gate, across, 1, width, units, width, hidden)
        w2 = load_weights(w_hh + 2 * gate, across, 1, width, units, width, hidden)
        c = tl.load(state + place, mask=mine, other=0.0)
    if CELL == LSTM:
        w3 = load_weights(w_hh + 3 * gate, across, 1, width, units, width, hidden)
    if PROJECTED:
        deep = depth_of(CHUNKS, BLOCK_H)
        w4 = load_weights(w_hr, deep, 1, hidden, units, hidden, width)

    before, earlier = group_step_at(steps, -1, batch, time, reverse, first_row, RAGGED, BLOCK_B)
    alive, now = group_step_at(steps, 0, batch, time, reverse, first_row, RAGGED, BLOCK_B)
    gates_at = gates + now * gates_stride + rows[:, None] * gates_stride + units[None, :]
    x0, x1, x2, x3 = load_gates(gates_at, hidden, (rows < alive)[:, None] & unit, CELL)
    expected = tl.cast(0, tl.int64)
    for s in range(0, time):
        present = (rows < alive)[:, None]
        inside = present & unit
        h_at = tl.where(rows < before, output + earlier * width, h0)[None, :, None]
        h = load_given(h_at, width, rows, rows < alive, across, width)

        zero = tl.zeros([CHUNKS, BLOCK_B, BLOCK_U], tl.float32)
        p0 = dot(h, w0, zero, PRECISION, INTERPRETED)
        if CELL <= GRU:
            p1 = dot(h, w1, zero, PRECISION, INTERPRETED)
            p0, p1 = two_sums(p0, p1)
            p0 += biased(x0, bias, units, hidden)
            p1 += biased(x1, bias + hidden, units, hidden)
            x2 = biased(x2, bias + 2 * hidden, units, hidden)
            p2 = dot(h, w2, zero, PRECISION, INTERPRETED)
        if CELL == LSTM:
            p3 = dot(h, w3, zero, PRECISION, INTERPRETED)
            p2, p3 = two_sums(p2, p3)
            x3 = biased(x3, bias + 3 * hidden, units, hidden)
            i, f, g, o, c_new, new = cells_.lstm(p0, p1, p2 + x2, p3 + x3, c)
            c = tl.where(present, c_new, c)
        elif CELL == GRU:
            q = biased(tl.sum(p2, 0), bias + 3 * hidden, units, hidden)
            r, z, n, new = cells_.gru(p0, p1, x2, q, c)
            c = tl.where(present, new, c)
        else:
            new = cells_.rnn(tl.sum(p0, 0) + biased(x0, bias, units, hidden), CELL)

        if PROJECTED:
            made = cell_output + tl.where(save != 0, now * hidden, 0)
            tl.store(made + place, new, mask=inside)
            arrive(arrived)
            expected += members
            meet(arrived, expected)
            m = load_given(made, hidden, rows, rows < alive, deep, hidden)
            new = tl.sum(dot(m, w4, zero, PRECISION, INTERPRETED), 0)
        out_at = output + now * width + rows[:, None] * width + units[None, :]
        tl.store(out_at, new, mask=present & (units < width)[None, :])
        arrive(arrived)
        expected += members

        if save:
            if CELL == LSTM:
                store_gates(gates_at, hidden, i, f, g, o, inside)
                tl.store(cells + now * hidden + place, c, mask=inside)
            elif CELL == GRU:
                store_gates(gates_at, hidden, r, z, n, q, inside)
        before = alive
        earlier = now
        alive, now = group_step_at(steps, s + 1, batch, time, reverse, first_row, RAGGED, BLOCK_B)
        gates_at = gates + now * gates_stride + rows[:, None] * gates_stride + units[None, :]
        x0, x1, x2, x3 = load_gates(gates_at, hidden, (rows < alive)[:, None] & unit, CELL)
        meet(arrived, expected)
    if CELL == LSTM:
        tl.store(state + place, c, mask=mine)


@triton.jit(do_not_specialize=CHANGING)
def backward_grouped(
    gates, cells, output, c0, h0, grad_output, grad_h_n, w_hh, w_hr, grad_gates, grad_stride,
    carry, grad_projected, steps, arrived,
    batch: tl.int64, time: tl.int64, reverse: tl.int32, hidden, width,
    CELL: tl.constexpr, PROJECTED: tl.constexpr, RAGGED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_P: tl.constexpr,
    CHUNKS: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (members, batch tiles)."""
    group = tl.program_id(1).to(tl.int64)
    arrived += group * ARRIVED_STRIDE
    members = tl.num_programs(0)
    # As in `forward_grouped`.
    first_row = group * BLOCK_B
    gates += first_row * 4 * hidden
    cells += first_row * hidden
    output += first_row * width
    c0 += first_row * hidden
    h0 += first_row * width
    grad_output += first_row * width
    grad_h_n += first_row * width
    grad_gates += first_row * grad_stride
    carry += first_row * hidden
    grad_projected += first_row * width
    rows = tl.arange(0, BLOCK_B)
    # Of the cell's output and of the state, which are the same where nothing is projected.
    units = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    unit = (units < hidden)[None, :]
    column = (units < width)[None, :]
    place = rows[:, None] * hidden + units[None, :]
    wide = rows[:, None] * width + units[None, :]
    mine = (rows < batch - first_row)[:, None]
    deep = depth_of(CHUNKS, BLOCK_H)

    gate = tl.cast(hidden, tl.int64) * width
    w0 = load_weights(w_hh, deep, width, hidden, units, 1, width)
    if CELL <= GRU:
        w1 = load_weights(w_hh + gate, deep, width, hidden, units, 1, width)
        w2 = load_weights(w_hh + 2 * gate, deep, width, hidden, units, 1, width)
    if CELL == LSTM:
        w3 = load_weights(w_hh + 3 * gate, deep, width, hidden, units, 1, width)
        dc = tl.load(carry + place, mask=mine & unit, other=0.0)
    if PROJECTED:
        across = depth_of(CHUNKS, BLOCK_P)
        w4 = load_weights(w_hr, across, hidden, width, units, 1, hidden)

    ending = tl.load(grad_h_n + wide, mask=mine & column, other=0.0).to(tl.float32)
    past = tl.zeros_like(ending)
    after, later = group_step_at(steps, time, batch, time, reverse, first_row, RAGGED, BLOCK_B)
    alive, now = group_step_at(steps, time - 1, batch, time, reverse, first_row, RAGGED, BLOCK_B)
    before, earlier = group_step_at(
        steps, time - 2, batch, time, reverse, first_row, RAGGED, BLOCK_B
    )
    g0, g1, g2, g3, made, source, dy = backward_operands(
        gates, cells, output, c0, h0, grad_output, rows, alive, before, now, earlier, units,
        units, hidden, width, CELL,
    )  # fmt: skip
    expected = tl.cast(0, tl.int64)
    for s in range(0, time):
        present = (rows < alive)[:, None]
        inside = present & unit
        going_on = rows < tl.minimum(alive, after)
        given = grad_gates + later * grad_stride
        if CELL == GRU:
            given += hidden  # r, z and q are those of the state
        d = load_given(given, grad_stride, rows, going_on, deep, hidden)
        zero = tl.zeros([CHUNKS, BLOCK_B, BLOCK_U], tl.float32)
        back = dot(d, w0, zero, PRECISION, INTERPRETED)
        if CELL <= GRU:
            d = load_given(given + hidden, grad_stride, rows, going_on, deep, hidden)
            back = dot(d, w1, back, PRECISION, INTERPRETED)
            d = load_given(given + 2 * hidden, grad_stride, rows, going_on, deep, hidden)
            back = dot(d, w2, back, PRECISION, INTERPRETED)
        if CELL == LSTM:
            tl.debug_barrier()  # all gates at once would not fit into registers
            d = load_given(given + 3 * hidden, grad_stride, rows, going_on, deep, hidden)
            back = dot(d, w3, back, PRECISION, INTERPRETED)
        dh = dy.to(tl.float32) + tl.where(going_on[:, None], tl.sum(back, 0) + past, ending)

        if PROJECTED:
            projected = grad_projected + now * width
            tl.store(projected + wide, dh, mask=present & column)
            arrive(arrived)
            expected += members
            meet(arrived, expected)
            dh = load_given(projected, width, rows, rows < alive, across, width)
            dh = tl.sum(dot(dh, w4, zero, PRECISION, INTERPRETED), 0)
        grads_at = grad_gates + now * grad_stride + rows[:, None] * grad_stride + units[None, :]
        if CELL == LSTM:
            d0, d1, d2, d3, dc_new = cells_.lstm_backward(
                g0.to(tl.float32), g1.to(tl.float32), g2.to(tl.float32), g3.to(tl.float32),
                made, source, dh, dc,
            )  # fmt: skip
            dc = tl.where(present, dc_new, dc)
            store_gates(grads_at, hidden, d0, d1, d2, d3, inside)
        elif CELL == GRU:
            d0, d1, d2, d3, past_new = cells_.gru_backward(
                g0.to(tl.float32), g1.to(tl.float32), g2.to(tl.float32), g3.to(tl.float32),
                source.to(tl.float32), dh,
            )  # fmt: skip
            past = tl.where(present, past_new, past)
            store_gates(grads_at, hidden, d0, d1, d2, d3, inside)
        else:
            tl.store(grads_at, cells_.rnn_backward(made.to(tl.float32), dh, CELL), mask=inside)
        arrive(arrived)
        expected += members

        after = alive
        later = now
        alive = before
        now = earlier
        before, earlier = group_step_at(
            steps, tl.maximum(time - 3 - s, -1), batch, time, reverse, first_row, RAGGED, BLOCK_B
        )
        g0, g1, g2, g3, made, source, dy = backward_operands(
            gates, cells, output, c0, h0, grad_output, rows, alive, before, now, earlier, units,
            units, hidden, width, CELL,
        )  # fmt: skip
        meet(arrived, expected)
    if CELL == LSTM:
        tl.store(carry + place, dc, mask=mine & unit)
    elif CELL == GRU:
        tl.store(carry + place, past, mask=mine & unit)
