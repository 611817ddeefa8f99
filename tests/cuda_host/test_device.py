"""bfloat16 is converted in the kernels exactly as PyTorch converts it."""

from __future__ import annotations

import ctypes

import pytest
import torch


@pytest.fixture(scope="module")
def convert(emulated):
    library = ctypes.CDLL(str(emulated("device_harness")))

    def call(function, source, target):
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (source, target)]
        getattr(library, function)(*pointers, ctypes.c_int64(source.numel()))
        return target

    return call


def all_bfloat16():
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)


def test_every_bfloat16_widens_to_the_same_float(convert):
    source = all_bfloat16()
    ours = convert("from_bfloat16", source, torch.empty(source.shape))
    torch.testing.assert_close(ours, source.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("low_bits", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_floats_round_to_nearest_even(convert, low_bits):
    # Below, at and above the middle between two bfloat16: for all of them, NaN and infinity too.
    high_bits = torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16
    source = (high_bits | low_bits).view(torch.float32)
    ours = convert("to_bfloat16", source, torch.empty(source.shape, dtype=torch.bfloat16))
    torch.testing.assert_close(ours, source.bfloat16(), rtol=0, atol=0, equal_nan=True)
