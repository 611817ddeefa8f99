"""Barriers, shuffles, votes, flags and asynchronous copies, used rightly and wrongly."""

from __future__ import annotations

import ctypes

import pytest
import torch

THREADS = 128
SEEDS = range(8)


@pytest.fixture(scope="module")
def library(emulated):
    return ctypes.CDLL(str(emulated("synchronisation_harness")))


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def nan(count):
    return torch.full((count,), torch.nan)


def test_shuffles_and_votes(library):
    out = torch.zeros(10, 32, dtype=torch.int32)
    library.run_shuffle_and_vote(pointer(out))
    lane = torch.arange(32, dtype=torch.int32)
    thirds = sum(1 << i for i in range(0, 32, 3))
    ones, zeros = torch.ones_like(lane), torch.zeros_like(lane)
    expected = [
        100 + (lane ^ 5),
        100 + torch.where(lane + 3 < 32, lane + 3, lane),
        100 + torch.where(lane >= 3, lane - 3, lane),
        100 + 31 - lane,
        torch.full_like(lane, thirds),
        ones,
        zeros,
        ones,
        zeros,
        lane ^ 31,
    ]
    assert torch.equal(out, torch.stack(expected))


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_sync_lets_lanes_see_each_other(library, seed):
    x, out = torch.arange(float(THREADS)), nan(THREADS)
    library.run_reverse_in_warps(pointer(x), pointer(out), ctypes.c_uint64(seed))
    assert torch.equal(out, x.reshape(-1, 32).flip(1).flatten())


