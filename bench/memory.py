"""Peak memory of one training step, measured by the operating system.

Run as a program of its own, ``python -m bench.memory``, it reads pickled cases from its standard
input and prints one number of bytes per case. PyTorch's profiler would see only PyTorch's own
allocations, not those that oneDNN or a kernel makes, so this reads the kernel's high-water mark of
resident memory.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cases import SIDES, Case, Contestant, choose_side, thread_count


def records(cases: Sequence[Case], small: Case | None = None) -> list[dict[str, Any]]:
    """Peak memory of each case, ours and PyTorch's, as the report reads it; see `measure`."""
    peaks = zip(*(measure(side, cases, small) for side in SIDES), strict=True)
    return [
        {
            "domain": case.domain,
            "row": case.row,
            "shape": case.size,
            "threads": case.threads,
            "ours": ours,
            "peer": theirs,
        }
        for case, (ours, theirs) in zip(cases, peaks, strict=True)
    ]


def measure(side: str, cases: Sequence[Case], small: Case | None = None) -> list[int]:
    """Peak bytes of a training step beyond what weights, input and output gradient take.

    Args:
        side: "seqkern" or "torch"; each needs a process of its own, which this starts.
        cases: what to measure, one after the other in that process.
        small: a case for which next to no memory is needed. With it, each case is measured at its
            first step, after a step of the small case has loaded the program. Without it, each
            case has two steps before, so that memory which libraries keep from call to call does
            not count.

    Raises:
        RuntimeError: the process failed; the end of its output is in the message.
    """
    # Blocks of 64 KiB and more come from the system and go back to it, so that the resident memory
    # is what is really in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    process = subprocess.run(
        [sys.executable, "-m", "bench.memory"],
        input=pickle.dumps((side, list(cases), small)),
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
    )
    if process.returncode != 0:
        last_words = process.stderr.decode(errors="replace")[-2000:]
        raise RuntimeError(f"bench.memory failed ({process.returncode}): {last_words}")
    peaks: list[int] = json.loads(process.stdout)
    return peaks


def can_measure() -> bool:
    """Whether this system lets a process reset its high-water mark (Linux does)."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def _peak_of_step(contestant: Contestant) -> int:
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


def _peak_of_case(case: Case, side: str, warm_up: int) -> int:
    with thread_count(case.threads):
        contestant = choose_side(case, side)
        for _ in range(warm_up):
            contestant()
        contestant.forget()
        return _peak_of_step(contestant)


def _main() -> None:
    side, cases, small = pickle.load(sys.stdin.buffer)
    if small is not None:
        _peak_of_case(small, side, warm_up=1)
    print(json.dumps([_peak_of_case(case, side, 0 if small else 2) for case in cases]))


if __name__ == "__main__":
    _main()
