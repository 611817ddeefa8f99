"""For a bug report: versions, machine, libraries, environment."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from seqkern._version import __version__
from seqkern.core import library
from seqkern.core.triton import support, tuning

# Everything that changes which kernel runs, or how many threads run it.
_ENVIRONMENT = ("SEQKERN_", "OMP_", "MKL_", "KMP_", "GOMP_", "CUDA_VISIBLE", "TRITON_", "PYTORCH_")


def info() -> str:
    """A table about this installation, for `python -m seqkern info` and bug reports.

    Returns:
        A table of versions, processor, threads, which libraries are loaded and why not, GPUs and
        environment variables, in lines `name  value`.
    """
    rows = {
        "seqkern": __version__,
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.platform()}, {' '.join(platform.libc_ver())}",
        "CPU": f"{_cpu_model()}, {_usable_cores()} cores usable",
        "threads": f"{torch.get_num_threads()} (torch.get_num_threads())",
        "CPU library": _state(library.cpu),
        **_cpu_library_details(),
        "CUDA library": _state(library.cuda),
        "text core": _state(library.text_core),
        "Triton": support.state(),
        "  tuning": tuning.state(),
        "GPU": _gpus(),
        "environment": _environment(),
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _state(lib: library.Library) -> str:
    return f"loaded from {lib.path}" if lib.loaded else f"not loaded: {lib.reason}"


def _cpu_library_details() -> dict[str, str]:
    if not library.cpu.loaded:
        return {}
    return {
        "  ISA": f"{library.isa()} in use; available: {', '.join(library.isa_levels())}",
        "  built by": library.build_info(),
    }


def _cpu_model() -> str:
    # platform.processor() is empty or just "x86_64" on most Linux systems.
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _usable_cores() -> int:
    # What containers and taskset allow this process, where the system reports it.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    return "; ".join(map(_gpu, range(torch.cuda.device_count())))


def _gpu(index: int) -> str:
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"


def _environment() -> str:
    relevant = {k: v for k, v in sorted(os.environ.items()) if k.startswith(_ENVIRONMENT)}
    return " ".join(f"{name}={value}" for name, value in relevant.items()) or "nothing relevant set"
