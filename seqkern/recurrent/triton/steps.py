"""The order of the steps of a call, for the Triton kernels: which rows are alive, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Step(NamedTuple):
    """A step: its first row, and how many rows it, its predecessor and its successor have; both in
    the order of processing, 0 where there is none."""

    now: int
    earlier: int
    later: int
    alive: int
    before: int
    after: int


class Steps:
    """The steps of a call in the order of processing: a reversed sequence starts at its end.

    Step s works on the rows first[s] ... first[s] + alive[s] of the (row, feature) tensors; row r
    of a step belongs to sequence r of the batch.
    """

    def __init__(self, input: Tensor, batch_sizes: Tensor | None, reverse: bool) -> None:
        self.ragged = batch_sizes is not None
        self.reverse = reverse
        if batch_sizes is not None:
            self.alive: list[int] = batch_sizes.tolist()
        else:
            self.alive = [input.shape[-2]] * (input.shape[0] if input.dim() == 3 else 1)
        self.batch = self.alive[0]
        self.first = []
        self.rows = 0
        for count in self.alive:
            self.first.append(self.rows)
            self.rows += count
        if reverse:
            self.alive.reverse()
            self.first.reverse()

    def __len__(self) -> int:
        return len(self.alive)

    def __iter__(self) -> Iterator[Step]:
        return (self[s] for s in range(len(self)))

    def __getitem__(self, s: int) -> Step:
        last = len(self) - 1
        return Step(
            self.first[s],
            self.first[s - 1] if s > 0 else 0,
            self.first[s + 1] if s < last else 0,
            self.alive[s],
            self.alive[s - 1] if s > 0 else 0,
            self.alive[s + 1] if s < last else 0,
        )

    def on_device(self, device: torch.device) -> Tensor:
        """What `kernels.streamed` calls `steps`. The copy waits for nothing: it comes from
        pinned memory, which the allocator keeps until the copy is done.

        Raises:
            RuntimeError: a CUDA graph is being captured, whose replays would read that memory when
                it holds something else.
        """
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "a packed sequence cannot be captured in a CUDA graph by the Triton kernels: its "
                "batch sizes are copied to the GPU in each call"
            )
        columns = [[0, *self.alive, 0], [0, *self.first, 0]]
        host = torch.tensor(columns, dtype=torch.int64, pin_memory=device.type == "cuda")
        return host.to(device, non_blocking=True)

    def first_rows(self, per_row: Tensor) -> Tensor:
        """Of a (row, feature) tensor the row of each sequence's first step, (batch, feature)."""
        if not self.ragged:
            return per_row[self.first[0] : self.first[0] + self.batch]
        parts = []
        for s in range(len(self)):
            step = self[s]
            if step.alive > step.before:
                parts.append(per_row[step.now + step.before : step.now + step.alive])
        return torch.cat(parts)

    def last_rows(self, per_row: Tensor) -> Tensor:
        """Of a (row, feature) tensor the row of each sequence's last step, (batch, feature); a
        copy."""
        if not self.ragged:
            return per_row[self.first[-1] : self.first[-1] + self.batch].clone()
        parts = []
        for s in reversed(range(len(self))):
            step = self[s]
            if step.alive > step.after:
                parts.append(per_row[step.now + step.after : step.now + step.alive])
        return torch.cat(parts)

    def states_before(self, output: Tensor, h0: Tensor) -> Tensor:
        """For each row the state before its step, from all states and the initial ones."""
        if not self.ragged:
            last = self.rows - self.batch
            return torch.cat([output[self.batch :], h0] if self.reverse else [h0, output[:last]])
        parts = []
        for s in reversed(range(len(self))) if self.reverse else range(len(self)):
            step = self[s]
            continuing = min(step.alive, step.before)
            parts.append(output[step.earlier : step.earlier + continuing])
            parts.append(h0[continuing : step.alive])
        return torch.cat(parts)
