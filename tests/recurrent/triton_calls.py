"""A call for every configuration in which the recurrent Triton kernels ship.

Packed sequences: their kernels do all that those of a dense batch do, and more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH, Kind
from seqkern.recurrent.triton import loops
from seqkern.recurrent.triton.layer import Layer, Needs, backward, forward

KINDS = (LSTM, GRU, RNN_TANH, RNN_RELU)
PRECISIONS = {
    "bfloat16": (torch.bfloat16, "ieee"),
    "float16": (torch.float16, "ieee"),
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
}
# What of `loops` a call takes: by hidden size and SMs, and the step kernel also
# by batch. Groups come with as many units a program as the SMs demand.
LOOPS = {
    "resident 64": (64, 16, 1),
    "resident 128": (128, 16, 1),
    "streamed": (192, 16, 1),
    "steps, few rows": (2048, 16, 1),
    "steps, many rows": (2048, 64, 1),
    **{
        f"grouped {hidden} by {units}": (hidden, 16, hidden // units)
        for hidden in (128, 256, 512, 1024)
        for units in loops.GROUPED_UNITS
    },
    # No multiples of 16.
    "grouped 250": (250, 16, 16),
    "grouped 125": (125, 16, 8),
}


def calls() -> dict[str, Callable[[], object]]:
    return {name: partial(train, *arguments) for name, arguments in _calls()}


def _calls() -> Iterator[tuple[str, tuple]]:
    for loop, (hidden, batch, processors) in LOOPS.items():
        for precision in PRECISIONS:
            for kind in KINDS:
                for projection in (0, hidden // 2) if kind is LSTM else (0,):
                    arguments = (kind, precision, hidden, batch, processors, projection)
                    if way(*arguments) == loop.split(" ")[0].strip(","):
                        name = f"{kind.name} with projection" if projection else kind.name
                        yield f"{name} {loop} {precision}", arguments


@contextmanager
def layer_of(
    kind: Kind, precision: str, hidden: int, batch: int, processors: int, projection: int
) -> Iterator[Layer]:
    """A packed layer on a device of so many SMs."""
    dtype, products = PRECISIONS[precision]

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    rows, width = kind.gates * hidden, projection or hidden
    w_hr = new(width, hidden) if projection else None
    allowed = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = products
    try:
        with mock.patch.object(loops, "processors", lambda device: processors):
            yield Layer(
                kind, new(2 * batch, 16), new(batch, width), None, new(rows, 16), new(rows, width),
                w_hr, torch.full((2,), batch), False,
            )  # fmt: skip
    finally:
        torch.backends.cuda.matmul.fp32_precision = allowed


def way(*arguments: Any) -> str:
    """Through time, that a layer takes."""
    with layer_of(*arguments) as layer:
        output = torch.empty(layer.steps.rows, layer.width, dtype=layer.dtype, device="meta")
        return loops.preferred(layer.call(output))


def train(kind: Kind, *arguments: Any) -> None:
    """Forward and backward."""
    with layer_of(kind, *arguments) as layer:
        f = forward(layer, None, None, True)
        saved = (f.gates if kind.gates > 1 else None, f.cells if kind is LSTM else None)
        backward(layer, None, None, None, f.output, *saved, f.cell_output, Needs(*[True] * 7))
