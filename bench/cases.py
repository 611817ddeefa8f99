"""What the cases of every domain have in common.

A `Case` is one measurement, a `Contestant` one of the two sides at work on it. `measuring.py`,
`memory.py` and the report use no more of a domain than what is here.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .targets import Target

SIDES = ("seqkern", "torch")
"""The contestants, in the order in which `Case.contestants` returns them."""

MODES = ("inference", "training")


class Contestant(abc.ABC):
    """One side of one case. Calling it does the work that is timed.

    Args:
        mode: ``inference``, without gradients; or ``training``, a forward and a backward.
        sources: what a training step computes the gradients of; leaves that require them.
        gradient: the gradient that the output gets.
    """

    def __init__(self, mode: str, sources: Sequence[Tensor], gradient: Tensor) -> None:
        self.training = mode == "training"
        self.sources = list(sources) if self.training else []
        self._gradient = gradient

    def __call__(self) -> Sequence[Tensor]:
        """The output and, in training, the gradient of each source."""
        if not self.training:
            with torch.no_grad():
                return [self.forward()]
        self.forget()
        output = self.forward()
        output.backward(self._gradient)
        return [output, *(source.grad for source in self.sources)]  # type: ignore[list-item]

    def forget(self) -> None:
        """Drops the gradients of the last call."""
        for source in self.sources:
            source.grad = None

    @abc.abstractmethod
    def forward(self) -> Tensor:
        """Compute the output."""

    @abc.abstractmethod
    def backend(self) -> str:
        """The backend on which seqkern runs this; only for seqkern's side."""


@dataclass(frozen=True)
class Case(abc.ABC):
    """One measurement. Cases can be pickled, which is how they reach a process of their own."""

    mode: str
    """One of `MODES`."""
    threads: int

    domain: ClassVar[str]
    """The domain of the package: ``recurrent``, ``attention``."""

    def __str__(self) -> str:
        name = self.row.replace(" ", "-")
        return f"{name}-{self.mode}-{self.size}-{self.threads}threads"

    @property
    @abc.abstractmethod
    def row(self) -> str:
        """The row of the report to which the case belongs."""

    @property
    @abc.abstractmethod
    def size(self) -> str:
        """The shape, without spaces: the column of the report."""

    @property
    @abc.abstractmethod
    def batch(self) -> int:
        """The number of sequences."""

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of inputs and weights."""

    @property
    @abc.abstractmethod
    def target(self) -> Target | None:
        """What the row is meant to reach in this mode."""

    @property
    @abc.abstractmethod
    def flops(self) -> float:
        """Floating point operations of the matrix products that the result really needs."""

    @property
    def bytes_read(self) -> int | None:
        """Bytes that have to be read, where reading them and not arithmetic sets the limit."""
        return None

    @abc.abstractmethod
    def contestants(self) -> tuple[Contestant, Contestant]:
        """Ours and PyTorch's, with the same weights and inputs."""

    @abc.abstractmethod
    def reference(self, theirs: Contestant) -> Sequence[Tensor]:
        """What PyTorch's contestant computes, in float32 and then rounded to `dtype`."""

    def stand_in(self) -> Callable[[], Sequence[Tensor]] | None:
        """What our results are compared with where PyTorch's random numbers differ; or None."""
        return None


def choose_side(case: Case, side: str) -> Contestant:
    """The contestant of a side, one of `SIDES`; the other one is dropped."""
    return case.contestants()[SIDES.index(side)]


@contextlib.contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Run with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
