"""Products of tiles by a group of warps against products of the whole matrices."""

from __future__ import annotations

import ctypes

import pytest
import torch

# Kinds of products: wgmma is a GPU's alone, and of those only of sm_90.
TILES = ["Mma", "Wgmma"]


@pytest.fixture(scope="module")
def harness(machine):
    return machine("tile_harness")


@pytest.mark.parametrize("size", [2, 4])
def test_tile_lies_as_the_copy_engine_puts_it(emulated, size):
    """Panels of 128 bytes; in row r the 16 bytes at index c lie at index c ^ (r % 8)."""
    rows, panel, chunk = 24, 128 // size, 16 // size
    offsets = torch.zeros(rows, 3 * panel, dtype=torch.int32)
    library = ctypes.CDLL(str(emulated("tile_harness")))
    library.tile_offsets(size, rows, 3 * panel, ctypes.c_void_p(offsets.data_ptr()))
    r, c = torch.arange(rows)[:, None], torch.arange(3 * panel)[None]
    place = (c % panel // chunk ^ r % 8) * chunk + c % chunk
    assert torch.equal(offsets.long(), c // panel * rows * panel + r * panel + place)


def skip_where_missing(tiles, harness):
    if tiles == "Mma":
        return
    if harness.device == "cpu":
        pytest.skip("the emulator has no wgmma")
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this GPU has no wgmma")


def random(*shape, dtype, seed):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    if dtype == torch.float32:  # numbers that tf32 holds
        x = (x.view(torch.int32) & ~0x1FFF).view(torch.float32)
    return x.to(dtype)


@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize("panels", [1, 3])
@pytest.mark.parametrize(
    "case",
    [
        "bfloat16_16_transposed",
        "bfloat16_48_transposed",
        "bfloat16_128_transposed",
        "bfloat16_128_plain",
        "float16_64_transposed",
        "float16_64_plain",
        "float32_16_transposed",
        "float32_64_transposed",
    ],
)
def test_product(harness, tiles, case, panels):
    skip_where_missing(tiles, harness)
    name, columns, kind = case.split("_")
    dtype, columns = getattr(torch, name), int(columns)
    depth = panels * 128 // dtype.itemsize
    a = random(64, depth, dtype=dtype, seed=0)
    b = random(columns, depth, dtype=dtype, seed=1)
    stored = b if kind == "transposed" else b.T.contiguous()
    out = torch.full((64, columns), torch.nan)
    harness.call(f"{tiles}_product_{case}", a, stored, out, depth)
    torch.testing.assert_close(out.double(), a.double() @ b.double().T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize("case", ["bfloat16_transposed", "bfloat16_plain", "float16_plain"])
def test_sum_becomes_an_operand(harness, tiles, case):
    skip_where_missing(tiles, harness)
    name, kind = case.split("_")
    dtype = getattr(torch, name)
    a, b, c = (random(64, 64, dtype=dtype, seed=seed) for seed in range(3))
    out = torch.full((64, 64), torch.nan)
    harness.call(f"{tiles}_two_products_{case}", a, b, c, out)
    first = (a.float() @ b.float().T).to(dtype).double()
    reference = first @ (c.double().T if kind == "transposed" else c.double())
    # Where float sums in another order round the first product to its other neighbour.
    tolerance = 2 * torch.finfo(dtype).eps * first.abs().max() * c.double().abs().max()
    torch.testing.assert_close(out.double(), reference, rtol=0, atol=tolerance.item())
