"""What is measured of the recurrent layers: families, shapes, targets, and how to build each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import seqkern
from seqkern.core.dtypes import dtype_name

from . import cases, settings
from .targets import Target

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


class Shape(NamedTuple):
    """Time steps, batch, input size, hidden size."""

    time: int
    batch: int
    inputs: int
    hidden: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


SHAPES = (
    Shape(64, 1, 256, 256),
    Shape(128, 1, 128, 128),
    Shape(128, 16, 128, 128),
    Shape(128, 16, 256, 256),
    Shape(128, 32, 512, 512),
    Shape(50, 32, 300, 1024),
    Shape(256, 8, 768, 768),
)
CELL_SHAPES = tuple(Shape(1, batch, size, size) for batch in (1, 16) for size in (64, 256))

# One dimension of a middling shape at a time, for the plots.
SWEEPS = {
    "time": tuple(Shape(time, 16, 256, 256) for time in (16, 64, 256, 1024)),
    "batch": tuple(Shape(128, batch, 256, 256) for batch in (1, 4, 16, 64)),
    "hidden": tuple(Shape(128, 16, size, size) for size in (64, 128, 256, 512, 1024)),
}


@dataclass(frozen=True)
class Family:
    """One row of the report: a kind of layer, measured at every shape."""

    kind: str
    """The class in ``torch.nn`` and ``seqkern.nn``."""
    dtype: torch.dtype = torch.float32
    layout: str = "dense"
    """``dense``; or a PackedSequence: ``ragged`` with lengths uniform in [T/4, T], or ``shorter``
    with one sequence one step shorter than the others."""
    layers: int = 1
    bidirectional: bool = False
    projection: bool = False
    """Project the hidden state to half its size."""
    targets: dict[str, Target] = field(default_factory=dict, compare=False)
    """By mode, ``inference`` or ``training``."""

    @property
    def name(self) -> str:
        extras = [
            "2 layers bidirectional" if self.bidirectional else "",
            "projection" if self.projection else "",
        ]
        dtype = dtype_name(self.dtype)
        return " ".join(filter(None, [self.kind, dtype, self.layout, *extras]))

    @property
    def is_cell(self) -> bool:
        return self.kind.endswith("Cell")


def _targets(inference: Target, training: Target) -> dict[str, Target]:
    return {"inference": inference, "training": training}


_GRU = _targets(Target(1.8, one=4), Target(2, one=6))
_RNN = _targets(Target(2), Target(2.5))
_CELL = _targets(Target(2), Target(2))
_BF16 = torch.bfloat16

FAMILIES = (
    Family("LSTM", targets=_targets(Target(1.2, one=2), Target(1.2, worst=0.95))),
    Family("LSTM", _BF16, targets=_targets(Target(1.1), Target(1.4, worst=0.95))),
    Family("LSTM", layout="ragged", targets=_targets(Target(1.5), Target(2))),
    Family("LSTM", layout="shorter", targets=_targets(Target(1.1), Target(1.5))),
    Family("LSTM", _BF16, "ragged"),
    Family("LSTM", _BF16, "shorter"),
    Family("LSTM", layers=2, bidirectional=True, targets=_targets(Target(1.1), Target(1.15))),
    Family("LSTM", projection=True, targets=_targets(Target(1.3), Target(1.5))),
    Family("GRU", targets=_GRU),
    Family("GRU", _BF16),
    Family("GRU", layout="ragged"),
    Family("GRU", layout="shorter"),
    Family("GRU", _BF16, "ragged"),
    Family("GRU", _BF16, "shorter"),
    Family("RNN", targets=_RNN),
    Family("RNN", _BF16),
    Family("RNN", layout="ragged"),
    Family("RNN", layout="shorter"),
    Family("RNN", _BF16, "ragged"),
    Family("RNN", _BF16, "shorter"),
)
CELL_FAMILIES = (
    Family("LSTMCell", targets=_CELL),
    Family("GRUCell", targets=_CELL),
    Family("RNNCell"),
)


@dataclass(frozen=True)
class Case(cases.Case):
    """One layer or cell at one shape; training includes the input's gradient."""

    family: Family
    shape: Shape

    domain: ClassVar[str] = "recurrent"

    @property
    def row(self) -> str:
        return self.family.name

    @property
    def size(self) -> str:
        return str(self.shape)

    @property
    def batch(self) -> int:
        return self.shape.batch

    @property
    def dtype(self) -> torch.dtype:
        return self.family.dtype

    @property
    def target(self) -> Target | None:
        return self.family.targets.get(self.mode)

    @property
    def lengths(self) -> list[int]:
        """Length of each sequence, longest first; the same in every run."""
        time, batch = self.shape.time, self.shape.batch
        if self.family.layout == "ragged":
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randint(time // 4, time + 1, (batch,), generator=generator)
            return sorted(drawn.tolist(), reverse=True)
        return [time] * (batch - 1) + [time - (self.family.layout == "shorter")]

    @property
    def flops(self) -> int:
        """Floating point operations of the matrix products; a backward has twice the forward's."""
        family = self.family
        hidden = self.shape.hidden
        state = hidden // 2 if family.projection else hidden
        directions = 2 if family.bidirectional else 1
        total = 0
        for layer in range(family.layers):
            inputs = self.shape.inputs if layer == 0 else directions * state
            gates = GATES[family.kind.removesuffix("Cell")] * hidden * (inputs + state)
            projection = hidden * state if family.projection else 0
            total += 2 * (gates + projection) * directions * sum(self.lengths)
        return total * (3 if self.mode == "training" else 1)

    def contestants(self) -> tuple[Contestant, Contestant]:
        torch.manual_seed(0)
        family = self.family
        options: dict[str, Any] = {"dtype": family.dtype}
        if not family.is_cell:
            options |= {"num_layers": family.layers, "bidirectional": family.bidirectional}
        if family.projection:
            options["proj_size"] = self.shape.hidden // 2
        theirs = getattr(torch.nn, family.kind)(self.shape.inputs, self.shape.hidden, **options)
        ours = copy.deepcopy(theirs)
        seqkern.swap(ours)
        return Contestant(self, ours), Contestant(self, theirs)

    def reference(self, theirs: cases.Contestant) -> Sequence[Tensor]:
        """From the same weights and the unrounded input."""
        assert isinstance(theirs, Contestant)
        precise = replace(self, family=replace(self.family, dtype=torch.float32))
        module = copy.deepcopy(theirs.module).float()
        return [result.to(self.dtype) for result in Contestant(precise, module)()]


class Contestant(cases.Contestant):
    """One module on one case."""

    def __init__(self, case: Case, module: torch.nn.Module) -> None:
        self.module = module
        self._dense = case.family.is_cell or case.family.layout == "dense"
        generator = torch.Generator().manual_seed(1)
        time, batch, inputs, _ = case.shape
        shape = (batch, inputs) if case.family.is_cell else (time, batch, inputs)
        values = torch.randn(shape, generator=generator).to(case.dtype)
        if self._dense:
            self.input: Tensor | PackedSequence = values
        else:
            self.input = pack_padded_sequence(values, torch.tensor(case.lengths))
        leaf = self.input if isinstance(self.input, Tensor) else self.input.data
        leaf.requires_grad_(case.mode == "training")
        with torch.no_grad():
            example = self.forward()
        gradient = torch.randn(example.shape, generator=generator).to(example.dtype)
        super().__init__(case.mode, [leaf, *module.parameters()], gradient)

    def forward(self) -> Tensor:
        result = self.module(self.input)
        output = result[0] if isinstance(result, tuple) else result
        return output if self._dense else output.data

    def backend(self) -> str:
        with torch.set_grad_enabled(self.training):
            return seqkern.explain(self.module, self.input).backend


def grid(families: Sequence[Family], shapes: Sequence[Shape]) -> list[Case]:
    """Every case of the families, at every shape and thread count."""
    return [
        Case(mode, threads, family, shape)
        for family in families
        for mode in cases.MODES
        for shape in shapes
        for threads in settings.THREADS
        if not (settings.QUICK and shape.hidden > 128)
        # a single sequence is never ragged
        if not (shape.batch == 1 and family.layout != "dense")
    ]
