"""Whether the CUDA library is built, with which nvcc, and for which architectures."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from . import BuildError
from .torch_location import find_torch

# Ampere, Hopper (with its wgmma and TMA) and Blackwell; see gencode_flags for everything newer.
DEFAULT_ARCHS = ("80", "90a", "100")


def find_nvcc() -> str | None:
    """nvcc of $CUDA_HOME, of PATH, or of the toolkit's usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [
        str(Path(home, "bin", "nvcc")) if home else None,
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
    ]
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def wants_cuda() -> bool:
    """SEQKERN_BUILD_CUDA: 1 and 0 decide; auto builds where nvcc is and torch has CUDA."""
    choice = os.environ.get("SEQKERN_BUILD_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise BuildError(f"SEQKERN_BUILD_CUDA is {choice!r}; it should be auto, 0 or 1")
    if choice != "auto":
        return choice == "1"
    torch = find_torch()
    return torch is not None and torch.cuda is not None and find_nvcc() is not None


def require_nvcc() -> str:
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError(
            "SEQKERN_BUILD_CUDA=1, but nvcc was not found; put it on PATH or name the CUDA toolkit"
            " in the environment variable CUDA_HOME"
        )
    return nvcc


def gencode_flags(nvcc: str) -> list[str]:
    """nvcc's -gencode flags for $SEQKERN_CUDA_ARCHS ("80 90a"), or for the defaults that it knows.

    The newest portable architecture also goes in as PTX, which later GPUs compile at load.
    """
    named = os.environ.get("SEQKERN_CUDA_ARCHS", "").replace(",", " ").replace(";", " ").split()
    archs = named or _known_defaults(nvcc)
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    portable = [arch for arch in archs if arch.isdigit()]
    if portable:
        newest = max(portable, key=int)
        flags.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    return flags


def _known_defaults(nvcc: str) -> list[str]:
    listing = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True)
    known = set(listing.stdout.split())
    return [arch for arch in DEFAULT_ARCHS if f"compute_{arch.rstrip('a')}" in known]
