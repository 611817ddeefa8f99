"""Loads the compiled libraries, and says in a sentence why one is missing.

`cpu` holds every operator's schema and the CPU kernels, `cuda` the CUDA kernels, `text_core` the
Python module of the text core. A missing library is no error here, because the rest works without
it: `require_cpu` and `require_text` are for callers that cannot.

Environment: SEQKERN_ISA selects a lower instruction-set level than the machine's best;
SEQKERN_CPU_LIBRARY and SEQKERN_TEXT_MODULE name another build of the CPU library and of the text
module, such as a sanitized one.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import warnings
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch

from seqkern.core.errors import SettingError

OLDEST_TORCH = (2, 11)
_PACKAGE = Path(__file__).resolve().parent.parent
_SCHEMAS = _PACKAGE.parent / "csrc" / "library.cpp"  # in a source tree only
_BUILD = "make build, or: pip install --no-build-isolation ."


@dataclass(frozen=True)
class Library:
    """A compiled library: its path and, when it is not loaded, the reason in one sentence."""

    path: Path
    reason: str | None = None

    @property
    def loaded(self) -> bool:
        return self.reason is None


def _load(path: Path, build_command: str) -> Library:
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        return Library(path, f"torch {torch.__version__} is too old; seqkern needs torch >= 2.11")
    if not path.exists():
        return Library(path, f"{path} is not built; in seqkern's source directory: {build_command}")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return Library(path, f"{path} is there but does not load: {error}")
    return Library(path)


def _load_cpu() -> Library:
    override = os.environ.get("SEQKERN_CPU_LIBRARY")
    if override and not Path(override).exists():
        return Library(Path(override), f"SEQKERN_CPU_LIBRARY names {override}, which is not there")
    path = Path(override) if override else _PACKAGE / "_cpu.so"
    loaded = _load(path, _BUILD)
    if loaded.loaded and _SCHEMAS.exists():  # of an installed package both are of one build
        different = different_operators(_SCHEMAS.read_text())
        if different:
            reason = (
                f"{path} is older or newer than the sources beside it: of their operators it has "
                f"none or another {', '.join(different)}; build it anew in "
                f"{_PACKAGE.parent}: {_BUILD}"
            )
            warnings.warn(f"seqkern runs without its CPU library: {reason}", stacklevel=2)
            return Library(path, reason)
    return loaded


def different_operators(source: str) -> list[str]:
    """The operators of this source text of csrc/library.cpp that the loaded library lacks or has
    with another schema."""
    calls = re.findall(r"m\.def\(((?:\s*\"[^\"]*\")+)\)", source)
    wanted = [
        torch._C.parse_schema("seqkern::" + "".join(re.findall(r"\"([^\"]*)\"", call)))
        for call in calls
    ]
    return [
        schema.name.removeprefix("seqkern::")
        for schema in wanted
        if schema not in torch._C._jit_get_schemas_for_operator(schema.name)
    ]


def _load_cuda() -> Library:
    path = _PACKAGE / "_cuda.so"
    if torch.version.cuda is None:
        return Library(path, f"torch {torch.__version__} is built without CUDA")
    if not cpu.loaded:
        return Library(path, "it needs the CPU library, which holds the operators' schemas")
    return _load(path, "SEQKERN_BUILD_CUDA=1 make build")


def _load_text() -> tuple[Library, ModuleType | None]:
    override = os.environ.get("SEQKERN_TEXT_MODULE")
    paths = [Path(override)] if override else [_PACKAGE / f"_text{s}" for s in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return Library(paths[0], _why_no_text_module(override, paths[0])), None
    try:
        spec = spec_from_file_location("seqkern._text", path)
        assert spec is not None and spec.loader is not None  # the suffix is an extension module's
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        return Library(path, f"{path} is there but does not load: {error}"), None
    sys.modules["seqkern._text"] = module
    return Library(path), module


def _why_no_text_module(override: str | None, path: Path) -> str:
    if override:
        return f"SEQKERN_TEXT_MODULE names {override}, which is not there"
    others = ", ".join(sorted(found.name for found in path.parent.glob("_text.*.so")))
    built = f"is built for another Python ({others})" if others else "is not built"
    return f"{path} {built}; in seqkern's source directory: {_BUILD}"


def require_text() -> ModuleType:
    """The text core's module; raises RuntimeError with the reason when it is not loaded."""
    if _text_module is None:
        raise RuntimeError(f"seqkern's text core is not loaded: {text_core.reason}")
    return _text_module


def require_cpu() -> None:
    """Raises RuntimeError with the reason when the CPU library is not loaded."""
    if cpu.reason is not None:
        raise RuntimeError(f"seqkern's CPU library is not loaded: {cpu.reason}")


def isa() -> str:
    """The instruction-set level that the CPU kernels use."""
    return _c_string("seqkern_isa")


def isa_levels() -> tuple[str, ...]:
    """The levels that are built and that this machine can run, from low to high."""
    return tuple(_c_string("seqkern_isa_levels").split())


def set_isa(level: str) -> None:
    """Makes the CPU kernels of the whole process use `level`, one of `isa_levels()`.

    Call it while no operator runs. Raises ValueError for a level that is not built or that this
    machine lacks, RuntimeError without the CPU library.
    """
    require_cpu()
    if ctypes.CDLL(str(cpu.path)).seqkern_set_isa(level.encode()) != 0:
        raise ValueError(f"ISA level {level!r} is not available; {_available()}")


def build_info() -> str:
    """The compiler that built the CPU library and the ISA levels it was built for."""
    return _c_string("seqkern_build_info")


def _c_string(function: str) -> str:
    require_cpu()
    call = getattr(ctypes.CDLL(str(cpu.path)), function)
    call.restype = ctypes.c_char_p
    answer: bytes = call()
    return answer.decode()


def _available() -> str:
    return f"this build and this machine have: {', '.join(isa_levels())}"


def _apply_environment() -> None:
    level = os.environ.get("SEQKERN_ISA")
    if not level or not cpu.loaded:
        return
    try:
        set_isa(level)
    except ValueError:
        raise SettingError(
            f"the environment variable SEQKERN_ISA is {level!r}, which is not available;"
            f" {_available()}"
        ) from None


cpu = _load_cpu()
cuda = _load_cuda()
text_core, _text_module = _load_text()
_apply_environment()
