"""The three ways through time on a GPU, and which one a call takes.

- `resident`: one launch, a program for each 16 rows of the batch, weights and state in registers;
- `streamed`: one launch, the same programs, the weights read from the second-level cache at each
  step;
- `steps`: a launch for each step, spread over hidden units too.

Neither the choice nor a kernel's tiles depend on batch or time, but for the step kernel, which has
a tile for few rows and one for many. Nothing is tuned while it runs, so results do not depend on
timings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqkern.recurrent.triton_steps import Steps
from seqkern.triton_support import INTERPRETED

# The kernels' `CELL`.
CELLS = {"lstm": 0, "gru": 1, "rnn_tanh": 2, "rnn_relu": 3}
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

# The fewest rows that a tensor core multiplies; a loop over time wants as many programs as it can
# get.
ROWS = 16
# Four gates of 128 x 128 in 16 bits are half of a multiprocessor's registers. In float32 the
# same has room up to 64.
RESIDENT_UNITS = {torch.float16: 128, torch.bfloat16: 128, torch.float32: 64}
# One multiprocessor reads some 100 GB/s from the second-level cache, so a mebibyte of weights takes
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
    """ "resident", "streamed" or "steps"."""
    weights = call.w_hh
    capturing = weights.is_cuda and torch.cuda.is_current_stream_capturing()
    # One launch for a packed sequence wants the batch sizes on the device, and a captured copy
    # from the host would read memory that is gone when the graph is replayed.
    if len(call.steps) == 1 or (capturing and call.steps.ragged):
        return "steps"
    if max(call.hidden, call.width) <= RESIDENT_UNITS[weights.dtype]:
        return "resident"
    limit = STREAMED_BYTES_IN_GRAPH if capturing else STREAMED_BYTES
    return "streamed" if weights.numel() * weights.element_size() <= limit else "steps"


def resident_config(call: Call) -> dict[str, Any]:
    units, columns = (64 if n <= 64 else 128 for n in (call.hidden, call.width))
    blocks = {"BLOCK_B": ROWS, "BLOCK_H": units, "BLOCK_P": columns}
    return {**_constants(call), **blocks, **_alone(8), "num_stages": 1}


def streamed_config(call: Call) -> dict[str, Any]:
    units, inner = {"half": (64, 64), "tf32": (32, 32), "fma": (32, 16)}[_products(call)]
    blocks = {"BLOCK_B": ROWS, "BLOCK_U": units, "BLOCK_K": inner}
    return {**_constants(call), **blocks, **_alone(8), "num_stages": 3}


def _alone(warps: int) -> dict[str, int]:
    """For programs so few that each has a multiprocessor to itself: it may use all registers, where
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
