"""A call for every configuration in which the recurrent Triton kernels ship.

Packed sequences: their kernels do all that those of a dense batch do, and more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU, RNN_TANH, Kind
from seqkern.recurrent.triton_layer import Layer, Needs, backward, forward

KINDS = (LSTM, GRU, RNN_TANH, RNN_RELU)
PRECISIONS = {
    "bfloat16": (torch.bfloat16, "ieee"),
    "float16": (torch.float16, "ieee"),
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
}
# What of `triton_loops` a call takes: by hidden size, and the step kernel also by batch.
LOOPS = {
    "resident 64": (64, 16),
    "resident 128": (128, 16),
    "streamed": (192, 16),
    "steps, few rows": (2048, 16),
    "steps, many rows": (2048, 64),
}


def calls() -> dict[str, Callable[[], object]]:
    return {name: partial(train, *arguments) for name, arguments in _calls()}


def _calls() -> Iterator[tuple[str, tuple]]:
    for loop, (hidden, batch) in LOOPS.items():
        for precision, (dtype, _) in PRECISIONS.items():
            if loop == "resident 128" and dtype == torch.float32:
                continue  # streamed
            for kind in KINDS:
                yield f"{kind.name} {loop} {precision}", (kind, precision, hidden, batch)
            projection = (LSTM, precision, hidden, batch, hidden // 2)
            yield f"lstm with projection {loop} {precision}", projection


def train(kind: Kind, precision: str, hidden: int, batch: int, projection: int = 0) -> None:
    """Forward and backward."""
    dtype, products = PRECISIONS[precision]

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    rows, width = kind.gates * hidden, projection or hidden
    sizes = torch.full((2,), batch)
    w_hr = new(width, hidden) if projection else None
    allowed = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = products
    try:
        layer = Layer(
            kind, new(2 * batch, 16), new(batch, width), None, new(rows, 16), new(rows, width),
            w_hr, sizes, False,
        )  # fmt: skip
        f = forward(layer, None, None, True)
        saved = (f.gates if kind.gates > 1 else None, f.cells if kind is LSTM else None)
        backward(layer, None, None, None, f.output, *saved, f.cell_output, Needs(*[True] * 7))
    finally:
        torch.backends.cuda.matmul.fp32_precision = allowed
