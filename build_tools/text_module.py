"""The Python module seqkern._text: plain C++ behind pybind11, without torch.

Unlike the operator libraries it is built for one version of Python, as its file name says.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from . import BuildError
from .ninja_file import ROOT, Compile, library, rule


def text_sources() -> list[Path]:
    """The module's sources, relative to the root."""
    return sorted(path.relative_to(ROOT) for path in ROOT.glob("csrc/text/*.cpp"))


def text_lines(
    directory: Path, compiler: list[str], cxx_flags: list[str], link_flags: list[str]
) -> list[str]:
    """What ninja has to know to make `_text.so` in `directory`; nothing without sources."""
    sources = text_sources()
    if not sources:
        return []
    # -isystem, because warnings in other people's headers are not ours.
    includes = ["-Icsrc", "-isystem", _pybind11_include(), "-isystem", _python_include()]
    compile_ = [*compiler, *cxx_flags, "-pthread", *includes]
    # Python's functions are found in the interpreter that loads the module.
    link = [*compiler, "-shared", "-pthread", *link_flags]
    objects = [Compile(str(p), f"{directory}/{p.with_suffix('.o')}", "text_cxx") for p in sources]
    return [
        *rule("text_cxx", [*compile_, "-MMD", "-MF", "$out.d", "-c", "$in", "-o", "$out"]),
        *rule("text_link", [*link, "-o", "$out", "$in"]),
        *library(directory / "_text.so", "text_link", objects),
    ]


def _pybind11_include() -> str:
    try:
        import pybind11
    except ImportError:
        raise BuildError("pybind11 was not found; install it with pip install pybind11") from None
    include: str = pybind11.get_include()
    return include


def _python_include() -> str:
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        raise BuildError(
            f"{include} holds no Python.h; install Python's header files"
            " (Debian, Ubuntu: apt install python3-dev)"
        )
    return include
