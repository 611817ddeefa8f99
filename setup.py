"""Hands setuptools the libraries that build_tools makes; everything else is in pyproject.toml."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_tools.libraries import build_libraries, library_names  # noqa: E402
from build_tools.torch_location import require_torch  # noqa: E402


class CheckTorchFirst(dist_info):
    """Asks for torch while pip prepares metadata, before it would download torch as a dependency
    only to learn that the build wanted it earlier."""

    def run(self) -> None:
        require_torch()
        super().run()


class BuildLibraries(build_ext):
    def finalize_options(self) -> None:
        self.distribution.ext_modules = [Extension(f"seqkern.{n}", []) for n in library_names()]
        super().finalize_options()

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("_text"):
            return super().get_ext_filename(fullname)
        # No Python version in the name: the operator libraries do not use Python's C API.
        return str(Path(*fullname.split("."))) + ".so"

    def build_extensions(self) -> None:
        for name, library in build_libraries().items():
            target = Path(self.get_ext_fullpath(f"seqkern.{name}"))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, target)
        self._drop_stale_cuda(Path(self.build_lib, "seqkern"))

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        self._drop_stale_cuda(Path("seqkern"))

    def _drop_stale_cuda(self, package: Path) -> None:
        """An earlier build's CUDA library does not fit today's schemas."""
        if "_cuda" not in library_names():
            (package / "_cuda.so").unlink(missing_ok=True)


setup(
    ext_modules=[Extension("seqkern._cpu", [])],
    cmdclass={
        "build_ext": BuildLibraries,
        "dist_info": CheckTorchFirst,
    },
)
