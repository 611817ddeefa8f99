"""What the trainer's tests train: small vocabularies, corpora, tables with guards around them."""

from __future__ import annotations

import heapq
from typing import Any

import torch
from torch import Tensor

from seqkern.embedding import reference

from .train_emulation import Bags, Noise

WORDS = 30


def keep(words: int = WORDS, least: float = 0.5) -> Tensor:
    """Probabilities between `least` and 1; the rare half of the words is always kept."""
    return torch.linspace(least, 1.5, words).clamp(max=1)


def noise(words: int = WORDS) -> Noise:
    """Any thresholds and aliases make a distribution."""
    thresholds = torch.randint(-(2**31), 2**31, (words,), dtype=torch.int32)
    return Noise(thresholds, torch.randint(0, words, (words,), dtype=torch.int32))


def huffman(words: int = WORDS) -> reference.Paths:
    """The tree of Zipf's frequencies: paths of many lengths."""
    heap: list[tuple[float, int, tuple]] = [(1 / (w + 1), w, (w,)) for w in range(words)]
    heapq.heapify(heap)
    codes: list[list[tuple[int, int]]] = [[] for _ in range(words)]
    for node in range(words - 1):
        for code in (0, 1):
            count, order, leaves = heapq.heappop(heap)
            if code == 0:
                low = (count, leaves)
            for leaf in leaves:
                codes[leaf].insert(0, (node, code))
        heapq.heappush(heap, (low[0] + count, words + node, low[1] + leaves))
    offsets = torch.tensor([0] + [len(path) for path in codes]).cumsum(0)
    steps = [step for path in codes for step in path]
    return reference.Paths(
        offsets,
        torch.tensor([node for node, _ in steps], dtype=torch.int32),
        torch.tensor([code for _, code in steps], dtype=torch.uint8),
    )


def bags(words: int = WORDS, extra: int = 20) -> Bags:
    """Each word's own row and up to 6 of `extra` shared ones, some of them twice; the word 3 has
    none."""
    rows: list[int] = []
    offsets = [0]
    for word in range(words):
        if word != 3:
            rows.append(word)
            rows += (words + torch.randint(0, extra, (word % 7,))).tolist()
        offsets.append(len(rows))
    return Bags(torch.tensor(offsets), torch.tensor(rows, dtype=torch.int32))


def corpus(sentences: int = 6, words: int = WORDS, longest: int = 25) -> Tensor:
    """Sentences of 0 to `longest` words, the frequent ones often twice in a window; the last one
    without an end."""
    tokens: list[int] = []
    for _ in range(sentences):
        length = int(torch.randint(0, longest + 1, ()))
        # Squared, so that low ids are frequent.
        tokens += (torch.rand(length).square() * words).long().tolist() + [-1]
    return torch.tensor(tokens[:-1], dtype=torch.int32)


class Guarded:
    """A table (rows, dim) of random numbers in the midst of NaN: before, behind, between rows."""

    def __init__(self, rows: int, dim: int, stride: int, dtype: torch.dtype, size: float) -> None:
        self.memory = torch.full((rows * stride + 64,), float("nan"), dtype=dtype)
        self.rows = self.memory[32 : 32 + rows * stride].view(rows, stride)[:, :dim]
        self.rows.copy_(torch.randn(rows, dim) * size)

    def assert_intact(self) -> None:
        """Nothing but the rows has been written."""
        outside = self.memory.clone()
        outside[32:-32].view(self.rows.shape[0], -1)[:, : self.rows.shape[1]] = float("nan")
        assert outside.isnan().all(), "written outside the rows"


def objective(kind: str) -> dict[str, Any]:
    """The arguments of negative sampling ("ns") or hierarchical softmax ("hs")."""
    return {"noise": noise()} if kind == "ns" else {"paths": huffman()}
