"""What benchmark runs recorded, read from their JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]
"""The ``extra_info`` of one measurement, or a measurement of memory or errors; `pair.py` and the
``*_bench.py`` files write it."""

# What tells one measurement from another.
_IDENTITY = ("domain", "table", "row", "mode", "shape", "threads", "sweep", "at")


class NoBenchmark(Exception):
    """A file that pytest-benchmark did not write; the message names it."""


@dataclass
class Runs:
    """One run, or several taken together."""

    records: list[Record] = field(default_factory=list)
    """Pairs."""
    peak_memory: list[Record] = field(default_factory=list)
    errors: list[Record] = field(default_factory=list)
    peers: dict[str, str] = field(default_factory=dict)
    installations: list[str] = field(default_factory=list)
    """What `seqkern.info` said, without repetition."""


def read_runs(files: Sequence[Path]) -> Runs:
    """Read what pytest-benchmark wrote.

    Where two files hold the same measurement (same row, mode, shape, threads ...), the later
    file's counts: so a part of a run can be measured again.

    Raises:
        NoBenchmark: a file is missing or something else.
    """
    runs = Runs()
    for file in files:
        try:
            run = json.loads(file.read_text())
            pairs = [entry["extra_info"] for entry in run["benchmarks"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NoBenchmark(f"{file} is no benchmark JSON: {error!r}") from error
        runs.records += [record for record in pairs if "ratio" in record]
        runs.peak_memory += run.get("peak_memory", [])
        runs.errors += run.get("errors", [])
        runs.peers |= run.get("peers", {})
        installation = run.get("installation")
        if installation and installation not in runs.installations:
            runs.installations.append(installation)
    runs.records = _latest(runs.records)
    runs.peak_memory = _latest(runs.peak_memory)
    runs.errors = _latest(runs.errors)
    return runs


def read_gpu_records(files: Sequence[Path]) -> list[Record] | None:
    """What `bench.gpu` wrote; None where all files are of another kind.

    Raises:
        NoBenchmark: a file cannot be read, or some are of this kind and some are not.
    """
    found = []
    for file in files:
        try:
            found.append(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise NoBenchmark(f"{file} is no benchmark JSON: {error!r}") from error
    ours = [
        isinstance(content, dict) and {"gpu", "copy_gbs", "results"} <= content.keys()
        for content in found
    ]
    if any(ours) and not all(ours):
        other = files[ours.index(False)]
        raise NoBenchmark(f"{other} is no record of a GPU, the others are: report them apart")
    return found if any(ours) else None


def _latest(records: Iterable[Record]) -> list[Record]:
    """The last of the records of each measurement, where the first one stood."""
    found = {}
    for record in records:
        # Runs before there was a second domain did not say which they were of.
        record.setdefault("domain", "recurrent")
        found[tuple(record.get(name) for name in _IDENTITY)] = record
    return list(found.values())
