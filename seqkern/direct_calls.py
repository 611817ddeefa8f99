"""Calls of PyTorch's attention that a model makes by itself, and not through a module."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from seqkern.example_run import Run

_ATTENTION = (
    torch.nn.functional.scaled_dot_product_attention,
    torch._C._nn.scaled_dot_product_attention,
)


def attention_calls(
    model: torch.nn.Module, run: Run, ours: tuple[type[torch.nn.Module], ...]
) -> dict[str, int]:
    """How many calls of `torch.nn.functional.scaled_dot_product_attention` each module makes in a
    forward pass, by its path; those that modules of the classes `ours` make do not count."""
    counts: Counter[str] = Counter()
    inside = [("", model)]
    handles = []

    class Counting(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            path, innermost = inside[-1]
            if func in _ATTENTION and not isinstance(innermost, ours):
                counts[path] += 1
            return func(*args, **(kwargs or {}))

    def enter(path: str) -> Any:
        return lambda module, args: inside.append((path, module))

    def leave(module: torch.nn.Module, args: Any, output: Any) -> None:
        inside.pop()

    try:
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(path)))
            handles.append(module.register_forward_hook(leave))
        with torch.no_grad(), Counting():
            run.forward(run.arguments())
    finally:
        for handle in handles:
            handle.remove()
    return dict(counts)
