"""What a host function launches, recorded instead of run, and compiled without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from seqkern.core.triton import support


@dataclass(frozen=True)
class Launch:
    """A kernel and the arguments that a host function passed to it."""

    kernel: JITFunction
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)

    def source(self, architecture: int) -> tuple[ASTSource, dict[str, Any]]:
        """What Triton would compile for this launch on a GPU, and with which options."""
        target = GPUTarget("cuda", architecture, 32)
        backend = make_backend(target)
        bind = create_function_from_signature(self.kernel.signature, self.kernel.params, backend)
        given = {"debug": False, **self.options}
        bound, specialization, options = bind(*self.arguments, **given)
        options, signature, constants, attributes = self.kernel._pack_args(
            backend, given, bound, specialization, options
        )
        return ASTSource(self.kernel, signature, constants, attributes), options.__dict__

    def compile(self, architecture: int) -> CompiledKernel:
        """For sm_80 as 80."""
        source, options = self.source(architecture)
        target = GPUTarget("cuda", architecture, 32)
        return triton.compile(source, target=target, options=options)

    def key(self, architecture: int) -> str:
        """What besides the code decides what is compiled: equal launches share a kernel."""
        source, options = self.source(architecture)
        constants = {path: str(value) for path, value in source.constants.items()}
        chosen = {name: options[name] for name in ("num_warps", "num_stages")}
        if options.get("maxnreg") is not None:
            chosen["maxnreg"] = options["maxnreg"]
        if options.get("launch_cooperative_grid"):
            chosen["launch_cooperative_grid"] = True
        return f"{self.name} {source.signature} {constants} {source.attrs} {chosen}"


@contextmanager
def recorded(architecture: int) -> Iterator[list[Launch]]:
    """Within the block no kernel runs: the launches are listed, as for a GPU of `architecture`.
    Tensors may be on the meta device."""
    launches: list[Launch] = []

    def record(
        kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any
    ) -> None:
        launches.append(Launch(kernel, tuple(grid), arguments, options))

    with (
        mock.patch.object(JITFunction, "run", record),
        mock.patch.object(
            support, "capability", lambda device: divmod(architecture, 10)
        ),
    ):  # fmt: skip
        yield launches
