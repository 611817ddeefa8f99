"""Compiles CUDA kernels with the C++ compiler against the emulator beside this file."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
COMPILER = shlex.split(os.environ.get("CXX", "c++"))


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a shared library of a harness and the emulator, for ctypes."""
    directory = tmp_path_factory.mktemp("emulated")
    emulator = directory / "emulator.a"

    def build(harness: str) -> Path:
        if not emulator.exists():
            objects = [
                compile_object(path, directory) for path in (HERE / "emulator").glob("*.cpp")
            ]
            run(["ar", "rcs", str(emulator), *map(str, objects)])
        library = directory / f"{harness}.so"
        if not library.exists():
            harness_object = compile_object(HERE / f"{harness}.cpp", directory)
            link = [*COMPILER, "-shared", "-o", str(library), str(harness_object), str(emulator)]
            run(link)
        return library

    return build


# Runs one kernel in a process of its own, because the emulator aborts.
ABORTING = """
import ctypes, sys
getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])(*map(ctypes.c_uint64, map(int, sys.argv[3:])))
"""


@pytest.fixture(scope="session")
def abort_message() -> Callable[..., str]:
    """What a C function of whole numbers says on stderr before it aborts, as it has to."""

    def call(library: Path, function: str, *arguments: int) -> str:
        command = [sys.executable, "-c", ABORTING, str(library), function, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == -signal.SIGABRT, done.stderr
        return done.stderr

    return call


def compile_object(source: Path, directory: Path) -> Path:
    target = directory / f"{source.stem}.o"
    # Vectors and numbers lie at the same addresses, as CUDA has it.
    flags = ["-std=c++17", "-O2", "-g1", "-fPIC", "-fno-strict-aliasing"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    includes = [f"-I{CSRC}", f"-I{HERE}"]
    run([*COMPILER, *flags, *warnings, *includes, "-c", "-o", str(target), str(source)])
    return target


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
