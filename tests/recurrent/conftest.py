"""The tests of this folder need the compiled kernels: without them they fail, they do not skip."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from seqkern.core import library
from seqkern.core.triton import support
from tests.triton_bands import guard_bands


@pytest.fixture(autouse=True)
def _kernels_are_there() -> None:
    library.require_cpu()


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    """Small shapes: PyTorch's side forks and joins at each step, slow on a busy machine. The tests
    of threads ask for more; `_same_start` puts the number back."""
    torch.set_num_threads(1)


@pytest.fixture
def guarded_launches() -> Iterator[None]:
    """No kernel reads or writes out of bounds unnoticed, and what it leaves unwritten is NaN."""
    if not support.INTERPRETED:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills new memory
    with guard_bands():
        yield
    torch.use_deterministic_algorithms(before)
