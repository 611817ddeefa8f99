"""The records in ``bench/results`` that the documentation shows."""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from bench.runs import Runs, read_runs

FOLDER = Path(__file__).resolve().parents[2] / "bench" / "results"


@dataclass(frozen=True)
class Machine:
    """One folder of `bench/results`.

    Attributes:
        folder: its name.
        label: the machine in a few words, for the head of a column.
    """

    folder: str
    label: str

    @property
    def path(self) -> Path:
        return FOLDER / self.folder

    def files(self) -> list[Path]:
        """The records of its report, in the order that the folder's README gives: of a case that
        two of them hold the later one counts."""
        command = re.search(r"python -m bench\.report (.+)", (self.path / "README.md").read_text())
        if command is None:
            raise ValueError(f"{self.path / 'README.md'} names no command that makes the report")
        files: dict[Path, None] = {}  # a set that keeps the order
        for pattern in shlex.split(command[1]):
            files.update(dict.fromkeys(sorted(self.path.glob(pattern))))
        return list(files)


MACHINES = {
    "xeon": Machine("2026-11-23-xeon-amx-2cores", "Intel Xeon (AMX)"),
    "epyc": Machine("2026-11-25-epyc-zen5-2cores", "AMD EPYC (Zen 5)"),
}


@functools.cache
def runs(machine: str) -> Runs:
    """All that its report is made of."""
    return read_runs(MACHINES[machine].files())
