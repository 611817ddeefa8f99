"""LSTM and GRU on a GPU against PyTorch's, which is cuDNN: Triton's kernels and the compiled ones.

Their goals are in `targets.GPU_GOALS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import seqkern
from seqkern.core import library

from .gpu import Case

LENGTH = 512
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
# Where cuDNN has its own persistent kernel: one layer, one direction, float16.
PERSISTENT = [(1024, 16, 768), (1024, 16, 1024)]
STEP = (1024, 16, 768)


def cases(device: torch.device) -> Iterator[Case]:
    if not library.cuda.loaded:
        print(f"no rows for the backend cuda: {library.cuda.reason}", file=sys.stderr)
        yield from triton_cases(device)
        return
    yield step_latency(STEP, device)
    for shape in PERSISTENT:
        yield from comparisons("cuda", "LSTM", "f16", shape, device)
    for size in (256, 768):
        for batch in (16, 64):
            yield from ragged("bf16", (LENGTH, batch, size), device)
    for row in zip_longest(cuda_cases(device), deep_cases(device), triton_cases(device)):
        yield from (case for case in row if case is not None)


def triton_cases(device: torch.device) -> Iterator[Case]:
    for batch in (16, 1, 128):
        for size in (128, 256):
            for kind in ("LSTM", "GRU"):
                for dtype in ("bf16", "f32"):
                    shape = LENGTH, batch, size
                    yield from comparisons("triton", kind, dtype, shape, device)
    # Groups of programs that share the units, at their widest; beyond, the step kernel.
    yield from comparisons("triton", "LSTM", "bf16", (50, 16, 512), device)
    yield from comparisons("triton", "LSTM", "bf16", (50, 32, 1024), device)
    yield from comparisons("triton", "LSTM", "bf16", (50, 64, 1024), device)


def cuda_cases(device: torch.device) -> Iterator[Case]:
    for batch in (16, 1, 64, 128):
        for size in (256, 512, 1024, 1536):
            for kind, dtype in (("LSTM", "bf16"), ("LSTM", "f32"), ("GRU", "bf16")):
                yield from comparisons("cuda", kind, dtype, (LENGTH, batch, size), device)


def deep_cases(device: torch.device) -> Iterator[Case]:
    """Both directions, and layers on top of each other."""
    for deep in ({"bidirectional": True}, {"num_layers": 2}, {"num_layers": 4}):
        for batch in (16, 64):
            for size in (256, 768):
                for kind in ("LSTM", "GRU"):
                    shape = LENGTH, batch, size
                    yield from comparisons("cuda", kind, "bf16", shape, device, **deep)


def comparisons(
    backend: str,
    kind: str,
    dtype: str,
    shape: tuple[int, int, int],
    device: torch.device,
    num_layers: int = 1,
    bidirectional: bool = False,
) -> Iterator[Case]:
    """Inference and training of layers whose inputs are as wide as their state."""
    length, batch, size = shape
    deep = {"num_layers": num_layers, "bidirectional": bidirectional}
    ours, theirs = layers(kind, size, size, DTYPES[dtype], device, **deep)
    x = torch.randn(length, batch, size, device=device, dtype=DTYPES[dtype]).requires_grad_()
    weights = sum(p.numel() for p in ours.parameters() if p.dim() == 2)
    flops = 2.0 * length * batch * weights
    what = f"{dtype} {length}x{batch}x{size}"
    name = f"{backend} {kind}"
    name += f" {num_layers} layers" if num_layers > 1 else ""
    name += " both directions" if bidirectional else ""
    mine = on_backend(backend, ours)
    yield Case(
        f"{name} inference {what}", _inference(mine, x), _inference(theirs, x),
        flops=flops,
    )  # fmt: skip
    yield Case(
        f"{name} training {what}",
        _training(mine, x, x, list(ours.parameters())),
        _training(theirs, x, x, list(theirs.parameters())),
        flops=3 * flops,
    )


def ragged(dtype: str, shape: tuple[int, int, int], device: torch.device) -> Iterator[Case]:
    """A packed batch whose lengths are spread evenly over [length / 4, length]."""
    length, batch, size = shape
    ours, theirs = layers("LSTM", size, size, DTYPES[dtype], device)
    x = torch.randn(length, batch, size, device=device, dtype=DTYPES[dtype]).requires_grad_()
    lengths = torch.linspace(length / 4, length, batch).round().long()
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    what = f"{dtype} {length}x{batch}x{size}"
    mine = on_backend("cuda", ours)
    flops = 16.0 * size * size * int(lengths.sum())
    yield Case(
        f"cuda ragged LSTM inference {what}", _inference(mine, packed), _inference(theirs, packed),
        flops=flops,
    )  # fmt: skip
    yield Case(
        f"cuda ragged LSTM training {what}",
        _training(mine, packed, x, list(ours.parameters()), retain=True),
        _training(theirs, packed, x, list(theirs.parameters()), retain=True),
        flops=3 * flops,
    )


def step_latency(shape: tuple[int, int, int], device: torch.device) -> Case:
    """Of an LSTM whose inputs are so narrow that their projection costs nothing."""
    length, batch, size = shape
    ours, theirs = layers("LSTM", 16, size, torch.bfloat16, device)
    x = torch.randn(length, batch, 16, device=device, dtype=torch.bfloat16)
    return Case(
        f"cuda LSTM step bf16 {batch}x{size}",
        _inference(on_backend("cuda", ours), x),
        _inference(theirs, x),
        steps=length,
    )


def layers(
    kind: str, features: int, size: int, dtype: torch.dtype, device: torch.device, **deep: Any
) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours and PyTorch's, with the same weights."""
    ours, theirs = (
        getattr(nn, kind)(features, size, device=device, dtype=dtype, **deep)
        for nn in (seqkern.nn, torch.nn)
    )  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def on_backend(backend: str, module: torch.nn.Module) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        if not x[0].is_cuda:
            return module(x)
        with seqkern.use_backend(backend):
            return module(x)

    return run


def _output(found: Any) -> Tensor:
    output = found[0]
    return output.data if isinstance(output, PackedSequence) else output


def _inference(layer: Callable[[Any], Any], x: Any) -> Callable[[], Tensor]:
    def step() -> Tensor:
        with torch.no_grad():
            return _output(layer(x))

    return step


def _training(
    layer: Callable[[Any], Any], x: Any, source: Tensor, parameters: list, retain: bool = False
) -> Callable[[], Tensor]:
    """Forward and backward; what is compared is the gradient of `source`, the input. A packed
    input is part of the graph and outlives it: `retain`."""

    def step() -> Tensor:
        output = _output(layer(x))
        grads = torch.autograd.grad(
            output, [source, *parameters], output.detach(), retain_graph=retain
        )
        return grads[0]

    return step
