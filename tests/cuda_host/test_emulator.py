"""The emulator runs a correct kernel right for every seed, and catches what it promises to."""

from __future__ import annotations

import ctypes
import math
import signal
import subprocess
import sys

import pytest

INPUT = [float(i % 7) for i in range(256)]
SUMS = [sum(INPUT[:128]), sum(INPUT[128:])]

# Runs one kernel in a process of its own, because the emulator aborts.
ABORTING = """
import ctypes, sys
x, out = (ctypes.c_float * 256)(), (ctypes.c_float * 2)()
getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])(x, out, ctypes.c_uint64(0))
"""


@pytest.fixture(scope="module")
def library(emulated):
    return emulated("emulator_harness")


def run(library, kernel: str, seed: int) -> list[float]:
    x, out = (ctypes.c_float * 256)(*INPUT), (ctypes.c_float * 2)()
    getattr(ctypes.CDLL(str(library)), f"run_{kernel}")(x, out, ctypes.c_uint64(seed))
    return list(out)


def test_correct_kernel_is_right_for_every_seed(library):
    assert all(run(library, "block_sum", seed) == SUMS for seed in range(20))


def test_missing_barrier_shows_as_a_result_that_depends_on_the_seed(library):
    assert all(run(library, "read_after_other_warp", seed) == [2, 2] for seed in range(20))
    results = [run(library, "read_after_other_warp_without_barrier", seed) for seed in range(20)]
    assert len({str(result) for result in results}) > 2


def test_unset_shared_memory_reads_as_nan(library):
    assert all(map(math.isnan, run(library, "read_shared_memory_unset", 0)))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("block_sum_without_barrier", "race in memory: it"),
        ("barrier_in_a_branch", "divergent synchronisation: it waits at a barrier"),
        ("two_barriers_in_branches", "divergent synchronisation: it waits at a barrier"),
        ("shuffle_in_a_branch", "divergent synchronisation: it waits at a shuffle"),
        ("read_past_the_end", "out-of-bounds read of 4 bytes at byte 1024 of 'x', which has 1024"),
        ("write_past_shared_memory", "out-of-bounds write of 4 bytes at byte 512 of 'tile'"),
        ("write_into_input", "write into the read-only buffer 'x'"),
        ("misaligned_read", "misaligned read of 4 bytes"),
    ],
)
def test_fault_aborts_with_a_message(library, kernel, message):
    command = [sys.executable, "-c", ABORTING, str(library), f"run_{kernel}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT
    assert message in done.stderr
