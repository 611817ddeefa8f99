"""The four ways through time on a GPU, and which one a call takes.

- `resident`: one launch, a program for each 16 rows of the batch, weights and state in registers;
- `grouped`: one cooperative launch, for each 16 rows a group of programs that share the hidden
  units, keep their weights, and meet after each step;
- `streamed`: one launch, a program for each 16 rows, the weights read from the L2
  at each step;
- `steps`: a launch for each step, spread over hidden units too.

No kernel is compiled anew for a batch or a time. Of a batch the choice depends on whether its
groups run at once and with how many units a program, and the step kernel has a tile for few rows
and one for many. Nothing is tuned while it runs, so results do not depend on timings.

None of this is measured. The arithmetic, with the latencies of csrc/recurrent/cuda/plan.h: a step
of a group is a barrier through the L2 (0.9 us), then reading the states there, the
products and the cell (0.9 us), and the weights from shared memory (0.6 us for the 128 KiB that fit
at most). `streamed` has the second part for each of its tiles of units, one after the other, three
or more where `resident` ends (2.7 us), and reads the weights at half that speed or less; `steps`
has it once and a launch before it (2.5 us in a CUDA graph). So a group comes before both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqkern.core.triton.support import INTERPRETED, processors, shared_bytes
from seqkern.recurrent.triton.kernels.grouped import ARRIVED_STRIDE
from seqkern.recurrent.triton.steps import Steps

# The kernels' `CELL`.
CELLS = {"lstm": 0, "gru": 1, "rnn_tanh": 2, "rnn_relu": 3}
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

# The fewest rows that a tensor core multiplies; a loop over time wants as many programs as it can
# get.
ROWS = 16
# Four gates of 128 x 128 in 16 bits are half of an SM's registers. In float32 the
# same has room up to 64.
RESIDENT_UNITS = {torch.float16: 128, torch.bfloat16: 128, torch.float32: 64}
# Units of a program of a group: few, so that a step is short; twice as many where not all programs
# would run at once.
GROUPED_UNITS = (16, 32)
# The widest state; and, in bytes, the widest of no multiple of 16 elements, which is loaded element
# by element: beyond, registers spill.
GROUPED_WIDTH = 1024
GROUPED_BYTES_BY_ELEMENTS = 512
# Shared memory of a program, where a GPU has that much: sm_80 has 163 KiB.
GROUPED_BYTES = 160 << 10
# A product's depth is spread over the warps, and each takes at least 16 of it.
GROUPED_WARPS = 8
# One SM reads some 100 GB/s from the L2, so a mebibyte of weights takes
# about as long as launching a step from Python (10 us), and a quarter of one about as long as a
# step in a CUDA graph (2.5 us). Arithmetic, not measured.
STREAMED_BYTES = 1 << 20
STREAMED_BYTES_IN_GRAPH = 1 << 18


class Call(NamedTuple):
    """What forward and backward have in common. Tensors are contiguous."""

    kind: str
    steps: Steps
    h0: Tensor  # (batch, width)
    w_hh: Tensor
    w_hr: Tensor | None  # of an LSTM with a projection only
    output: Tensor  # (rows, width)

    @property
    def hidden(self) -> int:
        return self.w_hh.shape[0] // GATES[self.kind]

    @property
    def width(self) -> int:
        return self.w_hh.shape[1]


def preferred(call: Call) -> str:
    """ "resident", "grouped", "streamed" or "steps"."""
    weights = call.w_hh
    capturing = weights.is_cuda and torch.cuda.is_current_stream_capturing()
    # One launch for a packed sequence wants the batch sizes on the device, and a captured copy
    # from the host would read memory that is gone when the graph is replayed.
    if len(call.steps) == 1 or (capturing and call.steps.ragged):
        return "steps"
    if max(call.hidden, call.width) <= RESIDENT_UNITS[weights.dtype]:
        return "resident"
    if grouped_units(call) and not INTERPRETED:  # which runs one program after the other
        return "grouped"
    limit = STREAMED_BYTES_IN_GRAPH if capturing else STREAMED_BYTES
    return "streamed" if weights.numel() * weights.element_size() <= limit else "steps"


def resident_config(call: Call) -> dict[str, Any]:
    units, columns = (64 if n <= 64 else 128 for n in (call.hidden, call.width))
    blocks = {"BLOCK_B": ROWS, "BLOCK_H": units, "BLOCK_P": columns}
    return {**_constants(call), **blocks, **_alone(8), "num_stages": 1}


def groups(call: Call) -> int:
    """How many tiles of the batch there are."""
    return quotient_up(call.steps.batch, ROWS)


def members(call: Call, units: int) -> int:
    """How many programs share a tile of the batch."""
    return quotient_up(max(call.hidden, call.width), units)


def nobody_arrived(call: Call) -> Tensor:
    """What `kernels.grouped` calls `arrived`, made for one launch: the zeros are part of
    what a CUDA graph captures, and no other stream has a hand in it."""
    words = groups(call) * ARRIVED_STRIDE.value
    return torch.zeros(words, dtype=torch.int64, device=call.output.device)


def grouped_units(call: Call) -> int:
    """The units of a program of a group; 0 where groups do not fit: a program must have room for
    what it keeps, and all programs run at once, each on an SM of its own."""
    sizes = call.hidden, call.width
    if max(sizes) > GROUPED_WIDTH:
        return 0
    row_bytes = max(sizes) * call.w_hh.element_size()
    if row_bytes > GROUPED_BYTES_BY_ELEMENTS and any(size % 16 for size in sizes):
        return 0
    room = min(GROUPED_BYTES, shared_bytes(call.w_hh.device))
    at_once = processors(call.w_hh.device)
    for units in GROUPED_UNITS:
        if _kept_bytes(call, units) <= room and groups(call) * members(call, units) <= at_once:
            return units
    return 0


def _kept_bytes(call: Call, units: int) -> int:
    """Of shared memory: the weights, forward or backward, whichever is more, and in turns a tile of
    states and the warps' sums for two gates. A number that is multiplied as three of TF32 is kept
    as two."""
    hidden, width = _depth(call.hidden), _depth(call.width)
    projected = call.w_hr is not None
    forward = GATES[call.kind] * width + projected * hidden
    backward = GATES[call.kind] * hidden + projected * width
    copies = 2 if _products(call) == "fma" else 1
    weights = copies * units * max(forward, backward) * call.w_hh.element_size()
    states = ROWS * max(hidden, width) * call.w_hh.element_size()
    return weights + max(states, 2 * GROUPED_WARPS * ROWS * units * 4)


def _depth(size: int) -> int:
    """The power of 2 to which the depth of a group's products is filled up."""
    return max(16 * GROUPED_WARPS, 1 << (size - 1).bit_length())


