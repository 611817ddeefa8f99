"""The tests of this folder need the compiled kernels: without them they fail, they do not skip."""

from __future__ import annotations

import pytest
import torch

from seqkern.core import library


@pytest.fixture(autouse=True)
def _kernels_are_there() -> None:
    library.require_cpu()


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    """Small shapes: forking and joining costs more than the work. The tests of threads ask for
    more; `_same_start` puts the number back."""
    torch.set_num_threads(1)
