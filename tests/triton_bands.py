"""Interpreted kernels between guard bands: an access out of bounds, which the interpreter does not
notice, reads NaN or fails.

`tests.guards` puts bands around the tensors of a call; these surround what is launched, copies and
scratch memory included, and they show writes, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from seqkern.core.triton import support

# More than a tile reaches beyond its tensor in the tests.
BAND = 8192
# An integer that decides rows: wrong, but no address that would end the process.
POISON = {torch.int64: 3, torch.int32: 3, torch.uint8: 3}


class _Bands:
    """What the tensors of one launch became."""

    def __init__(self) -> None:
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}

    def surround(self, argument: Any) -> Any:
        if isinstance(argument, tuple):  # a NamedTuple
            return type(argument)(*map(self.surround, argument))
        if not isinstance(argument, Tensor):
            return argument
        storage = argument.untyped_storage()
        if storage.nbytes() == 0:
            return self._memory(argument.new_empty(0))[BAND:BAND]
        if storage.data_ptr() not in self.copies:
            flat = argument.new_empty(0).set_(storage)  # type: ignore[call-overload]
            self.copies[storage.data_ptr()] = flat, self._memory(flat)
        flat, memory = self.copies[storage.data_ptr()]
        assert flat.dtype == argument.dtype, "a storage with two dtypes"
        offset = BAND + argument.storage_offset()
        return memory.as_strided(argument.shape, argument.stride(), offset)

    @staticmethod
    def _memory(flat: Tensor) -> Tensor:
        poison = POISON.get(flat.dtype, torch.nan)
        memory = torch.full((flat.numel() + 2 * BAND,), poison, dtype=flat.dtype)
        memory[BAND : BAND + flat.numel()] = flat
        return memory

    def leave(self) -> None:
        for flat, memory in self.copies.values():
            poison = self._memory(flat[:0])
            outside = torch.cat([memory[:BAND], memory[BAND + flat.numel() :]])
            assert outside.equal(poison) or (
                bool(outside.isnan().all()) and bool(poison.isnan().all())
            ), "a kernel wrote out of bounds"
            flat.copy_(memory[BAND : BAND + flat.numel()])


@contextmanager
def guard_bands() -> Iterator[None]:
    """Every launch within the block works on copies between bands. Nothing outside of the
    interpreter: on a GPU compute-sanitizer does this."""
    if not support.INTERPRETED:
        yield
        return
    from triton.runtime.interpreter import GridExecutor

    def enter(executor: Any, arguments: Any, options: Any) -> tuple[list, dict]:
        executor.bands = _Bands()
        surround = executor.bands.surround
        return [surround(a) for a in arguments], {k: surround(v) for k, v in options.items()}

    def leave(executor: Any, *_: Any) -> None:
        executor.bands.leave()

    with (
        mock.patch.object(GridExecutor, "_init_args_hst", enter),
        mock.patch.object(GridExecutor, "_restore_args_dev", leave),
    ):
        yield
