"""DistributedDataParallel on two gloo processes equals one process on the whole batch."""

from __future__ import annotations

import gc
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import seqkern

LENGTH, BATCH, WIDTH = 6, 4, 8


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        options = {"dropout": 0.0, "batch_first": True, "dtype": torch.float64}
        self.transformer = seqkern.nn.Transformer(WIDTH, 2, 1, 1, 16, **options)
        self.attention = seqkern.nn.MultiheadAttention(WIDTH, 2, **options)

    def forward(self, x, padding):
        y = self.transformer(x, x, src_key_padding_mask=padding)
        return self.attention(y, x, x, key_padding_mask=padding, need_weights=False)[0]


def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64, generator=generator)
    return x, torch.arange(LENGTH) >= torch.tensor([[6], [5], [3], [4]])


def worker(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = Model()
    if rank == 1:  # DDP brings the processes to the same weights
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
    train(DistributedDataParallel(model), *(t.chunk(2)[rank] for t in batch()))
    torch.save(list(model.parameters()), os.path.join(results, f"{rank}.pt"))
    # DDP's cycles hold the group, whose threads would outlive the interpreter and abort it.
    gc.collect()
    dist.destroy_process_group()


def train(model: torch.nn.Module, x, padding) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x, padding).square().mean().backward()
        optimizer.step()


def test_two_processes_equal_one(tmp_path):
    mp.spawn(worker, (str(tmp_path / "store"), str(tmp_path)), nprocs=2, join=True)
    model = Model()
    train(model, *batch())
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for mine, right in zip(found, model.parameters(), strict=True):
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-12)
