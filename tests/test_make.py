"""`make test` runs both halves of the tests and says whether all passed. No test runs here: a
script stands for Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Writes down what it is asked, and fails in the halves that the test names.
STAND_IN = """#!/bin/sh
case "$*" in
*pytest*) half=${TRITON_INTERPRET:-0}; echo "$half $*" >> ran
    case " $FAILING " in *" $half "*) exit 2;; esac;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clone that is installed."""
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    (tmp_path / ".venv/.seqkern-installed").write_text("torch==2.13.*\n")
    return tmp_path


def make(folder: Path, *words: str, failing: str = "") -> tuple[int, list[str]]:
    """Its exit status, and what it asked of pytest."""
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "ARGS", "JOBS")}
    env |= {"FAILING": failing}
    env.pop("TRITON_INTERPRET", None)
    done = subprocess.run(["make", *words], cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, (folder / "ran").read_text().splitlines()


@pytest.mark.parametrize("failing", ["", "0", "1", "0 1"])
def test_both_halves_run_and_no_failure_is_lost(folder, failing):
    status, ran = make(folder, "test", "JOBS=3", failing=failing)
    words = "-m pytest -n 3 --dist loadgroup -m not slow"
    assert [line.strip() for line in ran] == [f"0 {words}", f"1 {words}"]
    assert (status != 0) == bool(failing)


def test_what_args_say_comes_last(folder):
    status, ran = make(folder, "test", "ARGS=-n0 -m '' -k lstm")
    assert status == 0 and len(ran) == 2
    assert all(line.endswith("-m not slow -n0 -m  -k lstm") for line in ran)


def test_the_slow_ones(folder):
    status, ran = make(folder, "test-slow", failing="0")
    assert status != 0 and len(ran) == 1 and ran[0].split()[-2:] == ["-m", "slow"]


def test_sanitizers_and_workers_do_not_mix(folder):
    """What is preloaded would be preloaded into each; `build_tools` says where the library is."""
    _, ran = make(folder, "sanitize")
    assert len(ran) == 1 and "-p no:xdist" in ran[0]
