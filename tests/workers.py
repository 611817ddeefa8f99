"""The tests in several processes at a time, which pytest-xdist calls workers: `make test`.

No test knows which worker runs it, or what ran there before; what it writes is in `tmp_path`.
One worker runs all tests of an `xdist_group`, one after the other: those that share a fixture of
MADE_ONCE, and those that are marked `pytest.mark.xdist_group("gigabytes")`.

Without pytest-xdist (`-n0`, `-p no:xdist`) there is one process, and none of this matters.
"""

from __future__ import annotations

import os

import pytest
import torch

# Fixtures of a module or a session that take seconds or minutes.
MADE_ONCE = ("all_cases", "both_sides", "built_tree", "emulator_archive", "measured")
_NOTHING_LEFT = "seqkern_nothing_left"


def configure(config: pytest.Config) -> None:
    """A worker for each core, so one thread for each worker: more would wait for each other,
    spinning. A test of threads asks for its own number."""
    if _is_worker(config):
        torch.set_num_threads(1)
        # Inductor reads it when it is imported: no pool of processes beside each worker.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def group(item: pytest.Item) -> None:
    """Keeps the tests together that share a fixture of MADE_ONCE."""
    for fixture in set(MADE_ONCE).intersection(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.xdist_group(fixture))


def tell_nothing_left(config: pytest.Config, nothing_left: bool) -> None:
    """From a worker to the process that reports: the tests that were named run in the other
    half."""
    if _is_worker(config):
        config.workeroutput[_NOTHING_LEFT] = nothing_left  # type: ignore[attr-defined]


def nothing_left(node: object) -> bool:
    """What a worker told."""
    return bool(getattr(node, "workeroutput", {}).get(_NOTHING_LEFT))


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
