"""Activation checkpointing with dropout: the recomputation drops the same weights, or raises.

`torch.utils.checkpoint` runs a function again during the backward pass, with the random state of
the first time. PyTorch's attention draws other weights from that than seqkern's does, and the
backend may have changed: chosen by a `with seqkern.use_backend(...)` that has ended, or by one
around `backward()`. The form without reentry compares what is saved and raises by itself. The
reentrant one compares nothing: its output would belong to one set of weights, its gradients to
another.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch

_grad_enabled = torch.is_grad_enabled
_graph_task = torch._C._current_graph_task_id
_compiling = torch.compiler.is_compiling


def check_implementation(backend: str) -> None:
    """To be called with the backend that runs a call with dropout.

    In a reentrant checkpoint's first run it is noted there, in the second compared with that.

    Raises:
        RuntimeError: another backend ran the call the first time.
    """
    if _compiling():  # the compiler keeps what it has traced, random state included
        return
    recomputing = _graph_task() != -1
    if _grad_enabled() and not recomputing:
        return
    for ctx in _checkpoints(recomputing):
        noted: set[str] = ctx.__dict__.setdefault("seqkern_backends", set())
        if not recomputing:
            noted.add(backend)
        elif noted and backend not in noted:
            raise RuntimeError(
                f"torch.utils.checkpoint recomputes an attention with dropout by the backend "
                f"{backend!r}, but its first run was by {', '.join(map(repr, sorted(noted)))}: "
                "other weights would be dropped. Keep the same seqkern.use_backend around "
                "backward(), or put it inside of the function that is checkpointed"
            )


def _checkpoints(recomputing: bool) -> list[Any]:
    """The contexts of the reentrant checkpoints that this call runs in: an autograd.Function's
    forward that was given the function to run, or its backward that has kept it."""
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == ("backward" if recomputing else "forward") and "ctx" in code.co_varnames:
            names = frame.f_locals
            ctx = names.get("ctx")
            if recomputing and hasattr(ctx, "run_function") or "run_function" in names:
                found.append(ctx)
        frame = frame.f_back
    return found
