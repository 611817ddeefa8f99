"""What seqkern's shared libraries are made of: sources, flags, and how they are linked.

torch's own BuildExtension is not used: the sources include neither ATen nor torch's Python headers,
so plain compiler calls do.
"""

from __future__ import annotations

import os
import shlex
import sysconfig
from pathlib import Path

from .compiler import find_compiler, host_compiler, isa_levels
from .cuda import gencode_flags, require_nvcc, wants_cuda
from .ninja_file import ROOT, Compile, library, rule, run_ninja
from .text_module import text_lines, text_sources
from .torch_location import Torch, require_torch

CXX_FLAGS = [
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-trapping-math",  # GCC vectorises branch-free polynomials only with it
    "-fno-math-errno",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
]
# The stable ABI as of torch 2.11: one binary for it and every later torch.
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"


def library_names() -> list[str]:
    """The libraries that belong into the package on this machine."""
    cuda = ["_cuda"] if wants_cuda() else []
    return ["_cpu", *cuda, *(["_text"] if text_sources() else [])]


def build_libraries() -> dict[str, Path]:
    """Brings the package's libraries up to date and returns the path of each."""
    directory = Path("build", sysconfig.get_platform())
    compiler = find_compiler()
    torch = require_torch()
    lines = _cpu_lines(directory, compiler, torch, [], [])
    lines += text_lines(directory, compiler, _text_flags([]), [])
    if "_cuda" in library_names():
        lines += _cuda_lines(directory, compiler, torch)
    run_ninja(directory, lines)
    return {name: ROOT / directory / f"{name}.so" for name in library_names()}


def build_sanitized(sanitizers: str) -> Path:
    """Builds the CPU library and the text module with e.g. "address,undefined", apart from what is
    shipped. Returns their directory."""
    directory = Path("build", f"{sysconfig.get_platform()}-sanitize")
    sanitize = f"-fsanitize={sanitizers}"
    # GCC forms FMAs from -O2 on, so other numbers come out than of the shipped library.
    debug = ["-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
    compiler = find_compiler()
    lines = _cpu_lines(directory, compiler, require_torch(), [sanitize, *debug], [sanitize])
    lines += text_lines(directory, compiler, _text_flags([sanitize, *debug]), [sanitize])
    run_ninja(directory, lines)
    return ROOT / directory


def _common_flags(torch: Torch) -> list[str]:
    # Paths of ours are relative, so that a moved or copied tree keeps its objects.
    return [TORCH_TARGET, "-Icsrc", "-isystem", str(torch.include)]


def _text_flags(extra: list[str]) -> list[str]:
    return [*CXX_FLAGS, *extra, *shlex.split(os.environ.get("CXXFLAGS", ""))]


def _link_flags(torch: Torch) -> list[str]:
    # Nothing but the C functions of the stable ABI is used of torch, and they live in torch_cpu.
    return [f"-L{torch.lib}", "-ltorch_cpu"]


def _cpu_lines(
    directory: Path, compiler: list[str], torch: Torch, cxx_extra: list[str], link_extra: list[str]
) -> list[str]:
    user = shlex.split(os.environ.get("CXXFLAGS", ""))
    cxx = [*compiler, *CXX_FLAGS, *cxx_extra, *user, *_common_flags(torch)]
    link = [*compiler, "-shared", "-Wl,--no-undefined", *link_extra]
    return [
        *rule("cxx", [*cxx, "-MMD", "-MF", "$out.d", "$flags", "-c", "$in", "-o", "$out"]),
        *rule("link", [*link, "-o", "$out", "$in", *_link_flags(torch)]),
        *library(directory / "_cpu.so", "link", _cpu_objects(directory, isa_levels(compiler))),
    ]


def _cpu_objects(directory: Path, levels: dict[str, tuple[str, ...]]) -> list[Compile]:
    """The CPU library's objects, in link order.

    An inline function of a shared header is emitted by every object that uses it, and the linker
    keeps the first. Ordinary files come first and the levels ascend, so whoever calls such a
    function gets one compiled for its own level or a lower one, never an instruction too new.
    """
    level_list = "-DSEQKERN_ISA_LEVELS=" + " ".join(f"X({level})" for level in levels)
    sources = [path for path in _sources(".cpp") if not path.stem.endswith("_isa")]
    objects = [
        Compile(str(path), f"{directory}/{path.with_suffix('.o')}", "cxx", (level_list,))
        for path in sources
    ]
    for level, flags in levels.items():
        for path in _sources("_isa.cpp"):
            target = f"{directory}/{path.with_suffix('')}.{level}.o"
            objects.append(Compile(str(path), target, "cxx", (f"-DSEQKERN_ISA={level}", *flags)))
    return objects


def _cuda_objects(directory: Path) -> list[Compile]:
    return [
        Compile(str(path), f"{directory}/{path.with_suffix('.cu.o')}", "nvcc")
        for path in cuda_sources()
    ]


def _sources(suffix: str) -> list[Path]:
    """The operator libraries' sources, relative to the root (csrc/text is another module)."""
    text = ROOT / "csrc" / "text"
    found = ROOT.glob(f"csrc/**/*{suffix}")
    return sorted(path.relative_to(ROOT) for path in found if text not in path.parents)


def cuda_sources() -> list[Path]:
    return _sources("_cuda.cu")


def nvcc_command() -> list[str]:
    """nvcc with the flags that every CUDA source is compiled with."""
    nvcc = require_nvcc()
    host = "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra"
    # USE_CUDA uncovers the stream functions in torch's stable headers. They live in torch_cuda,
    # which a CPU-only torch lacks: that is why this library may have undefined symbols.
    flags = ["-O3", "-std=c++17", host, "-DUSE_CUDA", *_common_flags(require_torch())]
    return [nvcc, f"-ccbin={host_compiler(find_compiler())}", *flags, *gencode_flags(nvcc)]


def _cuda_lines(directory: Path, compiler: list[str], torch: Torch) -> list[str]:
    nvcc = require_nvcc()
    link = [nvcc, f"-ccbin={host_compiler(compiler)}", "-cudart=static", "-shared"]
    depend = ["-MMD", "-MF", "$out.d", "-c", "$in", "-o", "$out"]
    return [
        *rule("nvcc", [*nvcc_command(), *depend]),
        *rule("cuda_link", [*link, "-o", "$out", "$in", *_link_flags(torch)]),
        *library(directory / "_cuda.so", "cuda_link", _cuda_objects(directory)),
    ]
