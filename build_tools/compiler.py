"""The C++ compiler, and the instruction-set levels that it can compile for."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from itertools import takewhile

from . import BuildError

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (
    *_AVX2,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mprefer-vector-width=512",
)
_AVX512_BF16 = (*_AVX512, "-mavx512bf16")
_AMX = (*_AVX512_BF16, "-mamx-tile", "-mamx-bf16")

_X86_64_LEVELS = {
    "avx2": _AVX2,
    "avx512": _AVX512,
    "avx512_bf16": _AVX512_BF16,
    "amx": _AMX,
}


def find_compiler() -> list[str]:
    """The command of the C++ compiler: $CXX (which may hold a launcher such as ccache) or c++."""
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        raise BuildError(
            f"the C++ compiler {command[0]!r} was not found; install one that knows C++17"
            " (Debian, Ubuntu: apt install g++) or name yours in the environment variable CXX"
        )
    return command


def host_compiler(command: list[str]) -> str:
    """The compiler itself out of its command, for nvcc: neither the launcher nor the flags."""
    return list(takewhile(lambda word: not word.startswith("-"), command))[-1]


def isa_levels(compiler: list[str]) -> dict[str, tuple[str, ...]]:
    """Level name to compiler flags, low to high; a level that the compiler lacks is left out."""
    levels: dict[str, tuple[str, ...]] = {"baseline": ()}
    if platform.machine().lower() in ("x86_64", "amd64"):
        levels |= {name: flags for name, flags in _X86_64_LEVELS.items() if _knows(compiler, flags)}
    return levels


def _knows(compiler: list[str], flags: tuple[str, ...]) -> bool:
    # To an object, because zig's compiler does not know -fsyntax-only.
    with tempfile.TemporaryDirectory() as folder:
        probe = [*compiler, *flags, "-x", "c++", "-c", os.devnull, "-o", f"{folder}/probe.o"]
        return subprocess.run(probe, capture_output=True).returncode == 0
