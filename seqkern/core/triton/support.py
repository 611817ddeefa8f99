"""Triton, for every domain: whether this process can run its kernels, and how a domain adds some.

Nothing here imports triton, which may be missing; `missing` says so. A domain's kernels live in
`<domain>/triton`, whose modules do import it and which nobody imports before a kernel runs:

1. The kernels, `@triton.jit`, have loads, stores and arithmetic only; a host function beside or
   above them takes tensors, checks what a launch needs, allocates results and launches, inside
   `on_device_of(tensor)` (several GPUs). It takes tile sizes from a table by `capability(device)`,
   sizes of a layer and dtype, never by batch or sequence length, and passes these as plain
   integers, so that no new length compiles anew; arguments that are 1 or divisible by 16 by
   accident stand in `do_not_specialize`.
2. A line in the table of `<domain>/registration.py` (`operators.TritonOperators`) makes the host
   function an operator of torch, opaque to torch.compile.
3. The domain's `choice.py` asks its `triton_operators.refusal(...)`.

`tl.dot` of bfloat16 is wrong in the interpreter and libdevice is missing there: kernels convert to
float32 before `tl.dot` where `INTERPRETED` (hand it down as a constexpr) and spell out functions.

Tests: `tests/triton_device.py` says how they run, and what a new kernel has to add.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Triton decides the same way, once, when a kernel is defined.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
OLDEST_CAPABILITY = (8, 0)
INSTALL = "pip install triton==3.7.1"


def _missing() -> str:
    try:
        found = importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):  # a half-removed or blocked package
        found = False
    return "" if found else f"triton is not installed ({INSTALL})"


missing = _missing()
"""Why triton cannot be imported; "" where it can."""


def device_refusal(device: torch.device) -> str:
    """Why no Triton kernel runs on tensors of this device, "" where they do."""
    if missing:
        return missing
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < OLDEST_CAPABILITY:
            return f"its kernels need sm_80 or later, {device} is sm_{found[0]}{found[1]}"
        if INTERPRETED:
            return "TRITON_INTERPRET=1 is set, which runs kernels on the CPU only"
        return ""
    if device.type == "cpu" and INTERPRETED:
        return ""
    return (
        f"its kernels run on a CUDA GPU, the input is on {device}"
        + (" (for tests, TRITON_INTERPRET=1 runs them there)" if device.type == "cpu" else "")
    )  # fmt: skip


def state() -> str:
    """Version and what it can run here, for `python -m seqkern info`."""
    if missing:
        return missing
    version = importlib.metadata.version("triton")
    if INTERPRETED:
        return f"{version}, interpreting on the CPU (TRITON_INTERPRET=1)"
    if not torch.cuda.is_available():
        return f"{version}, no CUDA GPU to run on"
    refused = device_refusal(torch.device("cuda", torch.cuda.current_device()))
    return f"{version}, not used: {refused}" if refused else f"{version}, in use"


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability that kernels for this device are tuned for: (8, 0), (9, 0), ...;
    the oldest for the CPU, where only the interpreter runs."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else OLDEST_CAPABILITY


def processors(device: torch.device) -> int:
    """How many programs a device runs at once, at least; a few for the interpreter."""
    if device.type != "cuda":
        return 8
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def shared_bytes(device: torch.device) -> int:
    """Shared memory that a program may have; what sm_80 has for a device that is no GPU."""
    if device.type != "cuda":
        return 163 << 10
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)  # type: ignore[attr-defined]


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes a tensor's GPU the current one: Triton launches there, on torch's current stream."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def late(implementation: str) -> Callable[..., Any]:
    """The function that "module:function" names, imported on the first call."""
    module, name = implementation.split(":")
    found: list[Callable[..., Any]] = []

    def run(*arguments: Any) -> Any:
        if not found:
            found.append(getattr(importlib.import_module(module), name))
        return found[0](*arguments)

    return run
