"""The tests for a GPU in several processes: each test in one of them, and no failure goes unseen.
No GPU is asked."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import gpu, triton_device
from tests.limits import HANGS

# What `triton_device` does, which takes seconds to import.
CONFTEST = """
import os
def pytest_collection_modifyitems(items):
    assert os.environ["SEQKERN_TEST_DEVICE"] == "cuda"
    part, parts = map(int, os.environ["SEQKERN_TEST_PART"].split("/"))
    items[:] = items[part::parts]
"""
START = """
import time
from pathlib import Path
import pytest
@pytest.mark.parametrize("number", range(5))
def test_mine(number):
    with open(Path(__file__).parent / f"ran-{number}", "a") as file:
        file.write("x")
"""


@pytest.fixture
def some_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SEQKERN_TEST_DEVICE", raising=False)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path / "test_some.py"


def run(tests: Path, count: int) -> int:
    return gpu.run(["-p", "no:cacheprovider", str(tests)], count, HANGS)


def test_each_test_runs_once(some_tests, capsys):
    some_tests.write_text(START)
    assert run(some_tests, 3) == 0
    assert [(some_tests.parent / f"ran-{n}").read_text() for n in range(5)] == ["x"] * 5
    said = capsys.readouterr().out
    assert said.count("2 passed") == 2 and said.count("1 passed") == 1


@pytest.mark.parametrize(
    "part, left", [("0/1", [0, 1, 2]), ("0/2", [0, 2]), ("2/4", [2]), ("3/4", [])]
)
def test_a_part_is_of_the_tests_for_a_gpu(part, left, monkeypatch):
    """And a part without any is no failure."""
    items = [Item(mark) for mark in ("", "cuda", "triton", "", "cuda")]
    mine = [item for item in items if item.mark]
    deselected: list[Item] = []
    config = SimpleNamespace(
        stash={}, hook=SimpleNamespace(pytest_deselected=lambda items: deselected.extend(items))
    )
    session = SimpleNamespace(config=config, exitstatus=pytest.ExitCode.NO_TESTS_COLLECTED)
    monkeypatch.setenv("SEQKERN_TEST_PART", part)
    monkeypatch.setattr(triton_device, "DEVICE", "cuda")
    monkeypatch.setattr(triton_device, "RUNS_KERNELS", True)
    chosen = list(items)
    triton_device.select(config, chosen)
    assert chosen == [mine[n] for n in left] and set(chosen) | set(deselected) == set(items)
    triton_device.forgive_an_empty_half(session, session.exitstatus)
    assert (session.exitstatus == pytest.ExitCode.OK) == (not left)


class Item:
    """A test with one marker."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def get_closest_marker(self, name: str) -> bool:
        return name == self.mark


def test_a_failure_is_shown(some_tests, capsys):
    some_tests.write_text(START + "    assert number != 3, 'not three'\n")
    assert run(some_tests, 2) == 1
    said = capsys.readouterr().out
    assert "part 2 of 2: FAILED" in said and "not three" in said and "part 1 of 2:\n" in said


def test_what_hangs_is_killed_and_named(some_tests, capsys, monkeypatch):
    """The time is up when the last test runs, however long it takes to get there."""
    some_tests.write_text(START + "    time.sleep(3000 if number == 4 else 0)\n")
    asked: list[float] = []

    def clock() -> float:
        give_up = time.monotonic() + HANGS
        while asked and not (some_tests.parent / "ran-4").exists():
            assert time.monotonic() < give_up
            time.sleep(0.05)
        asked.append(2 * HANGS if asked else 0.0)
        return asked[-1]

    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=clock))
    assert run(some_tests, 1) == 1
    said = capsys.readouterr().out
    assert "part 1 of 1: NOT DONE IN TIME" in said
    assert "test_some.py::test_mine[4]" in said.rstrip().splitlines()[-1]


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "trouble", lambda: "there is none")
    monkeypatch.setattr(gpu, "run", lambda *_: pytest.fail("it ran"))
    for words in ([], ["run", "-k", "x"]):
        assert gpu.main(words) == 1
        assert "cannot use one here: there is none" in capsys.readouterr().err
    monkeypatch.setattr(gpu, "trouble", lambda: "")
    monkeypatch.setattr(gpu, "run", lambda arguments, count: (arguments, count))
    assert gpu.main(["run", "-k", "x"]) == (["-k", "x"], gpu.parts())
