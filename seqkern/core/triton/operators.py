"""Triton's implementations of operators whose schemas the CPU library brings."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from seqkern.core import library
from seqkern.core.triton import support


class TritonOperators:
    """Gives a domain's operators their Triton implementations, under CUDA from the start.

    Args:
        implementations: of each operator of `torch.ops.seqkern`, "module:function", imported on the
            first call.
        compiled: those that have compiled kernels on the CPU, which `register("CPU")` replaces.
    """

    def __init__(self, implementations: Mapping[str, str], compiled: Collection[str]) -> None:
        self.implementations = implementations
        self._compiled = compiled
        self._registered: dict[str, torch.library.Library] = {}
        if library.cpu.loaded and not support.missing:
            self.register("CUDA")

    def register(self, key: str) -> None:
        """Makes them run under a dispatch key. Tests take "CPU", until `unregister`."""
        self._registered[key] = torch.library.Library("seqkern", "IMPL")
        for name, implementation in self.implementations.items():
            replaces = key == "CPU" and name in self._compiled
            run = support.late(implementation)
            self._registered[key].impl(name, run, key, allow_override=replaces)

    def unregister(self, key: str) -> None:
        """What was there before, if anything, is there again."""
        self._registered.pop(key)._destroy()

    def refusal(self, device: torch.device) -> str:
        """Why they do not run on tensors of this device; "" where they do."""
        if library.cpu.reason is not None:
            return f"the library that holds the operators' schemas is missing: {library.cpu.reason}"
        refused = support.device_refusal(device)
        if not refused and device.type.upper() not in self._registered:
            return "on the CPU its kernels run in seqkern's own tests only"  # interpreted
        return refused
