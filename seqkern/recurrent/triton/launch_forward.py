"""Launches of the forward loop over time."""

from __future__ import annotations

from typing import NamedTuple

import triton
from torch import Tensor

from seqkern.recurrent.triton import loops
from seqkern.recurrent.triton.kernels.grouped import forward_grouped
from seqkern.recurrent.triton.kernels.resident import forward_resident
from seqkern.recurrent.triton.kernels.steps import forward_step, project
from seqkern.recurrent.triton.kernels.streamed import forward_streamed
from seqkern.recurrent.triton.loops import CELLS, Call


class ForwardArguments(NamedTuple):
    """See `kernels.tiles` for all of them."""

    gates: Tensor  # (rows, stride): the input's projection, becomes the activated gates with save
    bias: Tensor  # float32
    state: Tensor  # float32 (batch, hidden): c_0 becomes c_n; h_0 of a GRU
    cells: Tensor  # float32 (rows, hidden) with save
    cell_output: Tensor | None  # with a projection: (rows, hidden) with save, else (batch, hidden)
    save: bool


def run(call: Call, arguments: ForwardArguments) -> None:
    """Fills call.output, and what `arguments` says."""
    ways = {
        "resident": _resident, "grouped": _grouped, "streamed": _streamed, "steps": _steps
    }  # fmt: skip
    ways[loops.preferred(call)](call, arguments)


def _resident(call: Call, a: ForwardArguments) -> None:
    _one_launch(forward_resident, call, a, loops.resident_config(call))


def _grouped(call: Call, a: ForwardArguments) -> None:
    config = loops.grouped_config(call)
    grid = loops.members(call, config["BLOCK_U"]), loops.groups(call)
    _one_launch(forward_grouped, call, a, config, grid, (loops.nobody_arrived(call),))


def _streamed(call: Call, a: ForwardArguments) -> None:
    _one_launch(forward_streamed, call, a, loops.streamed_config(call))


def _one_launch(  # type: ignore
    kernel, call: Call, a: ForwardArguments, config: dict, grid: tuple = (), also: tuple = ()
) -> None:
    """`also`: what the kernel takes after the steps. The grid is that of the batch tiles, where
    none is given."""
    steps = call.steps
    projected = call.w_hr is not None
    kernel[grid or (loops.groups(call),)](
        a.gates, a.gates.stride(0), a.bias, call.h0, call.w_hh,
        call.w_hr if projected else call.w_hh, a.state, a.cells,
        a.cell_output if projected else call.output, call.output,
        steps.on_device(call.output.device) if steps.ragged else a.bias, *also,
        steps.batch, len(steps), int(steps.reverse), int(a.save), call.hidden, call.width,
        CELL=CELLS[call.kind], PROJECTED=projected, RAGGED=steps.ragged, **config,
    )  # fmt: skip


def _steps(call: Call, a: ForwardArguments) -> None:
    config = loops.step_config(call)
    constants = {"CELL": CELLS[call.kind], "JOINING": call.steps.ragged, **config}
    hidden, width = call.hidden, call.width
    unit_tiles = triton.cdiv(hidden, config["BLOCK_U"])
    column_tiles = triton.cdiv(width, config["BLOCK_U"])
    projected = call.w_hr is not None
    out = a.cell_output if projected else call.output
    for step in call.steps:
        batch_tiles = triton.cdiv(step.alive, config["BLOCK_B"])
        out_row = step.now if not projected or a.save else 0
        forward_step[(unit_tiles, batch_tiles)](
            a.gates, a.gates.stride(0), a.bias, call.h0, call.w_hh, a.state, a.cells, out,
            call.output, step.now, step.earlier, out_row, step.alive, step.before, hidden, width,
            int(a.save), **constants,
        )  # fmt: skip
        if projected:
            project[(column_tiles, batch_tiles)](
                out, call.w_hr, call.output, out_row, step.now, step.alive, hidden, width, **config
            )
