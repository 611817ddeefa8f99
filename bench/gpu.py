"""Measures the GPU kernels against PyTorch (the trainer of word vectors against gensim), both
alternately in one process, and within a budget of time.

    python -m bench.gpu build/bench-gpu.json

Writes every case with medians in milliseconds, ratio (the peer's time over ours) and what was
reached in TFLOP/s or GB/s; then the report of it (`bench.gpu_report`): the goals and whether they
are met, the cases, what failed, and what was left out for lack of time. A domain lists its cases in
`bench/<domain>_gpu_cases.py`, as `cases(device)`, the most important ones first: once the domain's
share of the time is over, the rest is left out, and named.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
import importlib
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import seqkern
from tests.gpu import trouble

from . import gpu_report
from .peers import peers

ROUNDS, FEWEST_ROUNDS = 30, 5
SECONDS_A_CASE = 4.0
"""After which a case with the fewest rounds behind it has been timed often enough."""
WARM_UP = 3
MINUTES = 7.0
LAST_SECONDS = 45
"""Beyond the budget, after which a kernel that never ends is given up, with the whole process."""
_CYCLES_AHEAD = 10**6  # of the GPU's clock: half a millisecond
CASES = "_gpu_cases.py"
DOMAINS = sorted(p.name.removesuffix(CASES) for p in Path(__file__).parent.glob("*" + CASES))
SHARES = {"attention": 0.22, "embedding": 0.30, "recurrent": 0.48}
"""Of the time. What a domain does not need the next one has."""


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        ours, theirs: do the work and return a tensor that both agree on.
        flops, bytes: what has to be computed and read, 0 where it says nothing.
        steps: of a loop over time, whose time for one is to be shown; else 0.
        tolerance: of the relative distance of the two results.
        rounds: how often both are timed, without more warming up than the comparison of their
            results; None: as often as all.
        quality: of what both have learnt, asked after the rounds: scores by name, (ours, theirs).
    """

    name: str
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]
    flops: float = 0.0
    bytes: float = 0.0
    steps: int = 0
    tolerance: float = 2e-2
    rounds: int | None = None
    quality: Callable[[], dict[str, tuple[float, float]]] | None = None


@dataclass(frozen=True)
class Result:
    """Of one case: medians of `rounds`, what ours reached (None where it says nothing), `error` how
    far the two results are apart, `quality` as the case has it."""

    name: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    error: float
    rounds: int
    tflops: float | None = None
    gbs: float | None = None
    step_us: float | None = None
    quality: dict[str, tuple[float, float]] | None = None


def measure(
    case: Case, device: torch.device, rounds: int = ROUNDS, seconds: float = SECONDS_A_CASE
) -> Result:
    """Compares the results, then times both alternately.

    Raises:
        AssertionError: the results differ.
    """
    mine, other = case.ours().double(), case.theirs().double()
    error = float((mine - other).norm() / other.norm().clamp_min(1e-30))
    assert error <= case.tolerance, f"{case.name}: results differ by {error:.2g}"
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    warm_up = WARM_UP if case.rounds is None else 0
    wanted = rounds if case.rounds is None else case.rounds
    start = time.perf_counter()
    for number in range(wanted + warm_up):
        done = number - warm_up
        if done >= FEWEST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for who, work in (("ours", case.ours), ("theirs", case.theirs)):
            taken = _milliseconds(work, device)
            if done >= 0:
                times[who].append(taken)
    ours, theirs = (statistics.median(times[who]) for who in ("ours", "theirs"))
    return Result(
        case.name,
        ours,
        theirs,
        theirs / ours,
        error,
        len(times["ours"]),
        tflops=case.flops / ours / 1e9 if case.flops else None,
        gbs=case.bytes / ours / 1e6 if case.bytes else None,
        step_us=ours / case.steps * 1e3 if case.steps else None,
        quality=case.quality() if case.quality else None,
    )


def _milliseconds(work: Callable[[], Tensor], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # Both sides alike: nothing of the last round is in the cache, and the GPU is busy long enough
    # for the first launches to be queued: what is timed is the GPU, not Python.
    _larger_than_the_cache(device).zero_()
    torch.cuda._sleep(_CYCLES_AHEAD)
    before.record()
    work()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


@functools.cache
def _larger_than_the_cache(device: torch.device) -> Tensor:
    return torch.empty(2**28, dtype=torch.uint8, device=device)


def copy_bandwidth(device: torch.device, numbers: int = 2**28) -> float:
    """GB/s, bytes read and bytes written, of the device's own copy of so many float32 numbers."""
    source = torch.zeros(numbers, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best = min(_milliseconds(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * source.nbytes / best / 1e6


def cases_of(domain: str, device: torch.device) -> Iterator[Case]:
    module: Any = importlib.import_module(f"bench.{domain}_gpu_cases")
    yield from module.cases(device)


class Run:
    """A run of the benchmark, whose record is written to `out` after every case.

    Attributes:
        record: what `gpu_report` reads.
    """

    def __init__(self, out: Path, device: torch.device, seconds: float, only: str = "") -> None:
        self._out, self._device, self._only = out, device, only
        self._start, self._seconds = time.monotonic(), seconds
        on_gpu = device.type == "cuda"
        self.record: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name(device) if on_gpu else "none: on the CPU",
            "copy_gbs": copy_bandwidth(device, 2**28 if on_gpu else 2**20),
            "installation": seqkern.info(),
            "peers": peers(),
            "seconds": seconds,
            "results": [],
            "failed": {},
            "left_out": [],
        }
        out.parent.mkdir(parents=True, exist_ok=True)

    def all(self) -> None:
        share = 0.0
        for domain in DOMAINS:
            share += SHARES[domain]
            self._domain(domain, self._start + self._seconds * share)
        self._save()

    def _domain(self, domain: str, until: float) -> None:
        try:
            for case in cases_of(domain, self._device):
                if self._only not in case.name:
                    continue
                if time.monotonic() > until:
                    self.record["left_out"].append(case.name)
                    print(f"no time left for {case.name}", flush=True)
                else:
                    self._case(case)
        except Exception as error:  # of listing them: the other domains go on
            self._failed(f"{domain}: its further cases", error)

    def _case(self, case: Case) -> None:
        try:
            result = measure(case, self._device)
        except Exception as error:
            self._failed(case.name, error)
        else:
            self.record["results"].append(asdict(result))
            print(gpu_report.line(self.record["results"][-1]), flush=True)
        self._save()

    def _failed(self, name: str, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        self.record["failed"][name] = said
        print(f"FAILED {name}: {said}", file=sys.stderr, flush=True)
        traceback.print_exception(error)

    def _save(self) -> None:
        self._out.write_text(json.dumps(self.record, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("-k", default="", help="only cases with this in their name")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="budget of time (default: %(default)s)"
    )
    options = parser.parse_args()
    reason = trouble()
    if reason:
        print(f"This command needs a CUDA GPU, and cannot use one here: {reason}.", file=sys.stderr)
        return 1
    seconds = 60 * options.minutes
    faulthandler.dump_traceback_later(seconds + LAST_SECONDS, exit=True, file=sys.__stderr__)
    run = Run(options.out, torch.device("cuda", torch.cuda.current_device()), seconds, options.k)
    run.all()
    faulthandler.cancel_dump_traceback_later()
    gpu_report.write(run.record, options.out.parent)
    print(gpu_report.markdown(run.record))
    return 1 if run.record["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
