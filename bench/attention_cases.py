"""What is measured of attention itself: families, shapes, targets, and how to build each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as torch_attention

import seqkern
from seqkern.core.dtypes import dtype_name
from seqkern.nn.functional import scaled_dot_product_attention as seqkern_attention

from . import cases, settings
from .targets import Target

Attention = Callable[..., Tensor]
"""A function with the signature of `torch.nn.functional.scaled_dot_product_attention`."""


class Shape(NamedTuple):
    """Batch B, heads H, queries N and head size D; as many keys as queries and as many heads of
    keys as of queries, unless it says otherwise."""

    batch: int
    heads: int
    queries: int
    dim: int
    keys: int | None = None
    key_heads: int | None = None

    def __str__(self) -> str:
        name = "x".join(map(str, self[:4]))
        if self.keys is None and self.key_heads is None:
            return name
        return f"{name}-kv{self.kv_heads}x{self.kv_length}"

    @property
    def kv_length(self) -> int:
        return self.queries if self.keys is None else self.keys

    @property
    def kv_heads(self) -> int:
        return self.heads if self.key_heads is None else self.key_heads


SHAPES = (
    Shape(8, 8, 128, 64),
    Shape(2, 12, 512, 64),
    Shape(1, 12, 2048, 64),
    Shape(1, 8, 4096, 128),
)
# PyTorch holds whole score matrices here: fewer sequences where they are long.
SCORES_SHAPES = (
    Shape(8, 8, 128, 64),
    Shape(8, 8, 256, 64),
    Shape(4, 8, 512, 64),
    Shape(2, 8, 1024, 64),
)
DECODE_SHAPES = (Shape(1, 32, 1, 128, keys=4096, key_heads=8),)
ERROR_SHAPE = Shape(1, 8, 4096, 128)

# One length at a time, for the plots.
SWEEP = tuple(Shape(1, 4, 2**exponent, 64) for exponent in range(7, 14))
MEMORY_SWEEP = tuple(Shape(1, 1, 2**exponent, 64) for exponent in range(11, 15))
# Larger heads, at one length.
MEMORY_DIMS = tuple(Shape(1, 1, 2**14, dim) for dim in (128, 256))

if settings.QUICK:
    SHAPES, SCORES_SHAPES, SWEEP = SHAPES[:1], SCORES_SHAPES[:1], SWEEP[:2]
    MEMORY_SWEEP = (Shape(1, 1, 256, 64), Shape(1, 1, 512, 64))
    MEMORY_DIMS = (Shape(1, 1, 256, 128),)
    ERROR_SHAPE = Shape(1, 2, 256, 64)

PADDED = 0.25
"""Part of the keys that padding takes, at the end of every sequence."""


@dataclass(frozen=True)
class Family:
    """One row of the report: a kind of call, measured at several shapes."""

    kind: str
    """``dense``; ``causal``; ``padded``, with a boolean mask (B,1,1,M); ``dropout``; ``bias``, an
    additive mask (1,H,N,M) that is learned; ``decode``, a query against heads of a cache."""
    dtype: torch.dtype = torch.float32
    targets: dict[str, Target] = field(default_factory=dict, compare=False)
    """By mode; the modes that are measured."""

    @property
    def name(self) -> str:
        kind = {"dropout": f"dropout {self.dropout}", "bias": "learned bias"}
        dtype = dtype_name(self.dtype)
        return f"attention {dtype} {kind.get(self.kind, self.kind)}"

    @property
    def dropout(self) -> float:
        return 0.1 if self.kind == "dropout" else 0.0


def _targets(inference: Target, training: Target) -> dict[str, Target]:
    return {"inference": inference, "training": training}


_BF16 = torch.bfloat16
_DENSE = Target(1.05, worst=0.97)

FAMILIES = (
    Family("dense", targets=_targets(_DENSE, _DENSE)),
    Family("causal", targets=_targets(Target(1.5), Target(1.4))),
    Family("padded", targets=_targets(Target(1.4), Target(1.4))),
    Family("dense", _BF16, targets=_targets(Target(2), Target(2))),
    Family("causal", _BF16, targets=_targets(Target(2.5), Target(2.3))),
    Family("padded", _BF16, targets=_targets(Target(2.3), Target(2.2))),
)
SCORES_FAMILIES = (
    Family("dropout", targets={"training": Target(2)}),
    Family("bias", targets={"training": Target(1.3)}),
)
DECODE_FAMILIES = (
    Family("decode", targets={"inference": Target(5)}),
    Family("decode", _BF16, targets={"inference": Target(10)}),
)
SWEEP_FAMILIES = tuple(family for family in FAMILIES if family.kind in ("dense", "causal"))
MEMORY_FAMILIES = (
    Family("dense"),
    Family("causal"),
    Family("dense", _BF16),
    Family("dropout"),
)


@dataclass(frozen=True)
class Case(cases.Case):
    """One call at one shape; training computes the gradients of query, key, value and bias."""

    family: Family
    shape: Shape

    domain: ClassVar[str] = "attention"

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
    def flops(self) -> float:
        """Two products in the forward, of 2 N M D each, and five such in the backward.

        The backward multiplies QK' again, dO V', and for dQ, dK and dV: 2.5 times the forward.
        Counted are the pairs of query and key that the result depends on, and nothing else:
        (N + 1) / 2N of them when causal, three quarters with a quarter of padding. That is what a
        perfect kernel would compute, so one that computes excluded pairs reaches less of the peak.
        """
        batch, heads, queries, dim = self.shape[:4]
        pairs = float(queries * self.shape.kv_length)
        if self.family.kind == "causal":
            pairs = queries * (queries + 1) / 2
        elif self.family.kind == "padded":
            pairs = queries * kept_keys(self.shape.kv_length)
        forward = 4 * batch * heads * pairs * dim
        return forward * (3.5 if self.mode == "training" else 1)

    @property
    def bytes_read(self) -> int | None:
        """A decoding step reads the cached keys and values once; all else is small beside them."""
        if self.family.kind != "decode":
            return None
        elements = self.batch * self.shape.kv_heads * self.shape.kv_length * self.shape.dim
        return 2 * elements * self.dtype.itemsize

    @property
    def gradient_bytes(self) -> int:
        """Size of the gradients of query, key and value."""
        batch, heads, queries, dim = self.shape[:4]
        rows = heads * queries + 2 * self.shape.kv_heads * self.shape.kv_length
        return batch * rows * dim * self.dtype.itemsize

    def contestants(self) -> tuple[Contestant, Contestant]:
        return Contestant(self, seqkern_attention), Contestant(self, torch_attention)

    def precise(self, dtype: torch.dtype) -> Contestant:
        """PyTorch's contestant for the same (rounded) inputs, computing in another dtype."""
        return Contestant(self, torch_attention, dtype)

    def reference(self, theirs: cases.Contestant) -> Sequence[Tensor]:
        return [result.to(self.dtype) for result in self.precise(torch.float32)()]

    def stand_in(self) -> Contestant | None:
        """With dropout, our reference: PyTorch draws its random numbers in another order."""
        return Contestant(self, reference_attention) if self.family.dropout else None


