"""The build: what it makes, what it depends on, and what it says when it cannot."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import setuptools
import torch

import seqkern
from build_tools.compiler import host_compiler
from build_tools.cuda import find_nvcc

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = sysconfig.get_platform()
SHIPPED = ("bench", "build_tools", "csrc", "docs", "examples", "tests")  # beside the package

# A project of its own with this one's build, so that a whole build takes a second.
TOY = {
    "seqkern/__init__.py": "",
    "README.md": "",
    "LICENSE": "",
    "csrc/common/shared.h": """
        #pragma once
        // Emitted by every object that uses it; the linker keeps one for all.
        inline __attribute__((noinline)) bool compiled_for_avx2() {
        #ifdef __AVX2__
          return true;
        #else
          return false;
        #endif
        }
    """,
    "csrc/library.cpp": """
        #include "common/shared.h"
        #define EXPORT extern "C" __attribute__((visibility("default")))
        #define X(level) #level " "
        EXPORT const char* levels() { return SEQKERN_ISA_LEVELS; }
        EXPORT bool ordinary_code_needs_avx2() { return compiled_for_avx2(); }
    """,
    "csrc/toy/toy_isa.cpp": """
        #include "common/shared.h"
        namespace SEQKERN_ISA { bool value() { return compiled_for_avx2(); } }
    """,
}


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("SEQKERN_")} | environment
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)


def build_in_place(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    return run(*command, cwd=tree, **{"SEQKERN_BUILD_CUDA": "0"} | environment)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "build_tools", tmp_path / "build_tools")
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    write_tree(tmp_path, TOY)
    return tmp_path


@pytest.fixture(scope="module")
def built_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with their objects, whose times are kept: nothing is compiled again."""
    root = tmp_path_factory.mktemp("tree")
    for name in (*SHIPPED, "seqkern", f"build/{PLATFORM}"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy2(path, root)
    return root


# ---- compiling ----


def test_levels_and_what_the_linker_shares(toy):
    done = build_in_place(toy)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(toy / "seqkern" / "_cpu.so"))
    library.levels.restype = ctypes.c_char_p
    levels = library.levels().decode().split()
    assert levels[0] == "baseline"
    objects = {path.name for path in (toy / "build" / PLATFORM).rglob("toy_isa.*.o")}
    assert objects == {f"toy_isa.{level}.o" for level in levels}
    # Code for any machine must not be served a copy that was compiled for a newer one.
    assert not library.ordinary_code_needs_avx2()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="has the baseline only")
def test_a_file_knows_its_level_whatever_else_the_compiler_is_told(toy):
    """With CXXFLAGS=-march=native, the lowest level has the newest instructions, too, and yet must
    fill its tables."""
    shutil.copy(ROOT / "csrc/common/isa.h", toy / "csrc/common")
    write_tree(
        toy,
        {
            "csrc/toy/toy_isa.cpp": """
                #include "common/isa.h"
                namespace SEQKERN_ISA { bool value() { return SEQKERN_ISA_FROM(avx2); } }
            """,
            "csrc/library.cpp": """
                #define EXPORT extern "C" __attribute__((visibility("default")))
                namespace baseline { bool value(); }
                namespace avx2 { bool value(); }
                EXPORT bool of_baseline() { return baseline::value(); }
                EXPORT bool of_avx2() { return avx2::value(); }
            """,
        },
    )
    done = build_in_place(toy, CXXFLAGS="-mavx2")
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(toy / "seqkern" / "_cpu.so"))
    assert library.of_avx2() & 1 and not library.of_baseline() & 1
    for path in (ROOT / "csrc").rglob("*_isa.cpp"):
        assert not re.search(r"\b__(AVX|AMX|FMA)\w*__\b", path.read_text()), path


def test_only_what_changed_is_built_again(toy):
    build_in_place(toy)
    assert "no work to do" in build_in_place(toy).stderr
    write_tree(toy, {"csrc/toy/other.cpp": "int other() { return 1; }\n"})
    added = build_in_place(toy).stderr
    assert "other.o" in added and "library.o" not in added
    header = toy / "csrc/common/shared.h"
    header.write_text(header.read_text() + "// changed\n")
    changed = build_in_place(toy).stderr
    assert "library.o" in changed and "toy_isa.baseline.o" in changed and "other.o" not in changed


def test_cuda_library_of_an_earlier_build_goes(toy):
    stale = toy / "seqkern" / "_cuda.so"
    stale.write_text("")
    build_in_place(toy)
    assert (toy / "seqkern" / "_cpu.so").exists()
    assert not stale.exists()


