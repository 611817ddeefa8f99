"""Where seqkern is slower than PyTorch, among random shapes: ``python -m bench.random_shapes``.

Draws cases (see `random_cases.py`), measures each in turns with PyTorch's after checking that the
results agree, and prints for each group and number of threads how many of them there are, the
geometric mean of PyTorch's time over ours, the worst, and the share below 0.95. A case that comes
out below 0.95 is measured twice more and counts as slower where it is so all three times. Cases
that `auto` leaves to PyTorch are counted by themselves: their ratio says what asking costs.

Another ``--seed`` draws another set. With ``--watched`` no case is drawn: those of
`watched_cases.py`, named shapes that were once slower, are measured and listed one by one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any, NamedTuple

import seqkern
from seqkern.core.timing import interleave, timed
from seqkern.swapping.comparison import TOLERANCE

from . import settings
from .cases import Case, thread_count
from .pair import check_pair
from .random_cases import GROUPS, draw
from .watched_cases import watched

SLOWER = 0.95
"""PyTorch's time over ours below which a case counts as slower."""
REPETITIONS = 3


class Measured(NamedTuple):
    """One case, as it goes into the JSON."""

    group: str
    case: str
    threads: int
    backend: str
    ratios: list[float]
    """PyTorch's shortest time over ours; three where the first is below `SLOWER`."""
    ours: float
    """The shortest time, in seconds, of the first measurement."""

    @property
    def ratio(self) -> float:
        """The best: what is slower only now and then is not slower."""
        return max(self.ratios)

    @property
    def slower(self) -> bool:
        return self.ratio < SLOWER


def measure(group: str, case: Case) -> Measured:
    """Checks that both sides of a case agree, and times them.

    Raises:
        AssertionError: our results are wrong.
    """
    with thread_count(case.threads):
        ours, theirs = case.contestants()
        check_pair(
            ours, theirs, TOLERANCE[case.dtype], lambda: case.reference(theirs), case.stand_in()
        )
        seconds = timed(ours) + timed(theirs)
        rounds = round(settings.SECONDS_PER_PAIR / max(seconds, 1e-6))
        rounds = max(settings.MIN_ROUNDS, min(settings.MAX_ROUNDS, rounds))
        ratios: list[float] = []
        shortest = 0.0
        while not ratios or (max(ratios) < SLOWER and len(ratios) < REPETITIONS):
            times = interleave(ours, theirs, rounds)
            ratios.append(min(times.second) / min(times.first))
            shortest = shortest or min(times.first)
        return Measured(group, str(case), case.threads, ours.backend(), ratios, shortest)


def table(measured: Iterable[Measured]) -> str:
    """Markdown: a row for each group and number of threads, another for what PyTorch serves."""
    rows = [
        "| group | threads | cases | geometric mean | worst | below 0.95 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[str, int], list[Measured]] = {}
    for one in measured:
        left = " left to PyTorch" if one.backend == "torch" else ""
        groups.setdefault((one.group + left, one.threads), []).append(one)
    for (name, threads), found in sorted(groups.items()):
        ratios = [one.ratio for one in found]
        slower = sum(one.slower for one in found)
        rows.append(
            f"| {name} | {threads} | {len(found)} | {geometric_mean(ratios):.2f} "
            f"| {min(ratios):.2f} | {slower} ({slower / len(found):.0%}) |"
        )
    return "\n".join(rows)


def listing(measured: Iterable[Measured], all_of_them: bool = False) -> str:
    """The slower cases, or all, the worst first."""
    chosen = [one for one in measured if one.slower or all_of_them]
    return "\n".join(
        f"{one.ratio:.2f}  {one.group}: {one.case} ({one.backend}, {one.ours * 1e6:.0f} us)"
        for one in sorted(chosen, key=lambda one: one.ratio)
    )


def record(measured: Sequence[Measured], seed: int) -> dict[str, Any]:
    """What is written as JSON."""
    rows = [one._asdict() for one in measured]
    # Without the path of this checkout, which is private.
    machine = seqkern.info().replace(f"{Path(__file__).parents[1]}/", "").splitlines()
    return {"seed": seed, "machine": machine, "measured": rows}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report. Returns the exit status: 1 if our results were wrong anywhere."""
    parser = argparse.ArgumentParser(prog="python -m bench.random_shapes", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="cases of each group")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument(
        "--watched", action="store_true", help="known shapes instead of random ones"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=list(settings.THREADS))
    parser.add_argument("--out", type=Path, help="where to write all measurements as JSON")
    options = parser.parse_args(arguments)
    measured: list[Measured] = []
    wrong: list[str] = []
    for group in options.groups:
        for threads in options.threads:
            if options.watched:
                cases = watched(threads).get(group, [])
            else:
                cases = draw(group, options.count, options.seed, threads)
            for case in cases:
                try:
                    measured.append(measure(group, case))
                except AssertionError as error:
                    wrong.append(f"wrong results: {group}: {case}: {error}")
                    print(wrong[-1], file=sys.stderr)
        if options.out is not None:
            options.out.write_text(json.dumps(record(measured, options.seed), indent=1) + "\n")
    print(table(measured))
    print(listing(measured, all_of_them=options.watched))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
