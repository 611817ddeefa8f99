"""The recurrent operators on a GPU: the compiled library's, and beside them Triton's.

Where the CUDA library is built, it gives the layers' operators their CUDA implementation by itself.
Triton's stand beside them under names of their own, `seqkern::lstm_forward_triton` and so on, with
the same schemas and fakes, and are imported on the first call. A cell's operators have no compiled
CUDA kernel, so under CUDA they are Triton's. What the operators save does not depend on what ran
them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from seqkern import library, triton_support

LAYERS = ("lstm_forward", "lstm_backward", "gru_forward", "gru_backward", "rnn_forward",
          "rnn_backward")  # fmt: skip
_CELLS = ("lstm_cell_forward", "lstm_cell_backward", "gru_cell_forward", "gru_cell_backward",
          "rnn_cell_forward", "rnn_cell_backward")  # fmt: skip
_IMPLEMENTATIONS = {
    **{f"{name}_triton": f"seqkern.recurrent.triton_layer:{name}" for name in LAYERS},
    **{name: f"seqkern.recurrent.triton_cell:{name}" for name in _CELLS},
}
HAS_TRITON = library.cpu.loaded and not triton_support.missing

_library = torch.library.Library("seqkern", "FRAGMENT")
_registered: dict[str, torch.library.Library] = {}


def register(key: str) -> None:
    """Makes Triton's implementations run under a dispatch key, "CUDA". Tests take "CPU" until
    `unregister`, where a cell's compiled kernels make room for them."""
    _registered[key] = torch.library.Library("seqkern", "IMPL")
    for name, implementation in _IMPLEMENTATIONS.items():
        replaces = key == "CPU" and name in _CELLS
        _registered[key].impl(name, _late(implementation), key, allow_override=replaces)


def unregister(key: str) -> None:
    """What was there before, if anything, is there again."""
    _registered.pop(key)._destroy()


def triton_refusal(device: torch.device) -> str:
    """Why Triton's kernels do not run on this device; "" where they do."""
    if library.cpu.reason is not None:
        return f"the library that holds the operators' schemas is missing: {library.cpu.reason}"
    refused = triton_support.device_refusal(device)
    if not refused and device.type.upper() not in _registered:
        return "on the CPU its kernels run in seqkern's own tests only"  # interpreted
    return refused


def cuda_refusal(device: torch.device) -> str:
    """Why the compiled CUDA kernels do not run on this device; "" where they do."""
    if device.type != "cuda":
        return f"its kernels run on a CUDA GPU, the input is on {device}"
    if library.cuda.reason is not None:
        return f"the CUDA library is not loaded: {library.cuda.reason}"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST_CAPABILITY:
        return f"its kernels need sm_80 or later, {device} is sm_{found[0]}{found[1]}"
    return ""


# Tensor-core products of bfloat16 and TF32.
OLDEST_CAPABILITY = (8, 0)


def _allows_tf32() -> bool:
    """What the compiled kernels ask before a float32 product on tensor cores."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


def _late(implementation: str) -> Callable[..., Any]:
    module, name = implementation.split(":")
    found: list[Callable[..., Any]] = []

    def run(*arguments: Any) -> Any:
        if not found:
            found.append(getattr(importlib.import_module(module), name))
        return found[0](*arguments)

    return run


_library.define("allows_tf32() -> bool")
_library.impl("allows_tf32", _allows_tf32, "CompositeExplicitAutograd")
if HAS_TRITON:
    for _name in LAYERS:
        _schema = str(getattr(torch.ops.seqkern, _name).default._schema)
        _library.define(_schema.replace(f"seqkern::{_name}(", f"{_name}_triton("))
    register("CUDA")
