"""The speed of this machine's matrix product, the bound for everything that consists of them."""

from __future__ import annotations

import functools

import torch

from seqkern.core import library
from seqkern.core.timing import timed

SIZE = 1024
ROUNDS = 15


def gemm_peak(dtype: torch.dtype) -> float:
    """GFLOP/s of a matrix product with the present number of threads, measured once: PyTorch's, or
    in float32 our own where that one is faster."""
    return _gemm_peak(dtype, torch.get_num_threads())


@functools.cache
def _gemm_peak(dtype: torch.dtype, threads: int) -> float:
    a, b = torch.randn(SIZE, SIZE).to(dtype), torch.randn(SIZE, SIZE).to(dtype)
    products = [lambda: torch.mm(a, b)]
    if dtype == torch.float32 and library.cpu.loaded:
        products.append(lambda: torch.ops.seqkern.matmul(a, b, None))
    seconds = min(timed(product) for product in products for _ in range(ROUNDS))
    return 2 * SIZE**3 / seconds / 1e9
