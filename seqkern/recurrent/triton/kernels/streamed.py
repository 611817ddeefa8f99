"""The whole loop over time in one launch, the weights read again at each step.

Each program owns BLOCK_B rows of the batch, so that no program waits for another, and walks
through steps and tiles of units. The state goes through memory (which means: through the caches);
a barrier between the program's own threads stands wherever one tile reads what others have
written. Triton's software pipelining reaches no further than the loop inside of a product, so no
load is moved across a barrier.

What the arguments mean: `tiles`. `steps` of a packed sequence: for each step in the
order of processing the number of rows alive, then the first row of each, both with a step of no
rows in front and behind; a dense batch needs none.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqkern.recurrent.triton.kernels.cells import LSTM
from seqkern.recurrent.triton.kernels.tiles import (
    backward_cell,
    forward_tile,
    product,
    state_gradient,
    store_tile,
)

CHANGING = ["batch", "time", "reverse", "save", "hidden_step"]


@triton.jit
def step_at(steps, s, batch, time, reverse, RAGGED: tl.constexpr):
    """The rows alive at step s of the order of processing, -1 <= s <= time, and its first row."""
    if RAGGED:
        alive = tl.load(steps + s + 1)
        first = tl.load(steps + time + 2 + s + 1)
    else:
        alive = tl.where((s >= 0) & (s < time), batch, 0)
        first = tl.where(reverse != 0, time - 1 - s, s) * batch
    return alive, first


@triton.jit(do_not_specialize=CHANGING)
def forward_streamed(
    gates, gates_stride, bias, h0, w_hh, w_hr, state, cells, cell_output, output, steps,
    batch: tl.int64, time: tl.int64, reverse: tl.int32, save: tl.int32, hidden, width,
    CELL: tl.constexpr, PROJECTED: tl.constexpr, RAGGED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (batch tiles,). PROJECTED: `cell_output` takes the cell's output, of every step with
    `save`, else of the last; without, `output` does."""
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_B
    rows = first_row + tl.arange(0, BLOCK_B)
    before, earlier = step_at(steps, -1, batch, time, reverse, RAGGED)
    for s in range(0, time):
        alive, now = step_at(steps, s, batch, time, reverse, RAGGED)
        if alive > first_row:
            if PROJECTED:
                out = cell_output + tl.where(save != 0, now * hidden, 0)
            else:
                out = output + now * hidden
            for first in range(0, hidden, BLOCK_U):
                forward_tile(
                    gates + now * gates_stride, gates_stride, bias, output + earlier * width, h0,
                    w_hh, state, cells + now * hidden, out, rows, alive, before, first, hidden,
                    width, save,
                    CELL, RAGGED, BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
                )  # fmt: skip
            tl.debug_barrier()
            if PROJECTED:
                for first in range(0, width, BLOCK_U):
                    h = product(
                        out, hidden, w_hr, 1, hidden, rows, rows < alive,
                        first + tl.arange(0, BLOCK_U), width, hidden,
                        BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
                    )  # fmt: skip
                    store_tile(output + now * width, h, rows, alive, first, width, BLOCK_U)
                tl.debug_barrier()
        before = alive
        earlier = now


@triton.jit(do_not_specialize=CHANGING)
def backward_streamed(
    gates, cells, output, c0, h0, grad_output, grad_h_n, w_hh, w_hr, grad_gates, grad_stride,
    carry, grad_projected, steps, batch: tl.int64, time: tl.int64, reverse: tl.int32, hidden, width,
    CELL: tl.constexpr, PROJECTED: tl.constexpr, RAGGED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (batch tiles,)."""
    first_row = tl.program_id(0).to(tl.int64) * BLOCK_B
    rows = first_row + tl.arange(0, BLOCK_B)
    after, later = step_at(steps, time, batch, time, reverse, RAGGED)
    alive, now = step_at(steps, time - 1, batch, time, reverse, RAGGED)
    for s in range(0, time):
        before, earlier = step_at(steps, time - 2 - s, batch, time, reverse, RAGGED)
        if alive > first_row:
            for first in range(0, width, BLOCK_U):
                dh = state_gradient(
                    grad_output + now * width, grad_h_n, grad_gates + later * grad_stride,
                    grad_stride, w_hh, carry, rows, alive, after, first, hidden, width,
                    CELL, BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
                )  # fmt: skip
                if PROJECTED:
                    store_tile(grad_projected + now * width, dh, rows, alive, first, width, BLOCK_U)
                else:
                    backward_cell(
                        dh, gates + now * 4 * hidden, cells + now * hidden, output + now * hidden,
                        cells + earlier * hidden, c0, output + earlier * hidden, h0,
                        grad_gates + now * grad_stride, grad_stride, carry, rows, alive, before,
                        first, hidden, CELL, BLOCK_U,
                    )  # fmt: skip
            tl.debug_barrier()
            if PROJECTED:
                for first in range(0, hidden, BLOCK_U):
                    dm = product(
                        grad_projected + now * width, width, w_hr, hidden, 1, rows, rows < alive,
                        first + tl.arange(0, BLOCK_U), hidden, width,
                        BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
                    )  # fmt: skip
                    backward_cell(
                        dm, gates + now * 4 * hidden, cells + now * hidden, c0,
                        cells + earlier * hidden, c0, c0, c0, grad_gates + now * grad_stride,
                        grad_stride, carry, rows, alive, before, first, hidden, LSTM, BLOCK_U,
                    )  # fmt: skip
                tl.debug_barrier()
        after = alive
        later = now
        alive = before
        now = earlier
