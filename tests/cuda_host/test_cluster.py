"""Clusters, arrivals barriers and the copy engine, used rightly and wrongly."""

from __future__ import annotations

import ctypes

import pytest
import torch

THREADS = 64
CLUSTER = 4
SEEDS = range(8)


@pytest.fixture(scope="module")
def library(emulated):
    return ctypes.CDLL(str(emulated("cluster_harness")))


def pointer(tensor):
    assert tensor.data_ptr() % 16 == 0
    return ctypes.c_void_p(tensor.data_ptr())


def nan(count):
    return torch.full((count,), torch.nan)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("cooperative", [False, True])
@pytest.mark.parametrize(("blocks", "cluster"), [(8, 4), (6, 2), (3, 3), (2, 1), (16, 8)])
def test_blocks_reach_each_others_shared_memory(library, blocks, cluster, cooperative, seed):
    out = nan(blocks * THREADS)
    library.run_pass_round(pointer(out), blocks, cluster, cooperative, ctypes.c_uint64(seed))
    block = torch.arange(blocks)
    before = block // cluster * cluster + (block - 1) % cluster
    assert torch.equal(out, (101.0 * before).repeat_interleave(THREADS))


@pytest.mark.parametrize("seed", SEEDS)
def test_split_cluster_barrier(library, seed):
    out = nan(CLUSTER * THREADS)
    library.run_split_barrier(pointer(out), ctypes.c_uint64(seed))
    assert (out == 1).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tiles", [1, 2, 7])
def test_ring_of_bulk_copies(library, tiles, seed):
    x, out = torch.arange(1.0, 32 * tiles + 1), nan(32)
    library.run_ring(pointer(x), pointer(out), tiles, ctypes.c_uint64(seed))
    assert torch.equal(out, x.reshape(tiles, 32).sum(0)[torch.arange(32) ^ 5])


@pytest.mark.parametrize("seed", SEEDS)
def test_arrivals_from_other_blocks(library, seed):
    out = nan(THREADS)
    library.run_gather_at_first(pointer(out), ctypes.c_uint64(seed))
    numbers = torch.arange(float(CLUSTER * THREADS)).reshape(CLUSTER, THREADS)
    assert torch.equal(out, numbers.sum(0)[torch.arange(THREADS) ^ 3])


def padded(matrix, row, column, rows, columns):
    tile = torch.zeros(rows, columns, dtype=matrix.dtype)
    for r in range(max(row, 0), min(row + rows, matrix.shape[0])):
        for c in range(max(column, 0), min(column + columns, matrix.shape[1])):
            tile[r - row, c - column] = matrix[r, c]
    return tile


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (-2, -3), (17, 60)])
@pytest.mark.parametrize("swizzled", [False, True])
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32], ids=str)
def test_tile_of_a_matrix(library, dtype, swizzled, row, column):
    matrix = torch.arange(1, 20 * 72 + 1).reshape(20, 72).to(dtype)
    view = matrix[:, :67]
    rows, columns = (16, 128 // dtype.itemsize) if swizzled else (5, 8)
    out = torch.zeros(rows * columns, dtype=dtype)
    shape = (20, 67, 72, rows, columns, swizzled)
    library.run_fetch_tile(
        dtype.itemsize, pointer(matrix), *shape, row, column, pointer(out), ctypes.c_uint64(row + 9)
    )
    expected = padded(view, row, column, rows, columns)
    if swizzled:  # 16 bytes at a time: chunk c of row r lies at chunk c ^ (r % 8)
        chunks = expected.reshape(rows, 8, -1)
        r, c = torch.arange(rows)[:, None], torch.arange(8)[None]
        expected = chunks[r, c ^ (r % 8)]
    assert torch.equal(out, expected.flatten())


@pytest.mark.parametrize("seed", SEEDS)
def test_bulk_store(library, seed):
    x, out = torch.arange(float(THREADS)), nan(THREADS)
    library.run_store_doubled(pointer(x), pointer(out), ctypes.c_uint64(seed))
    assert torch.equal(out, 2 * x)


RACE = "race in memory: it"


@pytest.mark.parametrize(
    ("kernel", "messages"),
    [
        ("no_first_barrier", ["before the cluster's first barrier"]),
        ("no_middle_barrier", [RACE]),
        ("no_last_barrier", ["of the shared memory of block", "which has ended"]),
        ("write_after_arrival", [RACE]),
        ("arrive_twice", ["it arrives at the cluster's barrier at", "has not waited"]),
        ("wait_alone", ["it waits at the cluster's barrier at", "has not arrived"]),
        ("rank_that_is_not_there", ["block 4 of a cluster of 4"]),
        ("one_block_stays_away", ["deadlock", "wait at the cluster's barrier"]),
        ("odd_cluster", ["5 blocks do not make clusters of 2"]),
        ("no_init", ["an arrivals barrier at", "nobody has set up"]),
        ("init_without_barrier", [RACE]),
        ("too_many_arrivals", ["where all 1 arrivals of the phase have come"]),
        ("bytes_that_never_come", ["deadlock", "look at a flag at"]),
        ("odd_bytes", ["the copy engine at", "with 12 bytes, which is not a multiple of 16"]),
        ("tile_map_of_odd_stride", ["a tile map whose base, stride of 36"]),
        ("store_without_wait", ["copies from or to their shared memory are still under way"]),
        ("ring_without_full", [RACE]),
    ],
)
def test_fault_aborts_with_a_message(emulated, abort_message, kernel, messages):
    said = abort_message(emulated("cluster_harness"), f"run_{kernel}", 0)
    assert all(message in said for message in messages), said


def test_stage_that_is_filled_again_too_early(emulated, abort_message):
    """Nobody knows whether it was read; or its phase is over before somebody has looked."""
    library = emulated("cluster_harness")
    said = [abort_message(library, "run_ring_without_empty", seed) for seed in SEEDS]
    assert all(RACE in message or "deadlock" in message for message in said)
    assert any(RACE in message for message in said)
