"""The operator embedding_train_ on a GPU: word vectors' training loop over a piece of a corpus.

The text is drawn from on the device first (`windows`); then programs, each with a part of
the windows, make their steps side by side and in place. See `kernels.train` for a step.

Deterministic: the windows are cut into STRANDS parts, and a round makes the steps of one window of
each, all at the tables as they stand; their gains are sorted by row and added in the order of the
strands. The tables' bits depend on the seed and on nothing else, for one kind of GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from seqkern.core.triton import support
from seqkern.core.triton.support import on_device_of
from seqkern.embedding.triton import rows, settings
from seqkern.embedding.triton.arguments import programs
from seqkern.embedding.triton.kernels.operands import (
    Bags,
    Negatives,
    Paths,
    Scratch,
    Table,
    Text,
)
from seqkern.embedding.triton.kernels.train import train_windows_kernel
from seqkern.embedding.triton.rows import Entries
from seqkern.embedding.triton.train_arguments import TrainArguments
from seqkern.embedding.triton.windows import (
    Windows,
    context_keys,
    draw_negatives,
    draw_windows,
    target_keys,
)

# Windows under way at once, none of which has seen the others' steps: as many as registers hold, up
# to 4 on each SM, some hundred in all. In a small vocabulary each word is in so many
# windows that fewer have to do. What that costs in quality has not been measured on a GPU.
WINDOWS_A_PROCESSOR = 4
WORDS_A_WINDOW = 8
STRANDS = 128
LEAST_PART = 32
"""Windows of a program, unless there are fewer: a short text is no batch."""
_MOST_DRAWN = 2**26  # negatives in memory at once


class _Call:
    """What all launches of a call have in common."""

    def __init__(self, arguments: TrainArguments) -> None:
        self.arguments = a = arguments
        self.features = a.input_rows.shape[1]
        self.vector = a.cbow or not a.share_negatives
        self.tree = a.paths is not None
        self.terms = a.longest_path if self.tree else a.negatives + 1
        self.config = settings.training(
            self.features,
            1 if self.vector else 2 * a.window,
            a.input_rows.dtype,
            a.bags is not None,
        )
        contexts = self.config["CONTEXTS"]
        self.slots = -(-2 * a.window // contexts) * contexts
        # Bags are kept while their words are within reach, but for single contexts.
        self.keeps_bags = a.bags is not None and (a.cbow or a.share_negatives)
        self.ring = 2 * a.window + 1

    def programs(self, windows: int) -> int:
        a = self.arguments
        each = min(WINDOWS_A_PROCESSOR, settings.resident(self.config))
        most = each * support.processors(a.input_rows.device)
        return max(1, min(most, windows // LEAST_PART, len(a.keep) // WORDS_A_WINDOW))

    def scratch(self, count: int, aside: bool) -> Scratch:
        """`aside`: gains do not go into the tables."""
        a, d = self.arguments, self.features
        new = a.input_rows.new_empty
        ring = self.keeps_bags and not aside
        composed = a.bags is not None and not self.vector
        slots = 1 if self.vector else self.slots
        chunked = d > self.config["WIDTH"]
        sizes = (
            (count, self.ring, d) if ring else (count, self.slots, d) if composed else (0,),
            (count, self.ring, d) if ring else (count, slots, d) if aside else (0,),
            (count, self.terms, d) if aside else (0,),
            (count, self.config["CONTEXTS"], self.terms) if chunked else (0,),
        )
        return Scratch(*(new(size, dtype=torch.float32) for size in sizes))

    def launch(
        self,
        windows: Windows,
        noise: tuple[Tensor, Tensor] | None,
        scratch: Scratch,
        losses: Tensor,
        each: int,
        start: int,
        count: int,
        lr: float,
        lr_step: float,
        propose: bool,
    ) -> None:
        a = self.arguments
        strides = a.input_rows.stride(0), a.output_rows.stride(0)
        unit = settings.unit(self.features, *strides)
        ring = self.keeps_bags and not propose
        train_windows_kernel[programs(len(losses))](
            Table(a.input_rows, strides[0] // unit), Table(a.output_rows, strides[1] // unit),
            Text(windows.words, windows.targets, windows.low, windows.high, windows.skipped),
            noise and Negatives(*noise), a.paths and Paths(*a.paths), a.bags and Bags(*a.bags),
            scratch, losses, each, start, count, len(windows), self.ring if ring else self.slots,
            len(windows.words), a.window, lr, lr_step, self.terms, self.features // unit,
            VECTOR=self.vector, MEAN=a.cbow_mean or not a.cbow, RING=ring, PROPOSE=propose,
            UNIT=unit, **self.config,
        )  # fmt: skip


def _train(call: _Call, windows: Windows, noise: tuple[Tensor, Tensor] | None,
           rates: tuple[float, float]) -> Tensor:  # fmt: skip
    """All windows, in place; returns the sum of their losses."""
    count = call.programs(len(windows))
    each = -(-len(windows) // count)
    losses = windows.low.new_zeros(count, dtype=torch.float32)
    step = (rates[1] - rates[0]) / each
    scratch = call.scratch(count, False)
    call.launch(windows, noise, scratch, losses, each, 0, each, rates[0], step, False)
    return losses.sum(dtype=torch.float64)


def _train_deterministically(
    call: _Call,
    windows: Windows,
    noise: tuple[Tensor, Tensor] | None,
    rates: tuple[float, float],
) -> Tensor:
    """The same by rounds."""
    a, d = call.arguments, call.features
    count = max(1, min(STRANDS, len(windows)))
    each = -(-len(windows) // count)
    losses = windows.low.new_zeros(count, dtype=torch.float32)
    step = (rates[1] - rates[0]) / each
    scratch = call.scratch(count, True)
    one = losses.new_ones(())
    first = torch.arange(count, device=losses.device) * each
    paths = None if a.paths is None else a.paths[:2]
    for start in range(each):
        call.launch(windows, noise, scratch, losses, each, start, 1, rates[0], step, True)
        chosen = first + start
        keys = context_keys(windows, chosen, 2 * a.window, a.bags, a.longest_bag)
        into = context_entries(call, scratch.input_gains, keys)
        rows.add_sorted(Entries(into[0].view(-1, d), into[1], one, into[2]), a.input_rows)
        keys = target_keys(windows, chosen, noise, paths, call.terms)
        gains = scratch.output_gains.view(-1, d)
        rows.add_sorted(Entries(gains, keys, one, 1), a.output_rows)
    return losses.sum(dtype=torch.float64)


def context_entries(call: _Call, gains: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, int]:
    """Gains (n, slots or 1, d), keys, and how many keys each gain has."""
    bag = keys.shape[2] if keys.dim() == 3 else 1
    if call.vector:
        return gains, keys, keys.shape[1] * bag
    return gains[:, : keys.shape[1]].contiguous(), keys, bag


def _parts(windows: Windows, negatives: int) -> Iterator[tuple[Windows, float, float]]:
    """Windows in parts whose negatives fit into memory, and where each begins and ends as a share
    of all."""
    total, size = len(windows), max(1, _MOST_DRAWN // max(1, negatives))
    for begin in range(0, total, size):
        end = min(total, begin + size)
        names = ("targets", "low", "high", "skipped")
        part = replace(windows, **{name: getattr(windows, name)[begin:end] for name in names})
        yield part, begin / total, end / total


def embedding_train_(
    input_rows: Tensor,
    output_rows: Tensor,
    tokens: Tensor,
    keep: Tensor,
    noise_thresholds: Tensor | None,
    noise_aliases: Tensor | None,
    path_offsets: Tensor | None,
    path_nodes: Tensor | None,
    path_codes: Tensor | None,
    bag_offsets: Tensor | None,
    bag_rows: Tensor | None,
    cbow: bool,
    window: int,
    shrink_windows: bool,
    negatives: int,
    share_negatives: bool,
    cbow_mean: bool,
    lr: float,
    final_lr: float,
    seed: int,
    threads: int,
    deterministic: bool,
    compute_loss: bool,
    copies: int,
) -> Tensor:
    """(4,) float64 on the device: words, kept, pairs, sum of losses. `threads` and `copies` mean
    nothing here, and the loss costs nothing worth leaving it out.

    Raises:
        RuntimeError: as `training.train_`.
    """
    a = TrainArguments.checked(
        input_rows, output_rows, tokens, keep, (noise_thresholds, noise_aliases),
        (path_offsets, path_nodes, path_codes), (bag_offsets, bag_rows), cbow, window, negatives,
        share_negatives, cbow_mean, lr, final_lr,
    )  # fmt: skip
    with on_device_of(input_rows):
        generator = torch.Generator(input_rows.device)
        generator.manual_seed(seed & (2**63 - 1))
        windows = draw_windows(
            a.tokens, a.keep, window, shrink_windows, cbow, a.share_negatives, generator
        )
        call = _Call(a)
        train = _train_deterministically if deterministic else _train
        loss = torch.zeros((), dtype=torch.float64, device=input_rows.device)
        if call.terms:
            for part, begin, end in _parts(windows, 0 if call.tree else negatives):
                noise = None
                if a.noise is not None:
                    noise = draw_negatives(part.targets, *a.noise, negatives, generator)
                rates = (lr + (final_lr - lr) * begin, lr + (final_lr - lr) * end)
                loss += train(call, part, noise, rates)
        kept = torch.full_like(windows.read, len(windows.words))
        return torch.stack([windows.read.double(), kept.double(), windows.pairs.double(), loss])
