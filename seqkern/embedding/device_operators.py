"""The word vectors' operators on CUDA: Triton's kernels, imported on the first call.

The CPU library brings the operators' schemas and `fake` their shapes; here they get one more
dispatch key. What the operators save does not depend on what ran them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from seqkern import library, triton_support

_OBJECTIVE = ("embedding_objective", "embedding_objective_backward",
              "embedding_objective_backward_sparse", "embedding_objective_update_")  # fmt: skip
_BAGS = ("embedding_bags", "embedding_bags_backward", "embedding_bags_backward_sparse")
_MODULES = {
    **dict.fromkeys(_OBJECTIVE, "seqkern.embedding.triton_objective"),
    **dict.fromkeys(_BAGS, "seqkern.embedding.triton_bags"),
    "embedding_train_": "seqkern.embedding.triton_train",
    "sparse_adam_": "seqkern.embedding.triton_sparse_adam",
}

_registered: dict[str, torch.library.Library] = {}


def register(key: str) -> None:
    """Gives every operator Triton's implementation under a dispatch key, "CUDA". Tests take "CPU",
    in place of the compiled kernels, until `unregister`."""
    _registered[key] = torch.library.Library("seqkern", "IMPL")
    for name in _MODULES:
        _registered[key].impl(name, _late(name), key, allow_override=key == "CPU")


def unregister(key: str) -> None:
    """What was there before, if anything, is there again."""
    _registered.pop(key)._destroy()


def refusal(device: torch.device) -> str:
    """Why Triton's kernels are not what an operator runs on this device; "" where they are."""
    if library.cpu.reason is not None:
        return f"the library that holds the operators' schemas is missing: {library.cpu.reason}"
    refused = triton_support.device_refusal(device)
    if not refused and device.type.upper() not in _registered:
        return "on the CPU its kernels run in seqkern's own tests only"  # interpreted
    return refused


def _late(name: str) -> Callable[..., Any]:
    found: list[Callable[..., Any]] = []

    def run(*arguments: Any) -> Any:
        if not found:
            found.append(getattr(importlib.import_module(_MODULES[name]), name))
        return found[0](*arguments)

    return run


if library.cpu.loaded and not triton_support.missing:
    register("CUDA")
