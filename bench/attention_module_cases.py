"""What is measured of the modules around attention."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import seqkern
from seqkern.core.dtypes import dtype_name

from . import cases, settings
from .attention_cases import kept_keys, take_part
from .targets import Target

FEEDFORWARD = 2048
"""Hidden size of PyTorch's Transformer layers, by default."""


class Shape(NamedTuple):
    """Batch B, sequence length N, model size E, heads."""

    batch: int
    length: int
    width: int
    heads: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}x{self.width}-{self.heads}heads"


@dataclass(frozen=True)
class Family:
    """One row of the report: a module in one mode, at one shape."""

    kind: str
    """The class in ``torch.nn`` and ``seqkern.nn``; a MultiheadAttention attends to itself, a
    TransformerDecoderLayer to a memory as long as its own sequence, too."""
    shape: Shape
    mode: str
    target: Target | None = None
    dtype: torch.dtype = field(default=torch.float32, kw_only=True)
    padded: bool = field(default=True, kw_only=True)
    """Of a MultiheadAttention: the last quarter of the keys is padding."""
    weights: bool = field(default=False, kw_only=True)
    """Of a MultiheadAttention: it returns the weights, too, as it does by default."""
    dropout: float = field(default=0.1, kw_only=True)
    """Of a Transformer layer, which applies it in training."""
    feedforward: int = field(default=FEEDFORWARD, kw_only=True)
    """Hidden size of a Transformer layer's feed-forward block."""

    @property
    def name(self) -> str:
        if self.kind == "MultiheadAttention":
            parts = ["padded" * self.padded, "weights" * self.weights]
            how = " ".join(filter(None, parts)) or "dense"
        else:
            how = f"dropout {self.dropout:g}"
        return f"{self.kind} {dtype_name(self.dtype)} {how}"


_MHA = ("MultiheadAttention", Shape(1, 128 if settings.QUICK else 2048, 768, 12), "inference")
_LAYER = ("TransformerEncoderLayer", Shape(4, 64 if settings.QUICK else 512, 512, 8), "training")

FAMILIES = (
    Family(*_MHA, Target(2.5)),
    Family(*_MHA, Target(2.5), dtype=torch.bfloat16),
    Family(*_LAYER, Target(1.1)),
)


@dataclass(frozen=True)
class Case(cases.Case):
    """One module; training computes the gradients of the input and of every parameter."""

    family: Family

    domain: ClassVar[str] = "attention"

    @property
    def row(self) -> str:
        return self.family.name

    @property
    def size(self) -> str:
        return str(self.family.shape)

    @property
    def batch(self) -> int:
        return self.family.shape.batch

    @property
    def dtype(self) -> torch.dtype:
        return self.family.dtype

    @property
    def target(self) -> Target | None:
        return self.family.target

    @property
    def flops(self) -> float:
        """The attention as in `attention_cases` and the linear layers, whose backward has twice
        the products of their forward. Padded keys need no projection of key and value."""
        batch, length, width, _ = self.family.shape
        alone = self.family.kind == "MultiheadAttention"
        keys = kept_keys(length) if alone and self.family.padded else length
        attention = 4 * batch * length * keys * width
        linear = 2 * batch * width**2 * (2 * length + 2 * keys)
        if self.family.kind == "TransformerDecoderLayer":
            attention, linear = 2 * attention, 2 * linear
        if not alone:
            linear += 4 * batch * length * width * self.family.feedforward
        return attention * 3.5 + linear * 3 if self.mode == "training" else attention + linear

    def contestants(self) -> tuple[Contestant, Contestant]:
        torch.manual_seed(0)
        _, _, width, heads = self.family.shape
        options: dict[str, Any] = {"batch_first": True, "dtype": self.dtype}
        if self.family.kind != "MultiheadAttention":
            options |= {"dropout": self.family.dropout, "dim_feedforward": self.family.feedforward}
        theirs = getattr(torch.nn, self.family.kind)(width, heads, **options)
        theirs.train(self.mode == "training")
        ours = copy.deepcopy(theirs)
        seqkern.swap(ours)
        return Contestant(self, ours), Contestant(self, theirs)

    def reference(self, theirs: cases.Contestant) -> Sequence[Tensor]:
        assert isinstance(theirs, Contestant)
        precise = Contestant(self, copy.deepcopy(theirs.module).float())
        return [result.to(self.dtype) for result in precise()]

    def stand_in(self) -> Contestant | None:
        """With dropout, the same module on our reference, seeded alike."""
        alone = self.family.kind == "MultiheadAttention"
        if alone or self.mode != "training" or not self.family.dropout:
            return None
        ours, _ = self.contestants()
        return OnReference(self, ours.module)


class Contestant(cases.Contestant):
    """One module on one case, computing in the dtype of its parameters."""

    def __init__(self, case: Case, module: torch.nn.Module) -> None:
        self.module = module
        batch, length, width, _ = case.family.shape
        generator = torch.Generator().manual_seed(1)
        dtype = next(module.parameters()).dtype
        values, gradient = (
            torch.randn(batch, length, width, generator=generator).to(case.dtype).to(dtype)
            for _ in range(2)
        )
        self._arguments: tuple[Tensor, ...] = (values.requires_grad_(case.mode == "training"),)
        self._options: dict[str, Any] = {}
        if case.family.kind == "MultiheadAttention":
            self._arguments *= 3
            self._options = {"need_weights": case.family.weights}
            if case.family.padded:
                self._options["key_padding_mask"] = ~take_part(batch, length)
        elif case.family.kind == "TransformerDecoderLayer":
            self._arguments *= 2  # the memory is the sequence itself
        super().__init__(case.mode, [values, *module.parameters()], gradient)

    def forward(self) -> Tensor:
        result = self.module(*self._arguments, **self._options)
        return result[0] if isinstance(result, tuple) else result

    def backend(self) -> str:
        with torch.set_grad_enabled(self.training):
            return seqkern.explain(self.module, *self._arguments, **self._options).backend


class OnReference(Contestant):
    """The same on seqkern's reference."""

    def forward(self) -> Tensor:
        with seqkern.use_backend("reference"):
            return super().forward()


def grid(families: Sequence[Family] = FAMILIES) -> list[Case]:
    """Every family at every thread count."""
    return [
        Case(family.mode, threads, family) for family in families for threads in settings.THREADS
    ]
