"""The LSTM's CUDA kernels against PyTorch: on the emulator, and on the device if there is one."""

from __future__ import annotations

import ctypes

import pytest
import torch

from seqkern import library

from ..parity import assert_all_parity

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
SIZES = [(1, 1), (3, 5), (4, 33), (7, 64)]


def cell(gates, c):
    i, f, g, o = gates.chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def inputs(batch, hidden, dtype):
    generator = torch.Generator().manual_seed(batch * hidden)
    gates = 4 * torch.randn(batch, 4 * hidden, generator=generator, dtype=torch.float64)
    c = torch.randn(batch, hidden, generator=generator, dtype=torch.float64)
    return gates.to(dtype), c.to(dtype)


def assert_as_good_as_torch(results, gates, c):
    truths = cell(gates.double(), c.double())
    assert_all_parity(results, cell(gates, c), truths, ("h", "c_new"))


@pytest.fixture(scope="module")
def emulated_lstm(emulated):
    return ctypes.CDLL(str(emulated("lstm_harness")))


def run_emulated(lstm, gates, c, blocks, threads):
    h, c_new = torch.full_like(c, torch.nan), torch.full_like(c, torch.nan)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (gates, c, h, c_new)]
    sizes = [ctypes.c_int64(size) for size in c.shape]
    function = f"lstm_pointwise_{str(c.dtype).removeprefix('torch.')}"
    getattr(lstm, function)(*pointers, *sizes, blocks, threads)
    return h, c_new


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "hidden"), SIZES)
def test_emulated_kernel(emulated_lstm, batch, hidden, dtype):
    gates, c = inputs(batch, hidden, dtype)
    # Fewer threads than elements, so that the loop over the grid is needed too.
    results = run_emulated(emulated_lstm, gates, c, blocks=2, threads=32)
    assert_as_good_as_torch(results, gates, c)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "hidden"), SIZES)
def test_device_operator(batch, hidden, dtype):
    assert library.cuda.loaded, library.cuda.reason
    gates, c = inputs(batch, hidden, dtype)
    results = torch.ops.seqkern.lstm_pointwise(gates.cuda(), c.cuda())
    assert_as_good_as_torch([result.cpu() for result in results], gates, c)
