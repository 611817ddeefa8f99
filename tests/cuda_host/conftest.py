"""Compiles CUDA kernels with the C++ compiler against the emulator beside this file."""

from __future__ import annotations

import os
import shlex
import subprocess
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
            objects = [compile_object(path, directory) for path in (HERE / "emulator").glob("*.cpp")]
            run(["ar", "rcs", str(emulator), *map(str, objects)])
        library = directory / f"{harness}.so"
        if not library.exists():
            harness_object = compile_object(HERE / f"{harness}.cpp", directory)
            link = [*COMPILER, "-shared", "-o", str(library), str(harness_object), str(emulator)]
            run(link)
        return library

    return build


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
