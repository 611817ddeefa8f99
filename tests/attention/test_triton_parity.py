"""The Triton kernels against the float64 reference, forward and every gradient, all tensors between
guard bands of NaN."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.attention.cases import Case, check
from tests.attention.test_parity import EXTRAS, OPTIONS
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


# Interpreted, a tile has 32 queries and 32 keys.
SHAPES = [
    Case(1, 1, 1, 1, 1),
    Case(2, 2, 33, 31, 16),
    Case(1, 2, 32, 64, 20, Dv=7),
    Case(1, 1, 70, 65, 40, Hkv=1, Dv=65),
    Case(1, 4, 5, 67, 9, Hkv=2),
    Case(1, 1, 17, 33, 256),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes(case, dtype):
    check(case, dtype, "triton", guards=True)


@pytest.mark.parametrize("case", OPTIONS + EXTRAS, ids=str)
def test_options(case):
    check(case, torch.float32, "triton", guards=True)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("case", [OPTIONS[0], OPTIONS[6], OPTIONS[15], EXTRAS[-2]], ids=str)
def test_options_in_16_bits(case, dtype):
    check(case, dtype, "triton", guards=True)
