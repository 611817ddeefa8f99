"""Which backend runs a recurrent call, and why each other one does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkern.core import dispatch
from seqkern.core.backends import Explanation
from seqkern.core.dispatch import runs_directly
from seqkern.recurrent import registration

GPU_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

__all__ = ["choose", "explanation", "refusals", "runs_directly"]


def choose(input: Tensor, others: Sequence[Tensor | None], projected: bool = False) -> str:
    """The backend for a call with these tensors, `projected` with a projected state.

    Raises:
        RuntimeError: the backend named by `use_backend` cannot run it; says why.
    """
    refused = refusals(input, others, projected)
    return dispatch.pick(refused, _automatic(refused, input, others))


def explanation(
    call: str, input: Tensor, others: Sequence[Tensor | None], projected: bool = False
) -> Explanation:
    """`choose` with its reasons."""
    refused = refusals(input, others, projected)

    def strength(backend: str) -> str:
        if backend == "reference":
            reason = dispatch.transform((input, *others))
            return f"{reason}, and the reference works under all of them"
        if backend == "torch":
            return "PyTorch's own operator for this device and dtype"
        return dispatch.cpu_strength(input)

    automatic = _automatic(refused, input, others)
    return dispatch.explained(call, refused, automatic, strength, _weakness)


def refusals(
    input: Tensor, others: Sequence[Tensor | None], projected: bool = False
) -> dict[str, str]:
    """For each backend why it cannot run a call with these tensors; "" where it can."""
    return {
        "cpu": dispatch.cpu_refusal(input, others),
        "triton": registration.triton_operators.refusal(input.device)
        or dispatch.gpu_refusal(input, others, GPU_DTYPES),
        "cuda": registration.cuda_refusal(input.device)
        or ("no kernel for a projected state (proj_size)" if projected else "")
        or dispatch.gpu_refusal(input, others, GPU_DTYPES),
        "torch": "",
        "reference": "",
    }


def _automatic(refused: dict[str, str], input: Tensor, others: Sequence[Tensor | None]) -> str:
    if not refused["cpu"]:
        return "cpu"
    return "reference" if dispatch.transform((input, *others)) else "torch"


def _weakness(backend: str, chosen: str) -> str:
    if backend == "reference":
        return "this is a slow loop, the specification"
    if backend in ("triton", "cuda"):
        return "its kernels have not been measured on a GPU yet"
    if chosen == "reference":
        return "PyTorch's operator fails under some transforms"
    return "seqkern's kernels come first wherever they can run the call"