@pytest.mark.parametrize("seed", SEEDS)
def test_named_barriers_join_producers_and_consumers(library, seed):
    out = nan(THREADS)
    library.run_produce_and_consume(pointer(out), 3, ctypes.c_uint64(seed))
    me = torch.arange(THREADS // 2)
    assert torch.equal(out[: THREADS // 2], (3 * (me ^ 33) + 3).float())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("blocks", "threads"), [(1, 32), (3, 40), (7, 64), (40, 32)])
def test_grid_barrier(library, blocks, threads, seed):
    out = nan(blocks * threads)
    for plain in (False, True):
        shape = (blocks, threads, 3, ctypes.c_uint64(seed))
        library.run_sum_over_grid(True, plain, pointer(out.fill_(torch.nan)), *shape)
        assert (out == 3 * sum(range(blocks)) + 3 * blocks).all()


def test_missing_grid_barrier_shows(library):
    results = set()
    for seed in SEEDS:
        out = nan(7 * 64)
        library.run_sum_over_grid(False, False, pointer(out), 7, 64, 3, ctypes.c_uint64(seed))
        results.add(tuple(out.tolist()))
    assert len(results) == len(SEEDS)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("by_add", [False, True])
def test_flags_hand_on_a_turn(library, by_add, seed):
    out = nan(8 * 64)
    library.run_hand_on(by_add, pointer(out), ctypes.c_uint64(seed))
    assert torch.equal(out, torch.arange(8.0).repeat_interleave(64))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "how", ["release_acquire", "add_acquire", "fence_acquire", "release_fence", "fence_fence"]
)
def test_flags_order_what_was_written_before(library, how, seed):
    out = nan(3 * 64)
    getattr(library, f"run_announce_{how}")(pointer(out), ctypes.c_uint64(seed))
    assert (out[64:] == 3).all()


@pytest.mark.parametrize(
    "how", ["relaxed_acquire", "early_acquire", "release_relaxed", "release_without_barrier"]
)
def test_flags_that_order_too_little_are_a_race(emulated, abort_message, how):
    said = abort_message(emulated("synchronisation_harness"), f"run_alone_announce_{how}")
    assert RACE in said and "byte 0 of 'number'" in said


def test_blocks_that_are_there_at_the_same_time(library):
    # 2048 threads and 228 KiB of shared memory for each processor, 1 KiB of it for each block.
    assert library.resident_blocks(10, 1024, 0) == 20
    assert library.resident_blocks(10, 32, 0) == 320
    assert library.resident_blocks(10, 96, 227 * 1024) == 10
    assert library.resident_blocks(10, 96, 113 * 1024) == 20


@pytest.mark.parametrize("rest", [1, 5, 127])
@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("seed", range(2))
def test_copies_land_where_they_are_waited_for(library, size, rest, seed):
    each = size // 4
    full = 2 * each * THREADS
    x = torch.arange(1.0, full + rest + 1)
    out = nan(THREADS)
    library.run_sum_tiles(size, pointer(x), pointer(out), 3, rest, ctypes.c_uint64(seed))
    padded = torch.cat([x, torch.zeros(full // 2 - rest)])
    sums = padded.reshape(3, THREADS, each).sum((0, 2))
    assert torch.equal(out, sums[torch.arange(THREADS) ^ 32])


@pytest.mark.parametrize("kernel", ["read_before_wait", "wait_without_commit"])
def test_copy_that_is_not_waited_for_is_nan(library, kernel):
    x, out = torch.ones(THREADS), torch.zeros(THREADS)
    getattr(library, f"run_{kernel}")(pointer(x), pointer(out))
    assert out.isnan().all()


def test_waiting_for_a_group_too_few_gives_nan(library):
    x, out = torch.ones(2 * THREADS), torch.zeros(THREADS)
    library.run_sum_tiles_too_early(pointer(x), pointer(out))
    assert out.isnan().all()


@pytest.mark.parametrize("seed", range(2))
def test_static_and_dynamic_shared_memory_lie_apart(library, seed):
    out = nan(THREADS)
    library.run_fill_both(pointer(out), ctypes.c_uint64(seed))
    assert (out == 12).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics_and_halves_of_a_word_are_no_race(library, seed):
    out = nan(THREADS)
    library.run_no_race(pointer(out), ctypes.c_uint64(seed))
    assert torch.equal(out, (THREADS + (torch.arange(THREADS) ^ 1)).float())


RACE = "race in memory: it"


@pytest.mark.parametrize(
    ("kernel", "messages"),
    [
        ("reverse_in_warps_without_sync", [RACE, "'tile'", "and nothing orders this after thread"]),
        ("write_after_read", [RACE, "synchronisation_harness.cpp"]),
        ("write_after_read_by_flag", [RACE, "writes byte 0 of 'tile'", "which read it"]),
        ("two_writes", [RACE, "writes byte 0 of 'tile'", "which wrote it"]),
        ("consume_early", [RACE]),
        ("produce_early", ["named barrier 1 at", "where this thread arrived before"]),
        ("sum_tiles_without_barrier", [RACE, "of the dynamic shared memory"]),
        ("missing_grid_barrier", [RACE, "of 'numbers'", "of block"]),
        ("missing_second_grid_barrier", [RACE, "of 'numbers'"]),
        ("shuffle_from_nowhere", ["a shuffle with lane", "which is not there"]),
        ("vote_in_a_branch", ["divergent synchronisation: it waits at a vote", "has ended"]),
        ("warp_sync_in_a_branch", ["divergent synchronisation: it waits at a warp's barrier"]),
        (
            "named_barrier_nobody_comes_to",
            ["deadlock: no thread", "threads 0 to 63 wait at a named barrier", "64 threads"],
        ),
        ("named_barrier_of_two_counts", ["but the others came for"]),
        ("named_barrier_of_half_a_warp", ["named barrier 3 for 48 threads", "whole warps"]),
        ("named_barrier_16", ["named barrier 16", "there are 1 to 15"]),
        ("named_barrier_twice", ["where this thread arrived before"]),
        (
            "wait_for_a_flag_nobody_sets",
            ["deadlock: no thread", "block 1, threads 0 to 0 look at a flag", "a barrier"],
        ),
        ("grid_barrier_without_cooperative_launch", ["deadlock", "this launch is not cooperative"]),
        ("past_dynamic", ["out-of-bounds write of 4 bytes at byte 512 of the dynamic"]),
        ("before_dynamic", ["out-of-bounds read of 4 bytes at byte -4 of the dynamic"]),
        ("no_dynamic", ["dynamic shared memory at", "but the launch gives none"]),
        ("too_much_dynamic", ["233472 bytes of dynamic shared memory, where there are 232448"]),
        ("too_much_static", ["'b' makes it 65536 bytes of static shared memory"]),
        ("copy_past_the_end", ["out-of-bounds read of 1 bytes at byte 2044 of 'x'"]),
        ("copy_misaligned", ["misaligned read of 8 bytes"]),
        ("copy_to_global", ["cp.async at", "to an address that is not in shared memory"]),
        ("use_the_stack", ["its stack of 131072 bytes is too small"]),
    ],
)  # fmt: skip
def test_fault_aborts_with_a_message(emulated, abort_message, kernel, messages):
    said = abort_message(emulated("synchronisation_harness"), f"run_{kernel}")
    assert all(message in said for message in messages), said


def test_more_blocks_than_there_is_room_for_abort(emulated, abort_message):
    said = abort_message(emulated("synchronisation_harness"), "run_too_many_blocks", 2)
    assert "a cooperative launch of 5 blocks, of which only 4 are there at the same time" in said
