"""How fast this machine reads memory, the bound for what reads much and computes little."""

from __future__ import annotations

import functools

import torch

from seqkern.core.timing import timed

from . import settings

BEYOND_CACHES = 2**26 if settings.QUICK else 2**30
"""Bytes that no cache holds."""

ROUNDS = 20


def read_bandwidth(size: int) -> float:
    """GB/s (10^9 bytes) at which PyTorch reads a buffer again and again, measured once.

    With the present number of threads. The buffer's size decides which cache, or none, it comes
    from: a case is compared with a buffer as large as what it reads, and `BEYOND_CACHES` tells the
    speed of the memory itself.

    Three operations do nothing but read, each in a library of its own: a sum (PyTorch's), a dot
    product of a vector with itself and a matrix times a vector that stays in L1
    (both the BLAS's). Which is the fastest depends on the size and the number of threads (one of
    them may not use all), so the fastest counts. A copy would write as much as it reads.

    Args:
        size: bytes; rounded down to whole rows of the matrix.
    """
    return _read_bandwidth(size, torch.get_num_threads())


@functools.cache
def _read_bandwidth(size: int, threads: int) -> float:
    columns = 4096
    matrix = torch.ones(max(1, size // (4 * columns)), columns)
    vector, weights = matrix.view(-1), torch.ones(columns)
    reads = (
        lambda: vector.sum(),
        lambda: torch.dot(vector, vector),
        lambda: torch.mv(matrix, weights),
    )
    seconds = min(timed(read) for _ in range(ROUNDS) for read in reads)
    return matrix.nbytes / seconds / 1e9
