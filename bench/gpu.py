"""Measures the GPU kernels against PyTorch (the trainer of word vectors against gensim), both
alternately in one process.

    python -m bench.gpu build/bench-gpu.json

Writes every case with medians in milliseconds, ratio (the peer's time over ours), what was reached
in TFLOP/s or GB/s and the target, and prints that as a table. A domain lists its cases in
`bench/<domain>_gpu_cases.py`, as `cases(device)`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import seqkern
from tests.gpu import trouble

ROUNDS = 30
CASES = "_gpu_cases.py"
DOMAINS = sorted(p.name.removesuffix(CASES) for p in Path(__file__).parent.glob("*" + CASES))


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        ours, theirs: do the work and return a tensor that both agree on.
        flops, bytes: what has to be computed and read, 0 where it says nothing.
        steps: of a loop over time, whose time for one is to be shown; else 0.
        target: the least ratio.
        tolerance: of the relative distance of the two results.
        rounds: how often both are timed; None: as often as all.
    """

    name: str
    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]
    flops: float = 0.0
    bytes: float = 0.0
    steps: int = 0
    target: float | None = None
    tolerance: float = 2e-2
    rounds: int | None = None


@dataclass(frozen=True)
class Result:
    """Of one case; `reached` in TFLOP/s, GB/s or microseconds a step, `error` how far the two
    results are apart."""

    name: str
    ours_ms: float
    theirs_ms: float
    ratio: float
    reached: str
    target: float | None
    error: float


def measure(case: Case, device: torch.device, rounds: int = ROUNDS) -> Result:
    """Compares the results, then times both alternately.

    Raises:
        AssertionError: the results differ.
    """
    mine, other = case.ours().double(), case.theirs().double()
    error = float((mine - other).norm() / other.norm().clamp_min(1e-30))
    assert error <= case.tolerance, f"{case.name}: results differ by {error:.2g}"
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range((case.rounds or rounds) + 3):
        for who, work in (("ours", case.ours), ("theirs", case.theirs)):
            taken = _milliseconds(work, device)
            if number >= 3:
                times[who].append(taken)
    ours, theirs = (statistics.median(times[who]) for who in ("ours", "theirs"))
    reached = ""
    if case.steps:
        reached = f"{ours / case.steps * 1e3:.2f} us a step"
    elif case.flops:
        reached = f"{case.flops / ours / 1e9:.0f} TFLOP/s"
    elif case.bytes:
        reached = f"{case.bytes / ours / 1e6:.0f} GB/s"
    return Result(case.name, ours, theirs, theirs / ours, reached, case.target, error)


def _milliseconds(work: Callable[[], Tensor], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1e3
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    work()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


def table(results: list[Result]) -> str:
    """In Markdown."""
    lines = [
        "| case | ours, ms | peer, ms | ratio | target | reached |",
        "|---|---|---|---|---|---|",
    ]
    for r in results:
        target = "" if r.target is None else f">= {r.target:g}"
        numbers = f"{r.ours_ms:.3f} | {r.theirs_ms:.3f} | {r.ratio:.2f} | {target} | {r.reached}"
        lines.append(f"| {r.name} | {numbers} |")
    return "\n".join(lines)


def groups(results: list[Result]) -> str:
    """The geometric means over groups of cases that the domains' targets are about."""
    lines = ["| group | cases | geometric mean | target |", "|---|---|---|---|"]
    for domain in DOMAINS:
        module = importlib.import_module(f"bench.{domain}_gpu_cases")
        for start, target in getattr(module, "GROUPS", {}).items():
            ratios = [r.ratio for r in results if r.name.startswith(f"{start} ")]
            if ratios:
                wanted = "" if target is None else f">= {target:g}"
                mean = statistics.geometric_mean(ratios)
                lines.append(f"| {start} | {len(ratios)} | {mean:.2f} | {wanted} |")
    return "\n".join(lines)


def cases(device: torch.device) -> Iterator[Case]:
    for domain in DOMAINS:
        yield from importlib.import_module(f"bench.{domain}_gpu_cases").cases(device)


def copy_bandwidth(device: torch.device) -> float:
    """GB/s, bytes read and bytes written, of the device's own copy of 1 GiB."""
    source = torch.empty(2**28, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best = min(_milliseconds(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * source.numel() * 4 / best / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("-k", default="", help="only cases with this in their name")
    options = parser.parse_args()
    reason = trouble()
    if reason:
        print(f"This command needs a CUDA GPU, and cannot use one here: {reason}.", file=sys.stderr)
        return 1
    device = torch.device("cuda")
    results = []
    for case in cases(device):
        if options.k in case.name:
            results.append(measure(case, device))
            print(results[-1], flush=True)
    record = {
        "gpu": torch.cuda.get_device_name(),
        "copy_gbs": copy_bandwidth(device),
        "installation": seqkern.info(),
        "results": [asdict(result) for result in results],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(results), groups(results), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
