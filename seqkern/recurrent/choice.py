"""Which backend runs a recurrent call, and why each other one does not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seqkern import library
from seqkern.backends import BACKENDS, Explanation, requested

# What the kernels read and write. float16 goes through float32.
KERNEL_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})
ACCEPTED_DTYPES = KERNEL_DTYPES | {torch.float16}

_LOADED = library.cpu.loaded
_autocast_enabled = torch._C._is_any_autocast_enabled
_transforming = torch._C._are_functorch_transforms_active


def runs_directly(input: Tensor) -> bool:
    """Whether the CPU kernels take this call exactly as it stands.

    The common case, decided by a few attribute reads; `choose` decides all others.
    """
    return (
        _LOADED
        and input.is_cpu
        and input.dtype in KERNEL_DTYPES
        and requested.name in ("auto", "cpu")
        and not _autocast_enabled()
        and not _transforming()
        and forward_ad._current_level < 0
    )


def choose(input: Tensor, others: Sequence[Tensor | None]) -> str:
    """The backend for a call with these tensors.

    Raises:
        RuntimeError: the backend named by `use_backend` cannot run it; says why.
    """
    name = requested.name
    refused = refusals(input, others)
    if name == "auto":
        return _automatic(refused, input, others)
    if refused[name]:
        raise RuntimeError(f"backend {name!r} cannot run this call: {refused[name]}")
    return name


def explanation(call: str, input: Tensor, others: Sequence[Tensor | None]) -> Explanation:
    """`choose` with its reasons."""
    refused = refusals(input, others)
    automatic = _automatic(refused, input, others)
    name = requested.name
    chosen = automatic if name == "auto" else name if not refused[name] else ""
    reasons = {}
    for backend in BACKENDS:
        if refused[backend]:
            reasons[backend] = f"cannot: {refused[backend]}"
        elif backend == chosen:
            why = _strength(backend, input, others) if name == "auto" else "asked for by name"
            reasons[backend] = f"runs: {why}"
        elif name != "auto":
            reasons[backend] = f"could, but {name!r} was asked for by name"
        else:
            reasons[backend] = f"could, but {chosen!r} is preferred: {_weakness(backend, chosen)}"
    return Explanation(call, chosen, reasons)


def refusals(input: Tensor, others: Sequence[Tensor | None]) -> dict[str, str]:
    """For each backend why it cannot run a call with these tensors; "" where it can."""
    gpu = "" if torch.cuda.is_available() else ", and this machine shows no CUDA GPU"
    absent = f"this version has no recurrent kernel for it{gpu}"
    return {
        "cpu": _cpu_refusal(input, others),
        "triton": absent,
        "cuda": absent,
        "torch": "",
        "reference": "",
    }


def _cpu_refusal(input: Tensor, others: Sequence[Tensor | None]) -> str:
    if not library.cpu.loaded:
        return str(library.cpu.reason)
    if input.device.type != "cpu":
        return f"its kernels run on the CPU, the input is on {input.device}"
    if input.dtype not in ACCEPTED_DTYPES:
        return f"no kernel for {input.dtype}: float32, float64, bfloat16 (float16 by float32)"
    return _transform(input, others)


def _transform(input: Tensor, others: Sequence[Tensor | None]) -> str:
    """Names the function transform or the forward-mode tangent that a kernel cannot see through."""
    if _transforming():
        return "a torch.func transform (grad, vmap, jvp, ...) is active"
    if forward_ad._current_level >= 0:
        for tensor in (input, *others):
            if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
                return "a tensor carries a forward-mode tangent"
    return ""


def _automatic(refused: dict[str, str], input: Tensor, others: Sequence[Tensor | None]) -> str:
    if not refused["cpu"]:
        return "cpu"
    return "reference" if _transform(input, others) else "torch"


def _strength(backend: str, input: Tensor, others: Sequence[Tensor | None]) -> str:
    if backend == "reference":
        return f"{_transform(input, others)}, and the reference works under all of them"
    if backend == "torch":
        return "PyTorch's own operator for this device and dtype"
    through = ", through float32" if input.dtype == torch.float16 else ""
    return (
        f"fused kernels, ISA level {library.isa()} in use{through}; "
        "second derivatives by the reference"
    )


def _weakness(backend: str, chosen: str) -> str:
    if backend == "reference":
        return "this is a slow loop, the specification"
    if chosen == "reference":
        return "PyTorch's operator fails under some transforms"
    return "seqkern's kernels come first wherever they can run the call"
