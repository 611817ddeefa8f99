"""Calls of PyTorch's attention that a model makes by itself, and not through a module."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from seqkern.attention import overrides
from seqkern.swapping.example_run import Run

_ATTENTION = (
    torch.nn.functional.scaled_dot_product_attention,
    torch._C._nn.scaled_dot_product_attention,
)


def attention_calls(
    model: torch.nn.Module, run: Run, ours: tuple[type[torch.nn.Module], ...]
) -> dict[str, int]:
    """How many calls of `torch.nn.functional.scaled_dot_product_attention` each module makes in a
    forward pass, by its path; those that modules of the classes `ours` make do not count, nor do
    calls of seqkern's function, which dispatches as torch's."""
    counts: Counter[str] = Counter()
    inside = [("", model)]
    paths = {id(module): path for path, module in model.named_modules()}

    class Counting(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            path, innermost = inside[-1]
            if func in _ATTENTION and not isinstance(innermost, ours) and not _shown_by_us():
                counts[path] += 1
            return func(*args, **(kwargs or {}))

    def enter(module: torch.nn.Module, args: Any) -> None:
        inside.append((paths.get(id(module), inside[-1][0]), module))

    def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
        inside.pop()

    # Hooks of all modules: torch's Transformer leaves its fast path for a hook on one of its own.
    # Run uncompiled: a compiled model shows no calls and must not be compiled again for this.
    entering = register_module_forward_pre_hook(enter)
    leaving = register_module_forward_hook(leave, always_call=True)
    try:
        with warnings.catch_warnings():
            # They are called once more for the wrapper of a compiled model, which does no harm.
            warnings.filterwarnings(
                "ignore", r"Using `torch.compile\(module\)` when there are global"
            )
            with torch.compiler.set_stance("force_eager"), torch.no_grad(), Counting():
                run.forward(run.arguments())
    finally:
        entering.remove()
        leaving.remove()
    return dict(counts)


def _shown_by_us() -> bool:
    """Whether the `__torch_function__` that asks was called by seqkern's attention."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == "torch.overrides":
        frame = frame.f_back
    return frame is not None and frame.f_globals is vars(overrides)
