"""Peak memory of one training step, measured by the operating system.

Run as a program of its own, ``python -m bench.memory SIDE KIND DTYPE SHAPE...``, it prints one
number of bytes per shape. PyTorch's profiler would see only PyTorch's own allocations, not those
that oneDNN or a kernel makes, so this reads the kernel's high-water mark of resident memory.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from .recurrent_cases import Case, Family, Shape, contestants

SIDES = ("seqkern", "torch")


def measure(side: str, family: Family, shapes: list[Shape]) -> list[int]:
    """Peak bytes of a warm training step beyond what weights and input take, for each shape.

    Args:
        side: "seqkern" or "torch"; each needs a process of its own, which this starts.
        family: the layer.
        shapes: its shapes.

    Raises:
        RuntimeError: the process failed; its last words are in the message.
    """
    dtype = str(family.dtype).removeprefix("torch.")
    words = [side, family.kind, dtype, *map(str, shapes)]
    # Blocks of 64 KiB and more come from the system and go back to it, so that the resident memory
    # is what is really in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    process = subprocess.run(
        [sys.executable, "-m", "bench.memory", *words],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    if process.returncode != 0:
        raise RuntimeError(f"bench.memory failed: {process.stderr[-2000:]}")
    peaks: list[int] = json.loads(process.stdout)
    return peaks


def can_measure() -> bool:
    """Whether this system lets a process reset its high-water mark (Linux does)."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def _peak_of_step(case: Case, side: str) -> int:
    contestant = contestants(case)[SIDES.index(side)]
    for _ in range(2):  # libraries make what they keep from call to call
        contestant()
    contestant.forget()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    contestant()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _main(side: str, kind: str, dtype: str, *shapes: str) -> None:
    family = Family(kind, getattr(torch, dtype))
    cases = [
        Case(family, Shape(*map(int, shape.split("x"))), "training", torch.get_num_threads())
        for shape in shapes
    ]
    print(json.dumps([_peak_of_step(case, side) for case in cases]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
