"""For the tests of a domain whose operators Triton runs: it takes the compiled kernels' place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from seqkern.core.triton import support
from seqkern.core.triton.operators import TritonOperators


@contextmanager
def in_place_of_compiled(operators: TritonOperators) -> Iterator[None]:
    """The operators are Triton's, on the CPU as well where it is interpreted."""
    if not support.INTERPRETED:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the compiled kernels are replaced
        operators.register("CPU")
    yield
    operators.unregister("CPU")
