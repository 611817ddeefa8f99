"""Loading: the ISA level that is asked for, and the sentence for everything that is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqkern.core import library

ROOT = Path(__file__).resolve().parent.parent
LEVELS = library.isa_levels() if library.cpu.loaded else ()


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program where seqkern is loaded anew, with no variable of ours but the given ones."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SEQKERN_")} | environment
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)


def test_library_is_loaded():
    assert library.cpu.loaded, library.cpu.reason
    assert library.cpu.path.exists()
    compiler, _, levels = library.build_info().partition(", levels ")
    assert compiler.startswith(("GCC ", "Clang "))
    assert set(library.isa_levels()) <= set(levels.split())


def test_best_level_is_the_default():
    done = run("from seqkern.core import library as l; print(l.isa(), l.isa_levels()[-1])")
    used, best = done.stdout.split()
    assert used == best


@pytest.mark.parametrize("level", LEVELS)
def test_environment_selects_the_level(level):
    done = run("from seqkern.core import library; print(library.isa())", SEQKERN_ISA=level)
    assert done.stdout.strip() == level, done.stderr


def test_environment_names_an_unknown_level():
    done = run("import seqkern", SEQKERN_ISA="avx1024")
    assert done.returncode != 0
    sentence = (
        "SettingError: the environment variable SEQKERN_ISA is 'avx1024', which is not available;"
        f" this build and this machine have: {', '.join(LEVELS)}"
    )
    assert sentence in done.stderr


def test_set_isa():
    before = library.isa()
    try:
        for level in LEVELS:
            library.set_isa(level)
            assert library.isa() == level
        with pytest.raises(ValueError, match=f"'avx1024' is not available.*{', '.join(LEVELS)}"):
            library.set_isa("avx1024")
        assert library.isa() == LEVELS[-1]
    finally:
        library.set_isa(before)


def test_the_operators_of_the_sources_are_those_of_the_library():
    source = (ROOT / "csrc" / "library.cpp").read_text()
    assert library.different_operators(source) == []
    assert source.count("m.def(") == len(re.findall(r"m\.def\(\s*\"", source)) > 20
    older = source.replace(
        "bool relu, bool reverse, bool save", "bool relu, int reverse, bool save"
    )
    older = older.replace('"matmul(', '"matmul_of_tomorrow(')
    assert library.different_operators(older) == ["rnn_forward", "matmul_of_tomorrow"]


def test_a_library_of_other_sources_says_so_and_how_to_build(tmp_path):
    """The rest works as without it."""
    package = tmp_path / "seqkern"
    shutil.copytree(ROOT / "seqkern", package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for built in (ROOT / "seqkern").glob("*.so"):
        (package / built.name).symlink_to(built)
    (tmp_path / "csrc").mkdir()
    source = (ROOT / "csrc" / "library.cpp").read_text().replace("int needs", "float needs", 1)
    (tmp_path / "csrc" / "library.cpp").write_text(source)
    program = "import sys; sys.path.insert(0, sys.argv[1])\nimport seqkern, torch\n"
    program += "print(seqkern.explain(seqkern.nn.LSTM(2, 3), torch.randn(4, 1, 2)).backend)\n"
    program += ASK_FOR_CPU
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    sentence = (
        f"{package}/_cpu.so is older or newer than the sources beside it: of their operators it "
        f"has none or another lstm_backward; build it anew in {tmp_path}: make build"
    )
    assert sentence in done.stderr and done.stderr.count(sentence) == 2  # the warning, the error
    assert done.stdout.split() == ["torch", "False"], done.stderr


ASK_FOR_CPU = """
import seqkern
from seqkern.core import library
print(library.cpu.loaded)
seqkern.info()
library.require_cpu()
"""


def test_seqkern_imports_without_its_library(tmp_path):
    missing = str(tmp_path / "missing.so")
    done = run(ASK_FOR_CPU, SEQKERN_CPU_LIBRARY=missing)
    assert done.stdout.strip() == "False"
    assert "RuntimeError: seqkern's CPU library is not loaded" in done.stderr
    assert f"SEQKERN_CPU_LIBRARY names {missing}, which is not there" in done.stderr


def test_file_that_is_no_library(tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("not a library")
    done = run(ASK_FOR_CPU, SEQKERN_CPU_LIBRARY=str(broken))
    assert done.stdout.strip() == "False"
    assert f"{broken} is there but does not load: " in done.stderr


def test_library_that_is_not_built():
    missing = library._load(Path("nowhere/_cpu.so"), "make build")
    assert not missing.loaded
    assert missing.reason == (
        "nowhere/_cpu.so is not built; in seqkern's source directory: make build"
    )


def test_torch_too_old(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.10.1+cpu")
    old = library._load(library.cpu.path, "make build")
    assert old.reason == "torch 2.10.1+cpu is too old; seqkern needs torch >= 2.11"


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch is built with CUDA")
def test_cuda_library_with_a_torch_that_lacks_cuda():
    assert library.cuda.reason == f"torch {torch.__version__} is built without CUDA"


ASK_FOR_TEXT = """
from seqkern import info
from seqkern.core import library
from seqkern.text import Vocabulary, read_corpus
print(library.text_core.loaded, library.text_core.reason)
info()
read_corpus([["a"]])
"""


def test_text_core_is_loaded():
    assert library.text_core.loaded, library.text_core.reason
    assert library.text_core.path.exists()


def test_text_core_that_is_missing(tmp_path):
    missing = str(tmp_path / "missing.so")
    done = run(ASK_FOR_TEXT, SEQKERN_TEXT_MODULE=missing)
    reason = f"SEQKERN_TEXT_MODULE names {missing}, which is not there"
    assert done.stdout == f"False {reason}\n"
    assert f"RuntimeError: seqkern's text core is not loaded: {reason}" in done.stderr


def test_text_core_that_is_broken(tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("not a library")
    done = run(ASK_FOR_TEXT, SEQKERN_TEXT_MODULE=str(broken))
    assert done.stdout.startswith(f"False {broken} is there but does not load: ")
    assert "RuntimeError: seqkern's text core is not loaded" in done.stderr


def test_text_core_of_another_python(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "_PACKAGE", tmp_path)
    monkeypatch.delenv("SEQKERN_TEXT_MODULE", raising=False)
    assert "is not built; in seqkern's source directory: make build" in str(
        library._load_text()[0].reason
    )
    (tmp_path / "_text.cpython-39-x86_64-linux-gnu.so").touch()
    assert "is built for another Python (_text.cpython-39-x86_64-linux-gnu.so)" in str(
        library._load_text()[0].reason
    )


def test_info_names_what_a_bug_report_needs():
    import seqkern

    text = seqkern.info()
    for value in (torch.__version__, seqkern.__version__, library.isa(), str(library.cpu.path)):
        assert value in text
    for name in ("CPU", "threads", "CUDA library", "text core", "Triton", "GPU"):
        assert f"\n{name} " in text
