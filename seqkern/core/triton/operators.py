"""Triton's implementations of operators whose schemas the CPU library brings, beside the compiled
ones and under names of their own: `seqkern::attention_forward_triton` has the schema and the fake
of `seqkern::attention_forward`, runs on a CUDA GPU, and on the CPU where Triton interprets. Which
of the two runs a call is the domain's choice of a backend, not the dispatcher's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from seqkern.core import library
from seqkern.core.fakes import Fakes
from seqkern.core.triton import support


class TritonOperators:
    """A domain's operators that have Triton kernels.

    Args:
        implementations: of each operator, "module:function" with its arguments, imported on the
            first call.
        fakes: the domain's.
    """

    def __init__(self, implementations: Mapping[str, str], fakes: Fakes) -> None:
        self.implementations = implementations
        self._operators: dict[str, Any] = {}
        if not library.cpu.loaded or support.missing:
            return
        self._library = torch.library.Library("seqkern", "FRAGMENT")
        for name, implementation in implementations.items():
            own_name = triton_name(name)
            schema = str(getattr(torch.ops.seqkern, name).default._schema)
            self._library.define(schema.replace(f"seqkern::{name}(", f"{own_name}("))
            for key in ("CPU", "CUDA"):
                self._library.impl(own_name, support.late(implementation), key)
            fakes.register(own_name, like=name)
            self._operators[name] = getattr(torch.ops.seqkern, own_name).default

    def by_backend(self, name: str) -> dict[str, Any]:
        """The operator of each backend that has one here: "cpu" is the compiled one, which runs on
        a GPU as "cuda" where the CUDA library has kernels for it. To be called with positional
        arguments, and to be bound once: an attribute look-up in torch.ops costs a good part of a
        microsecond."""
        found = {}
        if library.cpu.loaded:
            found["cpu"] = found["cuda"] = getattr(torch.ops.seqkern, name).default
        if name in self._operators:
            found["triton"] = self._operators[name]
        return found

    def refusal(self, device: torch.device) -> str:
        """Why they do not run on tensors of this device; "" where they do."""
        if library.cpu.reason is not None:
            return f"the library that holds the operators' schemas is missing: {library.cpu.reason}"
        return support.device_refusal(device)


def triton_name(name: str) -> str:
    """Of the operator beside `name`; both end with _ if they change their arguments."""
    return f"{name.rstrip('_')}_triton{'_' if name.endswith('_') else ''}"
