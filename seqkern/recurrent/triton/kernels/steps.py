"""One launch for each step: product, gates and state in one kernel, spread over rows and units.

For hidden sizes whose weights one program would read too slowly. The host walks through time; it
knows all batch sizes beforehand and waits for nothing, so a CUDA graph can hold the whole loop.
A step is one `forward_step`, which `project` follows where there is a recurrent projection;
backwards one `backward_step`, or `backward_projected` and `backward_unprojected`.

Row numbers of a packed sequence change from step to step and must not make a new kernel, so
integers that depend on batch or time are not specialised. What the arguments mean:
`tiles`.
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

# `now`, `earlier` and `later`: the first row of the step, of the one before it and the one after.
_CHANGING = ["now", "earlier", "later", "alive", "before", "after", "save", "out_row", "left_row"]


@triton.jit
def _rows(BLOCK_B: tl.constexpr):
    return tl.program_id(1).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)


@triton.jit(do_not_specialize=_CHANGING)
def forward_step(
    gates, gates_stride, bias, h0, w_hh, state, cells, out, output,
    now: tl.int64, earlier: tl.int64, out_row: tl.int64, alive: tl.int64, before: tl.int64,
    hidden, width, save: tl.int32,
    CELL: tl.constexpr, JOINING: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (unit tiles, batch tiles). `out_row`: the row of `out` that takes the first row."""
    forward_tile(
        gates + now * gates_stride, gates_stride, bias, output + earlier * width, h0, w_hh, state,
        cells + now * hidden, out + out_row * hidden,
        _rows(BLOCK_B), alive, before, tl.program_id(0) * BLOCK_U, hidden, width, save,
        CELL, JOINING, BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
    )  # fmt: skip


@triton.jit(do_not_specialize=_CHANGING)
def project(
    cell_output, w_hr, output, left_row: tl.int64, now: tl.int64, alive: tl.int64, hidden, width,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of the state's columns, batch tiles). `left_row`: where `cell_output` has the
    first row."""
    rows = _rows(BLOCK_B)
    first = tl.program_id(0) * BLOCK_U
    total = product(
        cell_output + left_row * hidden, hidden, w_hr, 1, hidden, rows, rows < alive,
        first + tl.arange(0, BLOCK_U), width, hidden,
        BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
    )  # fmt: skip
    store_tile(output + now * width, total, rows, alive, first, width, BLOCK_U)


@triton.jit(do_not_specialize=_CHANGING)
def backward_step(
    gates, cells, output, c0, h0, grad_output, grad_h_n, w_hh, grad_gates, grad_stride, carry,
    now: tl.int64, earlier: tl.int64, later: tl.int64,
    alive: tl.int64, before: tl.int64, after: tl.int64, hidden,
    CELL: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (unit tiles, batch tiles)."""
    rows = _rows(BLOCK_B)
    first = tl.program_id(0) * BLOCK_U
    dh = state_gradient(
        grad_output + now * hidden, grad_h_n, grad_gates + later * grad_stride, grad_stride, w_hh,
        carry, rows, alive, after, first, hidden, hidden,
        CELL, BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
    )  # fmt: skip
    backward_cell(
        dh, gates + now * 4 * hidden, cells + now * hidden, output + now * hidden,
        cells + earlier * hidden, c0, output + earlier * hidden, h0,
        grad_gates + now * grad_stride, grad_stride, carry, rows, alive, before, first, hidden,
        CELL, BLOCK_U,
    )  # fmt: skip


@triton.jit(do_not_specialize=_CHANGING)
def backward_projected(
    grad_output, grad_h_n, w_hh, grad_gates, grad_stride, grad_projected,
    now: tl.int64, later: tl.int64, alive: tl.int64, after: tl.int64, hidden, width,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of the state's columns, batch tiles): the gradient of the projected state."""
    rows = _rows(BLOCK_B)
    first = tl.program_id(0) * BLOCK_U
    dh = state_gradient(
        grad_output + now * width, grad_h_n, grad_gates + later * grad_stride, grad_stride, w_hh,
        grad_h_n, rows, alive, after, first, hidden, width,
        LSTM, BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
    )  # fmt: skip
    store_tile(grad_projected + now * width, dh, rows, alive, first, width, BLOCK_U)


@triton.jit(do_not_specialize=_CHANGING)
def backward_unprojected(
    gates, cells, c0, grad_projected, w_hr, grad_gates, grad_stride, carry,
    now: tl.int64, earlier: tl.int64, alive: tl.int64, before: tl.int64, hidden, width,
    BLOCK_B: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Grid (unit tiles, batch tiles): from there to the gradients of the gates."""
    rows = _rows(BLOCK_B)
    first = tl.program_id(0) * BLOCK_U
    dm = product(
        grad_projected + now * width, width, w_hr, hidden, 1, rows, rows < alive,
        first + tl.arange(0, BLOCK_U), hidden, width,
        BLOCK_B, BLOCK_U, BLOCK_K, PRECISION, INTERPRETED,
    )  # fmt: skip
    backward_cell(
        dm, gates + now * 4 * hidden, cells + now * hidden, c0, cells + earlier * hidden, c0, c0,
        c0, grad_gates + now * grad_stride, grad_stride, carry, rows, alive, before, first, hidden,
        LSTM, BLOCK_U,
    )  # fmt: skip
