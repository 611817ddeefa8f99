"""Which backend runs an attention call, and why each other one does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkern.attention.registration import triton_operators
from seqkern.core import dispatch
from seqkern.core.backends import Explanation, requested
from seqkern.core.dispatch import runs_directly
from seqkern.core.triton import tuning

# What the Triton kernels know. Wider heads do not fit into registers as one tile.
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TRITON_WIDEST = 256

__all__ = ["choose", "explanation", "refusals", "runs_directly"]


def choose(query: Tensor, others: Sequence[Tensor | None], extras: str = "") -> str:
    """The backend for a call with these tensors.

    Args:
        extras: the first argument of the call that PyTorch's attention does not know; "" if none.

    Raises:
        RuntimeError: the backend named by `use_backend` cannot run it, or none can; says why.
    """
    if requested.value == "auto" and not dispatch.cpu_refusal(query, others):
        return "cpu"  # what comes first is chosen without asking the others
    refused = refusals(query, others, extras)
    return dispatch.pick(refused, _automatic(refused, query, others))


def explanation(
    call: str, query: Tensor, others: Sequence[Tensor | None], extras: str = ""
) -> Explanation:
    """`choose` with its reasons."""
    refused = refusals(query, others, extras)
    automatic = _automatic(refused, query, others)

    def strength(backend: str) -> str:
        if backend == "cpu":
            return dispatch.cpu_strength(query)
        if backend == "triton":
            fixed = tuning.refusal(query.device) if tuning.wanted.value else "tuning is off"
            tiles = f"fixed tile sizes ({fixed})"
            if not fixed:
                tiles = "tile sizes tuned where the call is plain or causal"
            return f"fused kernels, {tiles}; second derivatives by the reference"
        if backend == "torch":
            return "PyTorch's own operator for this device and dtype"
        reason = dispatch.transform((query, *others))
        return (
            f"{reason}, and the reference works under all of them"
            if reason
            else "no other backend can"
        )

    return dispatch.explained(call, refused, automatic, strength, _weakness)


def refusals(query: Tensor, others: Sequence[Tensor | None], extras: str) -> dict[str, str]:
    """For each backend why it cannot run a call with these tensors; "" where it can."""
    floating = query.is_floating_point() and query.element_size() > 1
    return {
        "cpu": dispatch.cpu_refusal(query, others),
        "triton": _triton_refusal(query, others),
        "cuda": dispatch.no_kernel("attention"),
        "torch": f"PyTorch's attention has no {extras}" if extras else "",
        "reference": "" if floating else f"it needs floating-point numbers, got {query.dtype}",
    }


def _triton_refusal(query: Tensor, others: Sequence[Tensor | None]) -> str:
    refused = triton_operators.refusal(query.device) or dispatch.gpu_refusal(
        query, others, TRITON_DTYPES
    )
    if refused:
        return refused
    for tensor in (query, *others[:2]):  # with key and value
        width = tensor.shape[-1] if tensor is not None and tensor.dim() else 0
        if not 0 < width <= TRITON_WIDEST:
            return f"heads of 1 to {TRITON_WIDEST} features, this call has {width}"
    return ""


def _automatic(refused: dict[str, str], query: Tensor, others: Sequence[Tensor | None]) -> str:
    if not refused["cpu"]:
        return "cpu"
    transformed = dispatch.transform((query, *others)) and not refused["reference"]
    if not refused["torch"] and not transformed:
        return "torch"
    # Interpreted, on the CPU, it is for tests only.
    return "triton" if query.is_cuda and not refused["triton"] else "reference"


def _weakness(backend: str, chosen: str) -> str:
    if backend == "triton":
        return "Triton's kernels have not been measured against it on a GPU yet"
    if backend == "reference":
        return "this is the specification, which keeps all scores in memory"
    if chosen == "reference":
        return "PyTorch's operator fails under some transforms"
    return "seqkern's kernels come first wherever they can run the call"
