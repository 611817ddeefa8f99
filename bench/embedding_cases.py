"""What is measured of word vectors: families, shapes, targets, and how to build each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import seqkern

from . import cases, settings
from .targets import Target


class Shape(NamedTuple):
    """Words V, features d, pairs of a batch B, negatives K."""

    words: int
    features: int
    pairs: int
    negatives: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


SHAPES: tuple[Shape, ...] = (Shape(100_000, 100, 8192, 5), Shape(100_000, 300, 8192, 5))
if settings.QUICK:
    SHAPES = (Shape(1000, 20, 64, 5),)


@dataclass(frozen=True)
class Family:
    """One row of the report: a way to take a training step, measured at several shapes."""

    optimizer: str
    """``SparseAdam``: forward, backward and the optimizer's step, where ours is
    `seqkern.optim.SparseAdam`; ``torch SparseAdam``: the same with PyTorch's optimizer on both
    sides; ``none``: forward and backward; ``SGD``: `update_` against PyTorch's SGD step."""
    words: str = "uniform"
    """How often a word occurs: ``uniform``, or ``zipf`` (proportional to 1 / rank)."""
    targets: Target | None = None

    @property
    def name(self) -> str:
        kind = {"none": "forward + backward", "SGD": "SGD step (update_)"}
        return f"skip-gram {kind.get(self.optimizer, self.optimizer + ' step')} {self.words}"


FAMILIES = (
    Family("SparseAdam", targets=Target(4)),
    Family("SparseAdam", "zipf", Target(4)),
    Family("torch SparseAdam"),
    Family("none"),
    Family("SGD"),
    Family("SGD", "zipf"),
)

LEARNING_RATE = 1e-3


class Contestant(cases.Contestant):
    """A step of training; the results are the loss and, of an optimizer's step, the tables."""

    def __init__(self, module: torch.nn.Module, loss: Callable[[], Tensor], optimizer: str) -> None:
        super().__init__("training", list(module.parameters()), torch.ones(()))
        self.module, self.forward_, self.kind = module, loss, optimizer
        classes = {
            "SparseAdam": seqkern.optim.SparseAdam
            if isinstance(module, seqkern.nn.SkipGram)
            else torch.optim.SparseAdam,
            "torch SparseAdam": torch.optim.SparseAdam,
            "SGD": torch.optim.SGD,
        }
        made = classes.get(optimizer)
        self.optimizer = made(self.sources, lr=LEARNING_RATE) if made else None

    def __call__(self) -> Sequence[Tensor]:
        self.forget()
        loss = self.forward()
        loss.backward()
        if self.optimizer is None:
            return [loss.detach(), *(source.grad for source in self.sources)]  # type: ignore[list-item]
        self.optimizer.step()
        return [loss.detach(), *(source.detach() for source in self.sources)]

    def forward(self) -> Tensor:
        return self.forward_()

    def backend(self) -> str:
        return seqkern.explain(self.module).backend


class Update(Contestant):
    """`update_`, on the mean loss, as PyTorch's SGD steps."""

    def __init__(self, module: seqkern.nn.SkipGram, batch: Sequence[Tensor]) -> None:
        super().__init__(module, lambda: module(*batch), "none")
        self.step = lambda: module.update_(*batch, lr=LEARNING_RATE / len(batch[0]))

    def __call__(self) -> Sequence[Tensor]:
        return [self.step(), *(source.detach() for source in self.sources)]


class Plain(torch.nn.Module):
    """The loss as PyTorch's users write it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.in_embed = torch.nn.Embedding(shape.words, shape.features, sparse=True)
        self.out_embed = torch.nn.Embedding(shape.words, shape.features, sparse=True)

    def forward(self, center: Tensor, context: Tensor, negatives: Tensor) -> Tensor:
        v = self.in_embed(center)[:, :, None]
        right = torch.bmm(self.out_embed(context)[:, None], v)[:, 0, 0]
        wrong = torch.bmm(self.out_embed(negatives), v)[:, :, 0]
        return -(F.logsigmoid(right) + F.logsigmoid(-wrong).sum(1)).mean()


@dataclass(frozen=True)
class Case(cases.Case):
    """One family at one shape."""

    family: Family
    shape: Shape

    domain: ClassVar[str] = "embedding"

    @property
    def row(self) -> str:
        return self.family.name

    @property
    def size(self) -> str:
        return str(self.shape)

    @property
    def batch(self) -> int:
        return self.shape.pairs

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def target(self) -> Target | None:
        return self.family.targets

    @property
    def flops(self) -> float:
        """Scores, and the gradients of both sides of each."""
        _, features, pairs, negatives = self.shape
        return 6.0 * pairs * (1 + negatives) * features

    @property
    def bytes_read(self) -> int:
        """Each row that the batch names, once, with its gradient; of Adam's step its averages too,
        and what is written is counted as what is read."""
        center, context, negatives = self.indices()
        rows = len(center.unique()) + len(torch.cat([context, negatives.flatten()]).unique())
        tables = {"none": 2, "SGD": 2}.get(self.family.optimizer, 8)
        return rows * self.shape.features * 4 * tables

    def indices(self) -> tuple[Tensor, Tensor, Tensor]:
        """center (B,), context (B,), negatives (B, K)."""
        words, _, pairs, negatives = self.shape
        generator = torch.Generator().manual_seed(0)
        shape = (pairs, 2 + negatives)
        if self.family.words == "uniform":
            drawn = torch.randint(words, shape, generator=generator)
        else:
            weights = 1 / torch.arange(1, words + 1, dtype=torch.float64)
            drawn = torch.multinomial(weights, pairs * shape[1], True, generator=generator)
            drawn = drawn.view(shape)
        return drawn[:, 0].contiguous(), drawn[:, 1].contiguous(), drawn[:, 2:].contiguous()

    def contestants(self) -> tuple[Contestant, Contestant]:
        batch = self.indices()
        torch.manual_seed(1)
        plain = Plain(self.shape)
        ours = seqkern.nn.SkipGram(self.shape.words, self.shape.features, sparse=True)
        ours.load_state_dict(plain.state_dict())
        theirs = Contestant(plain, lambda: plain(*batch), self.family.optimizer)
        if self.family.optimizer == "SGD":
            return Update(ours, batch), theirs
        return Contestant(ours, lambda: ours(*batch), self.family.optimizer), theirs

    def reference(self, theirs: cases.Contestant) -> Sequence[Tensor]:
        """PyTorch's side once more, from the start, in float64."""
        other = self.contestants()[1]
        other.module.double()
        return [result.float() for result in other()]


def grid() -> list[Case]:
    """All cases, the families of a shape beside each other."""
    return [
        Case("training", threads, family, shape)
        for shape in SHAPES
        for family in FAMILIES
        for threads in settings.THREADS
    ]