def reference_attention(*tensors: Tensor, **options: Any) -> Tensor:
    """seqkern's reference attention, for comparison."""
    with seqkern.use_backend("reference"):
        return seqkern_attention(*tensors, **options)


class Contestant(cases.Contestant):
    """One function on one case.

    Args:
        case: what it computes.
        attention: the function.
        dtype: what it computes in, if not in the case's dtype, to which inputs are rounded anyway.
    """

    def __init__(self, case: Case, attention: Attention, dtype: torch.dtype | None = None) -> None:
        generator = torch.Generator().manual_seed(1)

        def draw(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator)
            return values.to(case.dtype).to(dtype or case.dtype)

        shape, family = case.shape, case.family
        query = draw(shape.batch, shape.heads, shape.queries, shape.dim)
        key = draw(shape.batch, shape.kv_heads, shape.kv_length, shape.dim)
        value = draw(shape.batch, shape.kv_heads, shape.kv_length, shape.dim)
        gradient = draw(*query.shape)
        self._attention = attention
        self._tensors = [query, key, value]
        self._options: dict[str, Any] = {}
        sources = self._tensors.copy()
        if family.kind == "causal":
            self._options["is_causal"] = True
        elif family.kind == "padded":
            self._options["attn_mask"] = take_part(shape.batch, shape.kv_length)[:, None, None]
        elif family.kind == "dropout":
            self._options["dropout_p"] = family.dropout
        elif family.kind == "bias":
            bias = draw(1, shape.heads, shape.queries, shape.kv_length)
            self._options["attn_mask"] = bias
            sources.append(bias)
        elif family.kind == "decode":
            self._options["enable_gqa"] = True
        elif family.kind != "dense":
            raise ValueError(f"family.kind is {family.kind!r}, which is no kind of call")
        for source in sources:
            source.requires_grad_(case.mode == "training")
        super().__init__(case.mode, sources, gradient)

    def forward(self) -> Tensor:
        return self._attention(*self._tensors, **self._options)

    def backend(self) -> str:
        with torch.set_grad_enabled(self.training):
            return seqkern.explain(self._attention, *self._tensors, **self._options).backend


def kept_keys(length: int) -> int:
    """How many keys of a sequence are no padding."""
    return length - round(length * PADDED)


def take_part(batch: int, length: int) -> Tensor:
    """(B, M) boolean: which keys are no padding."""
    return (torch.arange(length) < kept_keys(length)).repeat(batch, 1)


def grid(families: Sequence[Family], shapes: Sequence[Shape]) -> list[Case]:
    """Every case of the families, at every shape and thread count."""
    return [
        Case(mode, threads, family, shape)
        for family in families
        for mode in family.targets
        for shape in shapes
        for threads in settings.THREADS
    ]