def test_undefined_symbol_is_an_error(toy):
    write_tree(toy, {"csrc/library.cpp": "int nowhere(); int call() { return nowhere(); }\n"})
    done = build_in_place(toy)
    assert done.returncode != 0
    assert "undefined" in done.stderr and "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


# ---- sentences instead of tracebacks ----


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """The Python of an environment that holds setuptools and no torch."""
    venv.create(tmp_path / "bare", symlinks=True)
    (site,) = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    installed = Path(setuptools.__file__).parent.parent
    for pattern in ("setuptools", "_distutils_hack", "setuptools-*.dist-info"):
        for path in installed.glob(pattern):
            (site / path.name).symlink_to(path)
    return tmp_path / "bare" / "bin" / "python"


@pytest.mark.parametrize("command", ["dist_info", "build_ext"])
def test_without_torch(toy, bare_python, command):
    done = run(bare_python, "setup.py", "-q", command, cwd=toy, SEQKERN_BUILD_CUDA="0")
    assert done.returncode != 0
    assert "no torch found to build against" in done.stderr
    assert "pip install 'torch>=2.11'" in done.stderr
    assert "Traceback" not in done.stderr


def test_torch_too_old(toy, bare_python):
    (site,) = bare_python.parent.parent.glob("lib/python*/site-packages")
    write_tree(site, {"torch/__init__.py": "", "torch/version.py": "__version__ = '2.10.1+cpu'\n"})
    done = run(bare_python, "setup.py", "-q", "build_ext", cwd=toy, SEQKERN_BUILD_CUDA="0")
    assert done.returncode != 0
    assert "torch 2.10.1+cpu is too old, seqkern needs torch >= 2.11" in done.stderr
    assert "Traceback" not in done.stderr


# What pip puts in front of an isolated build: a folder on PYTHONPATH whose sitecustomize takes the
# environment's own packages off sys.path.
ISOLATION = """
import os, site, sys
mine = {os.path.realpath(p) for p in [*site.getsitepackages(), site.getusersitepackages()]}
sys.path = [p for p in sys.path if os.path.realpath(p) not in mine]
"""


def test_torch_is_found_from_an_isolated_build(tmp_path):
    write_tree(tmp_path, {"overlay/sitecustomize.py": ISOLATION})
    program = (
        "import importlib.util; print(importlib.util.find_spec('torch'));"
        "from build_tools.torch_location import require_torch;"
        "found = require_torch(); print(found.root, found.version)"
    )
    isolated = {"PYTHONPATH": str(tmp_path / "overlay"), "PYTHONNOUSERSITE": "1"}
    done = run(sys.executable, "-c", program, cwd=ROOT, **isolated)
    assert done.returncode == 0, done.stderr
    unseen, found = done.stdout.splitlines()
    assert unseen == "None"  # so the isolation isolates
    assert found == f"{Path(torch.__file__).parent} {torch.__version__}"


@pytest.mark.parametrize(
    ("command", "host"),
    [
        (["c++"], "c++"),
        (["g++", "-m64"], "g++"),
        (["ccache", "clang++", "--sysroot=/", "-O1"], "clang++"),
    ],
)
def test_host_compiler_for_nvcc(command, host):
    assert host_compiler(command) == host


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"CXX": "no-such-compiler"}, "the C++ compiler 'no-such-compiler' was not found"),
        ({"SEQKERN_BUILD_CUDA": "yes"}, "SEQKERN_BUILD_CUDA is 'yes'; it should be auto, 0 or 1"),
    ],
)
def test_wrong_environment(toy, environment, sentence):
    done = build_in_place(toy, **environment)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


# ---- what is shipped ----


def test_version_is_the_same_in_both_places():
    declared = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert declared[1] == seqkern.__version__


def undefined_symbols(library: Path) -> set[str]:
    listing = run("nm", "-D", "--undefined-only", library, cwd=ROOT).stdout
    return {line.split()[-1] for line in listing.splitlines() if " U " in line}


def needed_libraries(library: Path) -> set[str]:
    listing = run("readelf", "-d", library, cwd=ROOT).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", listing))


RUNTIME_SYMBOL = re.compile(r".+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+$")
STABLE_SYMBOL = re.compile(r"(aoti_torch|torch)_\w+$")
RUNTIME_LIBRARY = re.compile(
    r"(libtorch_cpu|libstdc\+\+|libm|libgcc_s|libc|ld-linux[\w-]*)\.so[.\d]*$"
)


