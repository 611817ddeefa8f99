"""mma and ldmatrix hold their operands where the PTX ISA says, element by element.

The figures and formulas of "Warp Level Matrix Multiply-Accumulate Instructions" are written down
here once more, so that a mistake in the emulator does not check itself.
"""

from __future__ import annotations

import pytest
import torch

LANES = range(32)
# (dtype, depth, elements of a register)
KINDS = {"bfloat16": (torch.bfloat16, 16, 2), "float16": (torch.float16, 16, 2)}
KINDS |= {"tf32": (torch.float32, 8, 1)}


@pytest.fixture(scope="module")
def harness(machine):
    return machine("matrix_harness")


# Matrix Fragments for mma.m16n8k16 with floating point type, and mma.m16n8k8 with .tf32: the row
# and column of the element with index i (as a0, a1, ...) in a lane.


def place_a(kind: str, lane: int, i: int) -> tuple[int, int]:
    group, member = lane >> 2, lane % 4
    if kind == "tf32":
        return (group if i in (0, 2) else group + 8), (member if i < 2 else member + 4)
    row = group if 0 <= i < 2 or 4 <= i < 6 else group + 8
    return row, member * 2 + (i & 1) + (8 if i >= 4 else 0)


def place_b(kind: str, lane: int, i: int) -> tuple[int, int]:
    group, member = lane >> 2, lane % 4
    if kind == "tf32":
        return (member if i == 0 else member + 4), group
    return member * 2 + (i & 1) + (8 if i >= 2 else 0), group


def place_c(lane: int, i: int) -> tuple[int, int]:
    group, member = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), member * 2 + (i & 1)


def fragments(matrix, kind, place, count):
    """What each lane holds of a matrix: (32, count) elements, in memory as the registers."""
    elements = (place(kind, lane, i) for lane in LANES for i in range(count))
    rows, columns = zip(*elements, strict=True)
    return matrix[list(rows), list(columns)].reshape(32, count).contiguous()


def tf32(x):
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_product_is_that_of_the_matrices(harness, kind):
    dtype, depth, packed = KINDS[kind]
    generator = torch.Generator().manual_seed(depth)
    a = torch.randn(16, depth, generator=generator).to(dtype)
    b = torch.randn(depth, 8, generator=generator).to(dtype)
    c = torch.randn(16, 8, generator=generator)
    rows, columns = zip(*(place_c(lane, i) for lane in LANES for i in range(4)), strict=True)
    at = list(rows), list(columns)
    total = c[at].contiguous()
    a_lanes = fragments(a, kind, place_a, 4 * packed)
    b_lanes = fragments(b, kind, place_b, 2 * packed)
    harness.call(f"multiply_{kind}", a_lanes, b_lanes, total)
    read = tf32 if kind == "tf32" else (lambda x: x)
    reference = c.double() + read(a).double() @ read(b).double()
    torch.testing.assert_close(total.double(), reference[at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_loaded_matrices(harness, count, transposed):
    tile = torch.arange(8 * count * 8, dtype=torch.int16).reshape(8 * count, 8)
    rows = torch.randperm(8 * count, generator=torch.Generator().manual_seed(count)).int()
    registers = torch.zeros(32, 2 * count, dtype=torch.int16)
    harness.call("load_matrices", count, transposed, tile, rows, registers)
    for m, matrix in enumerate(tile[rows].reshape(count, 8, 8)):
        # ldmatrix: a row is spread over four consecutive threads, two elements each.
        expected = (matrix.T if transposed else matrix).reshape(32, 2)
        assert torch.equal(registers[:, 2 * m : 2 * m + 2], expected)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("load_misaligned", "misaligned read of 16 bytes"),
        ("load_from_global", "from an address that is not in shared memory"),
    ],
)
def test_fault_aborts_with_a_message(emulated, abort_message, kernel, message):
    assert message in abort_message(emulated("matrix_harness"), f"run_{kernel}")
