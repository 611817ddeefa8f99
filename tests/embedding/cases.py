"""What the tests of word vectors run, and the same in plain PyTorch, written independently of the
reference: `torch.nn.Embedding`, products, `logsigmoid`, and a loop over the words of a batch where
their numbers differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from seqkern.embedding.huffman import huffman_paths
from seqkern.embedding.reference import Paths
from seqkern.nn import functional as SF
from tests.parity import assert_all_parity

KERNEL_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    model: str = "skipgram"
    """skipgram or cbow"""
    words: int = 40
    features: int = 20
    examples: int = 30
    window: int = 4
    """C, the context words of CBOW"""
    negatives: int | None = 5
    """None: hierarchical softmax"""
    padding_idx: int | None = None
    mean: bool = True
    scale: float = 1.0

    def __str__(self) -> str:
        loss = "hs" if self.negatives is None else f"ns{self.negatives}"
        padding = "" if self.padding_idx is None else f"-pad{self.padding_idx}"
        window = f"x{self.window}{'' if self.mean else 'sum'}" if self.model == "cbow" else ""
        size = f"{self.words}x{self.features}-{self.examples}{window}"
        return f"{self.model}-{loss}-{size}{padding}-{self.scale:g}"


@dataclass
class Data:
    in_weight: Tensor
    out_weight: Tensor
    center: Tensor
    context: Tensor
    negatives: Tensor | None
    paths: Paths | None

    def tables(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return tuple(
            t.detach().to(dtype, copy=True).requires_grad_()
            for t in (self.in_weight, self.out_weight)
        )


def data(case: Case, dtype: torch.dtype = torch.float32) -> Data:
    """Some padding among the indices where the case has it; ids of 0 and V - 1 too."""
    words = case.words
    paths = huffman_paths(torch.rand(words) ** 3) if case.negatives is None else None
    rows = words if paths is None else words - 1
    window = () if case.model == "skipgram" else (case.window,)

    def ids(*shape: int) -> Tensor:
        found = torch.randint(words, shape)
        if case.padding_idx is not None:
            found[torch.rand(shape) < 0.3] = case.padding_idx
        return found

    return Data(
        (case.scale * torch.randn(words, case.features)).to(dtype),
        (case.scale * torch.randn(rows, case.features)).to(dtype),
        ids(case.examples),
        ids(case.examples, *window),
        None if case.negatives is None else ids(case.examples, case.negatives),
        paths,
    )


def loss(case: Case, d: Data, tables: tuple[Tensor, Tensor], **options: bool) -> Tensor:
    """By seqkern's function."""
    function: Callable[..., Tensor] = SF.skipgram_loss
    if case.model == "cbow":
        function = SF.cbow_loss
        options = {**options, "mean": case.mean}
    return function(
        *tables, d.center, d.context, d.negatives,
        paths=d.paths, padding_idx=case.padding_idx, **options,
    )  # fmt: skip


def plain(case: Case, d: Data, tables: tuple[Tensor, Tensor], sparse: bool = False) -> Tensor:
    """The mean loss in plain PyTorch, word by word, in the dtype of the tables."""
    v = F.embedding(torch.arange(case.words), tables[0], sparse=sparse)
    u = tables[1]
    losses = []
    for e in range(case.examples):
        inputs = d.center[e : e + 1] if case.model == "skipgram" else d.context[e]
        target = int(d.context[e] if case.model == "skipgram" else d.center[e])
        inputs = inputs[inputs != (-1 if case.padding_idx is None else case.padding_idx)]
        if len(inputs) == 0 or target == case.padding_idx:
            continue
        h = v[inputs].mean(0) if case.mean else v[inputs].sum(0)
        if d.paths is None:
            assert d.negatives is not None
            total = -F.logsigmoid(u[target] @ h)
            for k in d.negatives[e].tolist():
                if k != case.padding_idx:
                    total = total - F.logsigmoid(-(u[k] @ h))
        else:
            total = h.sum() * 0
            first, end = d.paths.offsets[target : target + 2].tolist()
            for node, code in zip(
                d.paths.nodes[first:end].tolist(), d.paths.codes[first:end].tolist(), strict=True
            ):
                total = total - F.logsigmoid((1 - 2 * code) * (u[node] @ h))
        losses.append(total)
    if not losses:
        return (v.sum() + u.sum()) * 0
    return torch.stack(losses).mean()


def gradients(value: Tensor, tables: tuple[Tensor, Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(value, tables)
    return [value, *(g.to_dense() for g in found)]


def check(case: Case, dtype: torch.dtype) -> None:
    """Loss and gradients, dense and sparse, by the rule of `tests.parity`."""
    d = data(case, dtype)
    exact, peer = d.tables(torch.float64), d.tables(dtype)
    in_float64 = gradients(plain(case, d, exact), exact)
    theirs = gradients(plain(case, d, peer), peer)
    if dtype.itemsize == 2:  # ours is computed, and returned, in float32
        theirs[0] = theirs[0].float()
    for sparse in (False, True):
        tables = d.tables(dtype)
        ours = gradients(loss(case, d, tables, sparse=sparse), tables)
        assert_all_parity(ours, theirs, in_float64, ("loss", "in_weight", "out_weight"))
