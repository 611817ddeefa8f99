"""LSTM and GRU on a GPU against PyTorch's, which is cuDNN.

The target is a geometric mean over the cases of one kind, so the cases themselves have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import seqkern

from .gpu import Case

LENGTH = 512
BATCHES = (1, 16, 128)
SIZES = (128, 256)
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def cases(device: torch.device) -> Iterator[Case]:
    for kind in ("LSTM", "GRU"):
        for name, dtype in DTYPES.items():
            for size in SIZES:
                for batch in BATCHES:
                    what = f"{name} {LENGTH}x{batch}x{size}"
                    yield from comparisons(kind, what, (LENGTH, batch, size), dtype, device)
    # The step kernel: beyond what one program streams.
    yield from comparisons("LSTM", "bf16 50x32x1024", (50, 32, 1024), torch.bfloat16, device)


def comparisons(
    kind: str, what: str, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> Iterator[Case]:
    """Inference and training of one layer whose inputs are as wide as its state."""
    length, batch, size = shape
    ours, theirs = (
        getattr(nn, kind)(size, size, device=device, dtype=dtype)
        for nn in (seqkern.nn, torch.nn)
    )  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(length, batch, size, device=device, dtype=dtype).requires_grad_()
    gates = 4 if kind == "LSTM" else 3
    flops = 2.0 * length * batch * gates * size * 2 * size
    yield Case(
        f"{kind} inference {what}", _inference(_on_triton(ours), x), _inference(theirs, x),
        flops=flops,
    )  # fmt: skip
    parameters = list(ours.parameters()), list(theirs.parameters())
    yield Case(
        f"{kind} training {what}",
        _training(_on_triton(ours), x, parameters[0]),
        _training(theirs, x, parameters[1]),
        flops=3 * flops,
    )


def _on_triton(module: torch.nn.Module) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        if not x.is_cuda:
            return module(x)[0]
        with seqkern.use_backend("triton"):
            return module(x)[0]

    return run


def _inference(layer: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    def step() -> Tensor:
        with torch.no_grad():
            found = layer(x)
        return found if isinstance(found, Tensor) else found[0]

    return step


def _training(
    layer: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]
) -> Callable[[], Tensor]:
    """Forward and backward; what is compared is the gradient of the input."""

    def step() -> Tensor:
        found = layer(x)
        output = found if isinstance(found, Tensor) else found[0]
        return torch.autograd.grad(output, [x, *parameters], output.detach())[0]

    return step
