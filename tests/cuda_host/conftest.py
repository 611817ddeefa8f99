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


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a shared library of a harness and the emulator, for ctypes."""
    directory = tmp_path_factory.mktemp("emulated")

    def build(harness: str) -> Path:
        library = directory / f"{harness}.so"
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        flags = ["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
        sources = [str(HERE / f"{harness}.cpp"), str(HERE / "emulator.cpp")]
        command = [*compiler, *flags, f"-I{CSRC}", f"-I{HERE}", "-o", str(library), *sources]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return library

    return build
