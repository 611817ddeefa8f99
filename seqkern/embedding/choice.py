"""Which backend runs a call of this wing, and why each other one does not."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seqkern import dispatch
from seqkern.backends import Explanation
from seqkern.dispatch import runs_directly

__all__ = ["choose", "explanation", "refusals", "runs_directly"]


def choose(weight: Tensor, others: Sequence[Tensor | None]) -> str:
    """The backend for a call with these tables and other tensors: "cpu" or "reference".

    Raises:
        RuntimeError: the backend named by `use_backend` cannot run it; says why.
    """
    refused = refusals(weight, others)
    return dispatch.pick(refused, "reference" if refused["cpu"] else "cpu")


def explanation(call: str, weight: Tensor, others: Sequence[Tensor | None]) -> Explanation:
    """`choose` with its reasons."""
    refused = refusals(weight, others)

    def strength(backend: str) -> str:
        if backend == "cpu":
            return dispatch.cpu_strength(weight)
        return f"plain PyTorch, on any device; no kernel can, {refused['cpu']}"

    return dispatch.explained(
        call,
        refused,
        "reference" if refused["cpu"] else "cpu",
        strength,
        lambda backend, chosen: "this is the specification, a dozen PyTorch operators",
    )


def refusals(weight: Tensor, others: Sequence[Tensor | None]) -> dict[str, str]:
    """For each backend why it cannot run a call with these tensors; "" where it can."""
    absent = dispatch.no_kernel("embedding")
    return {
        "cpu": _cpu(weight, others),
        "triton": absent,
        "cuda": absent,
        "torch": "PyTorch has no operator for it; 'reference' is plain PyTorch on any device",
        "reference": "",
    }


def _cpu(weight: Tensor, others: Sequence[Tensor | None]) -> str:
    # A table is large and few of its rows are read: it is not cast as a whole, as inputs are.
    if weight.is_floating_point() and weight.dtype not in dispatch.KERNEL_DTYPES:
        return f"no kernel for {weight.dtype}: float32, float64, bfloat16"
    return dispatch.cpu_refusal(weight, others)
