"""Which backend runs a call of this domain, and why each other one does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkern.core import dispatch
from seqkern.core.backends import Explanation
from seqkern.core.dispatch import runs_directly
from seqkern.embedding import registration

# What the Triton kernels know. Wider rows do not fit into registers as one tile.
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TRITON_WIDEST = 2048
KERNELS = ("cpu", "triton")
"""The backends that run seqkern's operators."""

__all__ = ["KERNELS", "choose", "explanation", "refusals", "runs_directly"]


def choose(weight: Tensor, others: Sequence[Tensor | None]) -> str:
    """The backend for a call with these tables and other tensors: "cpu", "triton" or "reference".

    Raises:
        RuntimeError: the backend named by `use_backend` cannot run it; says why.
    """
    refused = refusals(weight, others)
    return dispatch.pick(refused, _automatic(weight, refused))


def explanation(call: str, weight: Tensor, others: Sequence[Tensor | None]) -> Explanation:
    """`choose` with its reasons."""
    refused = refusals(weight, others)

    def strength(backend: str) -> str:
        if backend == "cpu":
            return dispatch.cpu_strength(weight)
        if backend == "triton":
            return "fused kernels, not yet measured on a GPU; second derivatives by the reference"
        return f"plain PyTorch, on any device; no kernel can, {refused['cpu']}"

    def weakness(backend: str, chosen: str) -> str:
        if backend == "triton":  # interpreted, on the CPU
            return "the CPU has kernels of its own"
        return "this is the specification, a dozen PyTorch operators"

    return dispatch.explained(call, refused, _automatic(weight, refused), strength, weakness)


def refusals(weight: Tensor, others: Sequence[Tensor | None]) -> dict[str, str]:
    """For each backend why it cannot run a call with these tensors; "" where it can."""
    return {
        "cpu": _cpu(weight, others),
        "triton": _triton(weight, others),
        "cuda": dispatch.no_kernel("embedding"),
        "torch": "PyTorch has no operator for it; 'reference' is plain PyTorch on any device",
        "reference": "",
    }


def _automatic(weight: Tensor, refused: dict[str, str]) -> str:
    if not refused["cpu"]:
        return "cpu"
    # Interpreted, on the CPU, it is for tests only.
    return "triton" if weight.is_cuda and not refused["triton"] else "reference"


def _cpu(weight: Tensor, others: Sequence[Tensor | None]) -> str:
    # A table is large and few of its rows are read: it is not cast as a whole, as inputs are.
    if weight.is_floating_point() and weight.dtype not in dispatch.KERNEL_DTYPES:
        return f"no kernel for {weight.dtype}: float32, float64, bfloat16"
    return dispatch.cpu_refusal(weight, others)


def _triton(weight: Tensor, others: Sequence[Tensor | None]) -> str:
    refused = registration.triton_operators.refusal(weight.device) or dispatch.gpu_refusal(
        weight, others, TRITON_DTYPES
    )
    if not refused and weight.dim() == 2 and weight.shape[1] > TRITON_WIDEST:
        return f"rows of up to {TRITON_WIDEST} features, these have {weight.shape[1]}"
    return refused
