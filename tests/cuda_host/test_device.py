"""Numbers, vectors, caches and atomics: exact, and for the short formats as PyTorch converts."""

from __future__ import annotations

import ctypes

import pytest
import torch

SHORT = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Below, at and above the middle between two numbers of either format, NaN and infinity too.
LOW_BITS = [0x0000, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF]


@pytest.fixture(scope="module")
def library(emulated):
    return ctypes.CDLL(str(emulated("device_harness")))


@pytest.fixture(scope="module")
def call(library):
    def call(function, *arguments):
        passed = [
            ctypes.c_void_p(argument.data_ptr()) if torch.is_tensor(argument)
            else ctypes.c_int64(argument)
            for argument in arguments
        ]  # fmt: skip
        getattr(library, function)(*passed)

    return call


def all_shorts(dtype):
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


def floats(low_bits):
    high_bits = torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16
    return (high_bits | low_bits).view(torch.float32)


def assert_same(ours, reference):
    torch.testing.assert_close(ours, reference, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", SHORT)
def test_every_short_number_widens_to_the_same_float(call, name):
    source = all_shorts(SHORT[name])
    ours = torch.empty(source.shape)
    call(f"from_{name}", source, ours, source.numel())
    assert_same(ours, source.float())


@pytest.mark.parametrize("name", SHORT)
@pytest.mark.parametrize("low_bits", LOW_BITS)
def test_floats_round_to_nearest_even(call, name, low_bits):
    source = floats(low_bits)
    ours = torch.empty(source.shape, dtype=SHORT[name])
    call(f"to_{name}", source, ours, source.numel())
    assert_same(ours, source.to(SHORT[name]))


@pytest.mark.parametrize("low_bits", LOW_BITS)
def test_tf32_rounds_ties_away_from_zero(call, low_bits):
    source = floats(low_bits)
    ours = torch.empty(source.shape)
    call("to_tf32", source, ours, source.numel())
    finite = source.isfinite()
    # 11 significant bits; frexp gives a mantissa of [0.5, 1), for subnormal numbers less.
    x = source.double()
    unit = torch.ldexp(torch.ones_like(x), x.frexp().exponent.clamp(min=-125) - 11)
    reference = torch.sign(x) * torch.floor(x.abs() / unit + 0.5) * unit
    assert_same(ours[finite], reference.float()[finite])
    assert_same(ours[~finite], source[~finite])


@pytest.mark.parametrize("name", SHORT)
def test_pairs_hold_the_first_number_in_the_low_half(call, name):
    source = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    pairs = torch.zeros(500, dtype=torch.int32)
    back = torch.empty(1000)
    call(f"pack_{name}", source, pairs, back, 1000)
    short = source.to(SHORT[name])
    low, high = pairs & 0xFFFF, pairs >> 16 & 0xFFFF
    bits = short.view(torch.int16).int() & 0xFFFF
    assert torch.equal(low, bits[::2]) and torch.equal(high, bits[1::2])
    assert_same(back, short.float())


@pytest.mark.parametrize("kind", ["float32_by_4", "float32_by_2", "bfloat16_by_8", "float16_by_4"])
def test_vectors(call, kind):
    source = torch.arange(1024).to(getattr(torch, kind.split("_")[0]))
    ours = torch.empty_like(source)
    call(f"double_{kind}", source, ours, 1024)
    assert_same(ours, 2 * source)


def test_accesses_past_the_caches(call):
    source, ours = torch.arange(4096.0), torch.zeros(4096)
    call("run_copy_past_caches", source, ours)
    assert_same(ours, source)


@pytest.mark.parametrize("seed", range(5))
def test_atomics_lose_nothing(call, seed):
    total, most = torch.zeros(1), torch.full((1,), -1, dtype=torch.int32)
    tickets = torch.zeros(257, dtype=torch.int32)
    lock, guarded = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    call("run_update", total, most, tickets, lock, guarded, seed)
    assert (total.item(), most.item(), guarded.item()) == (128, 255, 256)
    assert torch.equal(tickets[1:].sort().values, torch.arange(256, dtype=torch.int32))


def test_updates_without_atomics_get_lost(call):
    counts = torch.zeros(5, dtype=torch.int32)
    for seed in range(5):
        call("run_update_plainly", counts[seed], seed)
    assert (counts < 256).all() and (counts > 0).all()


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("misaligned_vector", "misaligned read of 16 bytes"),
        ("read_shared_as_global", "where only global memory is possible"),
    ],
)
def test_fault_aborts_with_a_message(emulated, abort_message, kernel, message):
    assert message in abort_message(emulated("device_harness"), f"run_{kernel}")
