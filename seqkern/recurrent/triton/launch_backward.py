"""Launches of the backward loop over time."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from seqkern.recurrent.triton import loops
from seqkern.recurrent.triton.kernels.grouped import backward_grouped
from seqkern.recurrent.triton.kernels.resident import backward_resident
from seqkern.recurrent.triton.kernels.steps import (
    backward_projected,
    backward_step,
    backward_unprojected,
)
from seqkern.recurrent.triton.kernels.streamed import backward_streamed
from seqkern.recurrent.triton.loops import CELLS, Call


class BackwardArguments(NamedTuple):
    """See `kernels.tiles` for all of them. What a cell does not have is any tensor."""

    gates: Tensor  # (rows, 4 hidden)
    cells: Tensor  # float32 (rows, hidden)
    c0: Tensor  # float32 (batch, hidden)
    grad_output: Tensor  # (rows, width)
    grad_h_n: Tensor  # (batch, width)
    carry: Tensor  # float32 (batch, hidden): the gradient of c_n becomes that of c_0
    grad_gates: Tensor  # (rows, 4 hidden or hidden), to be filled
    grad_projected: Tensor | None  # (rows, width), to be filled


def run(call: Call, arguments: BackwardArguments) -> Tensor:
    """Fills grad_gates, carry and grad_projected; returns the gradient of h_0."""
    ways = {
        "resident": _resident, "grouped": _grouped, "streamed": _streamed, "steps": _steps
    }  # fmt: skip
    return ways[loops.preferred(call)](call, arguments)


def _resident(call: Call, a: BackwardArguments) -> Tensor:
    steps = call.steps
    projected = call.w_hr is not None
    grad_h0 = torch.empty_like(call.h0, dtype=torch.float32)
    backward_resident[(loops.groups(call),)](
        a.gates, a.cells, call.output, a.c0, call.h0, a.grad_output, a.grad_h_n, call.w_hh,
        call.w_hr if projected else call.w_hh, a.grad_gates, a.grad_gates.stride(0), a.carry,
        grad_h0, a.grad_projected if projected else a.grad_gates,
        steps.on_device(call.output.device) if steps.ragged else a.carry,
        steps.batch, len(steps), int(steps.reverse), call.hidden, call.width,
        CELL=CELLS[call.kind], PROJECTED=projected, RAGGED=steps.ragged,
        **loops.resident_config(call),
    )  # fmt: skip
    return grad_h0.to(call.h0.dtype)


def _grouped(call: Call, a: BackwardArguments) -> Tensor:
    config = loops.grouped_config(call)
    grid = loops.members(call, config["BLOCK_U"]), loops.groups(call)
    _through_memory(backward_grouped, call, a, config, grid, (loops.nobody_arrived(call),))
    return _first_state(call, a)


def _streamed(call: Call, a: BackwardArguments) -> Tensor:
    config = loops.streamed_config(call)
    _through_memory(backward_streamed, call, a, config, (loops.groups(call),))
    return _first_state(call, a)


def _through_memory(  # type: ignore
    kernel, call: Call, a: BackwardArguments, config: dict, grid: tuple, also: tuple = ()
) -> None:
    """A launch that leaves the gradient of the first state to the host. `also`: what the kernel
    takes after the steps."""
    steps = call.steps
    projected = call.w_hr is not None
    kernel[grid](
        a.gates, a.cells, call.output, a.c0, call.h0, a.grad_output, a.grad_h_n, call.w_hh,
        call.w_hr if projected else call.w_hh, a.grad_gates, a.grad_gates.stride(0), a.carry,
        a.grad_projected if projected else a.grad_gates,
        steps.on_device(call.output.device) if steps.ragged else a.carry, *also,
        steps.batch, len(steps), int(steps.reverse), call.hidden, call.width,
        CELL=CELLS[call.kind], PROJECTED=projected, RAGGED=steps.ragged, **config,
    )  # fmt: skip


def _steps(call: Call, a: BackwardArguments) -> Tensor:
    config = loops.step_config(call)
    hidden, width = call.hidden, call.width
    unit_tiles = triton.cdiv(hidden, config["BLOCK_U"])
    column_tiles = triton.cdiv(width, config["BLOCK_U"])
    stride = a.grad_gates.stride(0)
    for step in reversed(call.steps):
        batch_tiles = triton.cdiv(step.alive, config["BLOCK_B"])
        if call.w_hr is None:
            backward_step[(unit_tiles, batch_tiles)](
                a.gates, a.cells, call.output, a.c0, call.h0, a.grad_output, a.grad_h_n, call.w_hh,
                a.grad_gates, stride, a.carry, *step, hidden, CELL=CELLS[call.kind], **config,
            )  # fmt: skip
        else:
            backward_projected[(column_tiles, batch_tiles)](
                a.grad_output, a.grad_h_n, call.w_hh, a.grad_gates, stride, a.grad_projected,
                step.now, step.later, step.alive, step.after, hidden, width, **config,
            )  # fmt: skip
            backward_unprojected[(unit_tiles, batch_tiles)](
                a.gates, a.cells, a.c0, a.grad_projected, call.w_hr, a.grad_gates, stride, a.carry,
                step.now, step.earlier, step.alive, step.before, hidden, width, **config,
            )  # fmt: skip
    return _first_state(call, a)


def _first_state(call: Call, a: BackwardArguments) -> Tensor:
    """What the first step of each sequence leaves for its initial state."""
    rows = call.w_hh.shape[0]
    grads = call.steps.first_rows(a.grad_gates)
    through = torch.mm(grads[:, grads.shape[1] - rows :], call.w_hh)
    return (through + a.carry).to(call.h0.dtype) if call.kind == "gru" else through
