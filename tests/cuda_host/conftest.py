"""Compiles CUDA kernels with the C++ compiler against the emulator beside this file."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from build_tools.cuda import find_nvcc

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
COMPILER = shlex.split(os.environ.get("CXX", "c++"))


@pytest.fixture(scope="session")
def emulator_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emulator, to link kernels with."""
    directory = tmp_path_factory.mktemp("emulator")
    sources = sorted((HERE / "emulator").glob("*.cpp"))
    objects = [str(compile_object(source, directory)) for source in sources]
    archive = directory / "emulator.a"
    run(["ar", "rcs", str(archive), *objects])
    return archive


@pytest.fixture(scope="session")
def emulated(
    emulator_archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Makes a shared library of a harness and the emulator, for ctypes."""
    directory = tmp_path_factory.mktemp("emulated")

    def build(harness: str) -> Path:
        library = directory / f"{harness}.so"
        if not library.exists():
            harness_object = str(compile_object(HERE / f"{harness}.cpp", directory))
            link = [*COMPILER, "-shared", "-o", str(library), harness_object, str(emulator_archive)]
            run(link)
        return library

    return build


@pytest.fixture(scope="session")
def emulated_layers(emulator_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The recurrent layers' CUDA operators on the emulator, a `recurrent_operators.Emulated`."""
    from . import recurrent_operators

    return recurrent_operators.build(tmp_path_factory.mktemp("recurrent"), emulator_archive)


@dataclass(frozen=True)
class Machine:
    """A harness that can be called, and where the tensors have to be that it gets."""

    library: ctypes.CDLL
    device: str

    def call(self, function: str, *arguments: torch.Tensor | int) -> None:
        """Tensors go there and come back."""
        moved = [x.to(self.device) if isinstance(x, torch.Tensor) else x for x in arguments]
        passed = [
            ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else ctypes.c_int(x)
            for x in moved
        ]
        getattr(self.library, function)(*passed)
        for ours, theirs in zip(moved, arguments, strict=True):
            if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
                theirs.copy_(ours)


@pytest.fixture(scope="session", params=["emulator", pytest.param("gpu", marks=pytest.mark.cuda)])
def machine(
    request: pytest.FixtureRequest,
    emulated: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Machine]:
    """Makes a Machine of a harness: on the emulator, and on a GPU where there are one and nvcc."""
    if request.param == "emulator":
        return lambda harness: Machine(ctypes.CDLL(str(emulated(harness))), "cpu")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    directory = tmp_path_factory.mktemp("gpu")
    major, minor = torch.cuda.get_device_capability()
    arch = f"{major}{minor}" + ("a" if major == 9 else "")

    def build(harness: str) -> Machine:
        library = directory / f"{harness}.so"
        if not library.exists():
            shared = ["-Xcompiler=-fPIC", "-shared", "-o", str(library)]
            run([*nvcc_harness(nvcc, arch), *shared, str(HERE / f"{harness}.cpp")])
        return Machine(ctypes.CDLL(str(library)), "cuda")

    return build


def nvcc_harness(nvcc: str, arch: str) -> list[str]:
    """What compiles a harness for a GPU, for those that include harness.h."""
    flags = ["-std=c++17", "-O3", "-Werror=all-warnings", "-x", "cu", f"-arch=sm_{arch}"]
    return [nvcc, *flags, f"-I{CSRC}", f"-I{HERE}"]


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


def compile_object(source: Path, directory: Path, *more_flags: str) -> Path:
    target = directory / f"{source.stem}.o"
    # Vectors and numbers lie at the same addresses, as CUDA has it.
    flags = ["-std=c++17", "-O2", "-g1", "-fPIC", "-fno-strict-aliasing"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    includes = [f"-I{CSRC}", f"-I{HERE}"]
    run(
        [*COMPILER, *flags, *warnings, *includes, *more_flags, "-c", "-o", str(target), str(source)]
    )
    return target


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
