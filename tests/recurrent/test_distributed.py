"""DistributedDataParallel on two gloo processes equals one process on the whole batch."""

from __future__ import annotations

import gc
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import seqkern

STEPS, BATCH = 6, 4


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {
            "lstm": seqkern.nn.LSTM(5, 8, 2, bidirectional=True, dtype=torch.float64),
            "gru": seqkern.nn.GRU(16, 6, dtype=torch.float64),
            "rnn": seqkern.nn.RNN(6, 4, dtype=torch.float64),
        }
    )


class Stack(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = model()

    def forward(self, x):
        for part in self.parts.values():
            x = part(x)[0]
        return x


def batch() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(STEPS, BATCH, 5, dtype=torch.float64, generator=generator)


def worker(rank: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    stack = Stack()
    if rank == 1:  # DDP brings the processes to the same weights
        with torch.no_grad():
            for p in stack.parameters():
                p.zero_()
    parallel = DistributedDataParallel(stack)
    optimizer = torch.optim.SGD(parallel.parameters(), 0.1)
    part = batch().chunk(2, dim=1)[rank]
    for _ in range(3):
        optimizer.zero_grad()
        parallel(part).square().mean().backward()
        optimizer.step()
    torch.save(list(stack.parameters()), os.path.join(results, f"{rank}.pt"))
    # DDP's cycles hold the group, whose threads would outlive the interpreter and abort it.
    gc.collect()
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    mp.spawn(worker, (str(tmp_path / "store"), str(tmp_path)), nprocs=2, join=True)
    stack = Stack()
    optimizer = torch.optim.SGD(stack.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        stack(batch()).square().mean().backward()
        optimizer.step()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for mine, right in zip(found, stack.parameters(), strict=True):
            torch.testing.assert_close(mine, right, rtol=0, atol=1e-12)