def quotient_up(a: int, b: int) -> int:
    return -(-a // b)


def grouped_config(call: Call) -> dict[str, Any]:
    """All products on tensor cores: float32 as three of TF32 where one is not enough."""
    constants = _constants(call)
    if _products(call) == "fma":
        constants["PRECISION"] = "tf32x3"
    blocks = {"BLOCK_B": ROWS, "BLOCK_U": grouped_units(call), "CHUNKS": GROUPED_WARPS}
    depths = {"BLOCK_H": _depth(call.hidden), "BLOCK_P": _depth(call.width)}
    alone = {**_alone(GROUPED_WARPS), "num_stages": 1, "launch_cooperative_grid": True}
    return {**constants, **blocks, **depths, **alone}


def streamed_config(call: Call) -> dict[str, Any]:
    units, inner = {"half": (64, 64), "tf32": (32, 32), "fma": (32, 16)}[_products(call)]
    blocks = {"BLOCK_B": ROWS, "BLOCK_U": units, "BLOCK_K": inner}
    return {**_constants(call), **blocks, **_alone(8), "num_stages": 3}


def _alone(warps: int) -> dict[str, int]:
    """For programs so few that each has an SM to itself: it may use all registers, where
    the compiler would rather spill some than keep a second program out."""
    return {"num_warps": warps, "maxnreg": min(255, 65536 // (32 * warps))}


def step_config(call: Call) -> dict[str, Any]:
    """Few rows: narrow tiles, so that a step is spread over the whole device. Many: tiles that use
    what they read of the weights more often."""
    if call.steps.batch > 2 * ROWS:
        rows, inner = {"half": (64, 64), "tf32": (64, 32), "fma": (32, 16)}[_products(call)]
        blocks = {"BLOCK_B": rows, "BLOCK_U": 32, "BLOCK_K": inner}
    else:
        inner = {"half": 128, "tf32": 64, "fma": 64}[_products(call)]
        blocks = {"BLOCK_B": ROWS, "BLOCK_U": 16, "BLOCK_K": inner}
    return {**_constants(call), **blocks, "num_warps": 4, "num_stages": 3}


def _products(call: Call) -> str:
    """What multiplies: tensor cores by 16 bits or TF32 (where PyTorch's own matrix products may),
    or FMA, which wants more registers."""
    if call.w_hh.dtype != torch.float32:
        return "half"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fma"


def _constants(call: Call) -> dict[str, Any]:
    tf32 = _products(call) == "tf32"
    return {"PRECISION": "tf32" if tf32 else "ieee", "INTERPRETED": INTERPRETED}
