"""What every domain needs to choose a backend: the state of the call, the pick, the explanation.

A domain's `choice.py` says for each backend why it cannot run a call ("" where it can) and which
one "auto" prefers; the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seqkern.core import library
from seqkern.core.backends import BACKENDS, Explanation, requested
from seqkern.core.dtypes import dtype_name

# What the kernels read and write. float16 goes through float32.
KERNEL_DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})
ACCEPTED_DTYPES = KERNEL_DTYPES | {torch.float16}

_LOADED = library.cpu.loaded
_autocast_enabled = torch._C._is_any_autocast_enabled
_transforming = torch._C._are_functorch_transforms_active


def runs_directly(input: Tensor) -> bool:
    """Whether the CPU kernels take this call exactly as it stands.

    The common case, decided by a few attribute reads; a domain's `choose` decides all others.
    """
    return (
        _LOADED
        and input.is_cpu
        and input.dtype in KERNEL_DTYPES
        and requested.value in ("auto", "cpu")
        and not _autocast_enabled()
        and not _transforming()
        and forward_ad._current_level < 0
    )


def transform(tensors: Iterable[Tensor | None]) -> str:
    """Names the function transform or the forward-mode tangent that a kernel cannot handle;
    "" where there is none."""
    if _transforming():
        return "a torch.func transform (grad, vmap, jvp, ...) is active"
    if forward_ad._current_level >= 0:
        for tensor in tensors:
            if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
                return "a tensor carries a forward-mode tangent"
    return ""


def cpu_refusal(input: Tensor, others: Iterable[Tensor | None]) -> str:
    """Why the CPU kernels cannot run a call with these tensors, as far as it is the same for every
    domain."""
    if not library.cpu.loaded:
        return str(library.cpu.reason)
    if input.device.type != "cpu":
        return f"its kernels run on the CPU, the input is on {input.device}"
    if input.dtype not in ACCEPTED_DTYPES:
        return f"no kernel for {input.dtype}: float32, float64, bfloat16 (float16 by float32)"
    return transform((input, *others))


def gpu_refusal(
    input: Tensor, others: Iterable[Tensor | None], dtypes: Collection[torch.dtype]
) -> str:
    """Why a domain's GPU kernels, which know these dtypes, cannot run a call on their device."""
    if input.dtype not in dtypes:
        known = ", ".join(sorted(dtype_name(dtype) for dtype in dtypes))
        return f"no kernel for {input.dtype}: {known}"
    return transform((input, *others))


def without_autocast(device_type: str) -> AbstractContextManager[None]:
    """Autocast off, where it is on: not every device type knows it."""
    if not _autocast_enabled():
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def no_kernel(domain: str) -> str:
    """The refusal of the GPU backends where a domain has no kernel for them."""
    gpu = "" if torch.cuda.is_available() else ", and this machine shows no CUDA GPU"
    return f"this version has no {domain} kernel for it{gpu}"


def cpu_strength(input: Tensor) -> str:
    """Why the CPU kernels are chosen, for `explained`."""
    through = ", through float32" if input.dtype == torch.float16 else ""
    return (
        f"fused kernels, ISA level {library.isa()} in use{through}; "
        "second derivatives by the reference"
    )


def pick(refused: dict[str, str], automatic: str) -> str:
    """The backend that runs the call: `automatic`, or the one that `use_backend` named.

    Raises:
        RuntimeError: that one cannot run it; says why.
    """
    name = requested.value if requested.value != "auto" else automatic
    if refused[name]:
        raise RuntimeError(f"backend {name!r} cannot run this call: {refused[name]}")
    return name


def explained(
    call: str,
    refused: dict[str, str],
    automatic: str,
    strength: Callable[[str], str],
    weakness: Callable[[str, str], str],
) -> Explanation:
    """`pick` with its reasons: `strength(backend)` says why the chosen one is chosen,
    `weakness(backend, chosen)` why another one that could run the call is not preferred."""
    name = requested.value
    wanted = automatic if name == "auto" else name
    chosen = "" if refused[wanted] else wanted
    reasons = {}
    for backend in BACKENDS:
        if refused[backend]:
            reasons[backend] = f"cannot: {refused[backend]}"
        elif backend == chosen:
            reasons[backend] = (
                f"runs: {strength(backend) if name == 'auto' else 'asked for by name'}"
            )
        elif name != "auto":
            reasons[backend] = f"could, but {name!r} was asked for by name"
        else:
            reasons[backend] = f"could, but {chosen!r} is preferred: {weakness(backend, chosen)}"
    return Explanation(call, chosen, reasons)
