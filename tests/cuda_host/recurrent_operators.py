"""The recurrent layers' CUDA operators on the emulator: `torch.ops.seqkern_emulated.lstm_forward`
and so on, for CPU tensors. They are csrc/recurrent/cuda/*_cuda.cu, compiled as C++."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from build_tools.libraries import TORCH_TARGET
from build_tools.torch_location import require_torch
from seqkern.recurrent import autograd, choice, fake, registration, stack_autograd

from .conftest import COMPILER, CSRC, HERE, compile_object, run

LAYERS = registration.LAYERS
STACKS = {"recurrent_stack_forward": "_forward", "recurrent_stack_backward": "_backward"}
SOURCES = [
    CSRC / "recurrent" / "cuda" / f"{cell}_cuda.cu"
    for cell in ("lstm", "gru", "rnn", "tasks", "stack")
]


class Cut(ctypes.Structure):
    """How a loop is spread, in place of the plan's choice. The block's shared memory beyond its
    sums, if any, keeps weights."""

    _fields_ = (
        ("resident", ctypes.c_bool),
        ("row_warps", ctypes.c_int),
        ("depth_warps", ctypes.c_int),
        ("group_rows", ctypes.c_int),
        ("shared_bytes", ctypes.c_int64),
        ("together", ctypes.c_bool),
        ("wave", ctypes.c_int),
    )

    def __init__(self, *fields: float, together: bool = True, wave: int = 1) -> None:
        super().__init__(*fields, together=together, wave=wave)


class Emulated:
    """The library with these operators.

    `calls` counts what ran, so that a test knows that something did.
    """

    def __init__(self, library: Path) -> None:
        # Held for the whole session: dropping it would take the operators away.
        self.fragment = torch.library.Library("seqkern_emulated", "FRAGMENT")
        for name in (*LAYERS, *STACKS):
            schema = str(getattr(torch.ops.seqkern, name).default._schema)
            self.fragment.define(schema.removeprefix("seqkern::"))
        torch.ops.load_library(library)
        for name in STACKS:
            torch.library.register_fake(f"seqkern_emulated::{name}", fake.FAKES.kernel(name))
        self.functions = ctypes.CDLL(str(library))
        self.operators = torch.ops.seqkern_emulated
        self.calls = 0

    def spread(self, cut: Cut, seed: int = 0) -> None:
        self.functions.set_cut(ctypes.byref(cut))
        self.functions.set_seed(ctypes.c_uint64(seed))

    @contextmanager
    def in_place_of_the_cpu(self) -> Iterator[None]:
        """`seqkern.recurrent.autograd`, whose kernels are the CPU's, runs the emulator's."""

        with pytest.MonkeyPatch.context() as patch:
            for name in LAYERS:
                patch.setattr(
                    autograd, f"_{name}", dict.fromkeys(("cpu", "cuda"), self._counted(name))
                )
            yield

    @contextmanager
    def in_place_of_cuda(self) -> Iterator[None]:
        """Modules on the CPU run the emulator's operators as if the backend "cuda" was chosen."""
        with self.in_place_of_the_cpu(), pytest.MonkeyPatch.context() as patch:
            for name, bound in STACKS.items():
                patch.setattr(stack_autograd, bound, self._counted(name))
            patch.setattr(choice, "runs_directly", lambda input: False)
            patch.setattr(choice, "choose", lambda *arguments, **options: "cuda")
            yield

    def _counted(self, name: str):
        operator = getattr(self.operators, name).default

        def call(*arguments):
            self.calls += 1
            return operator(*arguments)

        return call


def build(directory: Path, emulator_archive: Path) -> Emulated:
    torch_ = require_torch()
    flags = ["-x", "c++", "-O1", "-fvisibility=hidden", TORCH_TARGET]
    flags += ["-isystem", str(torch_.include)]
    with ThreadPoolExecutor(2) as pool:
        sources = [*SOURCES, HERE / "recurrent_harness.cpp"]
        objects = list(pool.map(lambda path: compile_object(path, directory, *flags), sources))
    library = directory / "recurrent.so"
    inputs = [*map(str, objects), str(emulator_archive), f"-L{torch_.lib}", "-ltorch_cpu"]
    run([*COMPILER, "-shared", "-o", str(library), *inputs])
    return Emulated(library)