def assert_stable(library: Path) -> None:
    symbols = undefined_symbols(library)
    assert symbols and needed_libraries(library)
    unstable = {s for s in symbols if not (RUNTIME_SYMBOL.match(s) or STABLE_SYMBOL.match(s))}
    assert not unstable
    assert {n for n in needed_libraries(library) if not RUNTIME_LIBRARY.match(n)} == set()


def test_cpu_library_uses_only_the_stable_abi():
    assert_stable(ROOT / "seqkern" / "_cpu.so")


def test_text_core_knows_nothing_of_torch():
    module = ROOT / "seqkern" / f"_text{EXTENSION_SUFFIXES[0]}"
    assert not {n for n in needed_libraries(module) if not RUNTIME_LIBRARY.match(n)}
    assert not [s for s in undefined_symbols(module) if STABLE_SYMBOL.match(s) or "c10" in s]
    assert not [n for n in needed_libraries(module) if "torch" in n]


def test_text_core_without_pybind11(toy, bare_python):
    """Asked of an environment that has torch, setuptools and ninja, but no pybind11."""
    write_tree(toy, {"csrc/text/module.cpp": "int nothing;\n"})
    (site,) = bare_python.parent.parent.glob("lib/python*/site-packages")
    write_tree(site, {"torch/__init__.py": "", "torch/version.py": "__version__ = '2.13.0+cpu'\n"})
    done = run(bare_python, "setup.py", "-q", "build_ext", cwd=toy, SEQKERN_BUILD_CUDA="0")
    assert done.returncode != 0
    assert "pybind11 was not found; install it with pip install pybind11" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_wheel(built_tree, tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps"]
    done = run(*pip, "-w", tmp_path, cwd=built_tree, SEQKERN_BUILD_CUDA="0")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    # The operator libraries do not depend on Python, but the text core does.
    assert re.fullmatch(r"seqkern-[\d.]+-cp3\d+-cp3\d+\w*-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        declared = archive.read(metadata).decode()
        assert "Requires-Dist: torch>=2.11\n" in declared
        assert re.search(r"^Requires-Dist: numpy\S+$", declared, re.M)
        archive.extractall(tmp_path / "unpacked")
    text_core = f"seqkern/_text{EXTENSION_SUFFIXES[0]}"
    assert {"seqkern/_cpu.so", text_core, "seqkern/py.typed", "seqkern/nn/__init__.py"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"seqkern"}
    assert not [name for name in names if name.startswith("seqkern/_text") and name != text_core]

    program = (
        "from seqkern.core import library as l; print(l.cpu.path, l.cpu.loaded, l.text_core.path,"
        " l.text_core.loaded)"
    )
    loaded = run(sys.executable, "-c", program, cwd=tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked"
    expected = [str(unpacked / "seqkern/_cpu.so"), "True", str(unpacked / text_core), "True"]
    assert loaded.stdout.split() == expected


def test_sdist_holds_all_that_the_build_needs(built_tree, tmp_path):
    program = f"import setuptools.build_meta as b; b.build_sdist({str(tmp_path)!r})"
    done = run(sys.executable, "-c", program, cwd=built_tree)
    assert done.returncode == 0, done.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in SHIPPED:
        sources = {
            p for p in (built_tree / folder).rglob("*") if p.is_file() and p.suffix != ".pyc"
        }
        records = {p for p in sources if folder == "bench" and p.suffix == ".json"}
        assert {str(path.relative_to(built_tree)) for path in sources - records} <= names
        assert not {str(path.relative_to(built_tree)) for path in records} & names
    assert {"setup.py", "pyproject.toml", "LICENSE", "seqkern/py.typed"} <= names
    assert {"README.md", "README.ko.md", "CITATION.cff", "CONTRIBUTING.md"} <= names
    assert not [name for name in names if name.endswith(".so")]


@pytest.mark.slow
@pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed")
def test_cuda_library_is_built_against_any_torch(built_tree):
    environment = {"SEQKERN_BUILD_CUDA": "1", "SEQKERN_CUDA_ARCHS": "80"}
    done = build_in_place(built_tree, **environment)
    assert done.returncode == 0, done.stderr
    library = built_tree / "seqkern" / "_cuda.so"
    assert_stable(library)  # so neither libcudart nor anything of ATen or c10
    assert "aoti_torch_get_current_cuda_stream" in undefined_symbols(library)
    assert b"forward_loop_kernel" in library.read_bytes()


@pytest.mark.skipif(find_nvcc() is not None, reason="nvcc is installed")
def test_cuda_library_without_nvcc(toy):
    done = build_in_place(toy, SEQKERN_BUILD_CUDA="1")
    assert done.returncode != 0
    assert "SEQKERN_BUILD_CUDA=1, but nvcc was not found" in done.stderr
