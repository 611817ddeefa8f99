"""Which torch is built against: found by its files, because importing it would cost seconds."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from . import BuildError

OLDEST = (2, 11)
INSTALL_FIRST = (
    "install it into this environment (pip install 'torch>=2.11'), then install seqkern with"
    " pip install --no-build-isolation ."
)


@dataclass(frozen=True)
class Torch:
    root: Path
    version: str
    cuda: str | None  # the CUDA version that this torch was built with

    @property
    def include(self) -> Path:
        return self.root / "include"

    @property
    def lib(self) -> Path:
        return self.root / "lib"


def find_torch() -> Torch | None:
    """The torch of the environment being installed into, or None."""
    spec = PathFinder.find_spec("torch")
    origin = spec.origin if spec else _origin_outside_isolation()
    if not origin:
        return None
    root = Path(origin).parent
    version = runpy.run_path(str(root / "version.py"))
    return Torch(root, str(version["__version__"]), version.get("cuda"))


def _origin_outside_isolation() -> str | None:
    """The path of the target environment's torch where this process cannot see it.

    pip isolates a build through environment variables and leaves the interpreter the same, so one
    started with -E, which ignores them, has the sys.path that seqkern will be imported with.
    """
    probe = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')"
    answer = subprocess.run([sys.executable, "-E", "-c", probe], capture_output=True, text=True)
    return answer.stdout.strip() or None


def require_torch() -> Torch:
    """The torch to build against; without one that will do, a sentence ends the build."""
    torch = find_torch()
    if torch is None:
        raise BuildError(f"no torch found to build against; {INSTALL_FIRST}")
    if tuple(int(part) for part in torch.version.split(".")[:2]) < OLDEST:
        raise BuildError(
            f"torch {torch.version} is too old, seqkern needs torch >= 2.11; {INSTALL_FIRST}"
        )
    return torch
