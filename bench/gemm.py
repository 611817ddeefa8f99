"""The speed of this machine's matrix product, the bound for everything that consists of them."""

from __future__ import annotations

import functools

import torch

from seqkern.core import library
from seqkern.core.timing import timed

SIZES = (512, 1024, 2048)
"""Square products; 16-bit tiles need large ones, the caches small ones."""
ROUNDS = 15


def gemm_peak(dtype: torch.dtype) -> float:
    """GFLOP/s of the fastest matrix product with the present number of threads, measured once:
    PyTorch's, on a CPU with AMX by AMX in bfloat16, or in float32 our own where that one is
    faster."""
    return _gemm_peak(dtype, torch.get_num_threads())


@functools.cache
def _gemm_peak(dtype: torch.dtype, threads: int) -> float:
    return max(_speed(dtype, size) for size in SIZES)


def _speed(dtype: torch.dtype, size: int) -> float:
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    products = [lambda: torch.mm(a, b)]
    if dtype == torch.float32 and library.cpu.loaded:
        products.append(lambda: torch.ops.seqkern.matmul(a, b, None))
    seconds = min(timed(product) for product in products for _ in range(ROUNDS))
    return 2 * size**3 / seconds / 1e9
