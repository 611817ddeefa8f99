"""The arguments of skip-gram and CBOW in the form that the operators take: a list of examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqkern.embedding import checks
from seqkern.embedding.reference import Paths


@dataclass(frozen=True)
class Batch:
    """E examples; see `seqkern.embedding.reference.objective`."""

    inputs: Tensor
    """int64 (E, C)"""
    targets: Tensor
    """int64 (E,)"""
    negatives: Tensor | None
    """int64 (E, K)"""
    paths: Paths | None
    terms: int
    """Rows of the output table that an example reads at most: 1 + K, or the longest path."""
    mean: bool
    padding_idx: int
    """`checks.NO_PADDING` for none."""
    given: tuple[tuple[str, Tensor], tuple[str, Tensor], Tensor | None]
    """Inputs and targets by the caller's names and in his shapes, and negatives: for errors."""

    def check_ranges(self, in_weight: Tensor, out_weight: Tensor) -> None:
        """Raises IndexError for an index that is out of range, as the caller calls it."""
        of_inputs, of_targets, negatives = self.given
        padding = self.padding_idx
        checks.in_range(*of_inputs, in_weight.shape[0], padding, "the rows of in_weight")
        words, what = out_weight.shape[0], "the rows of out_weight"
        if self.paths is not None:
            words, what = self.paths.offsets.shape[0] - 1, "the words that paths lead to"
        checks.in_range(*of_targets, words, padding, what)
        if negatives is not None:
            checks.in_range("negatives", negatives, words, padding, what)

    def check_paths(self, out_weight: Tensor) -> None:
        """Raises RuntimeError if the paths do not fit together or into out_weight."""
        if self.paths is not None and not torch.compiler.is_compiling():
            checks.path_tensors(*self.paths, out_weight.shape[0])


def skipgram(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    context: Tensor,
    negatives: Tensor | None,
    paths: Any,
    padding_idx: int | None,
) -> Batch:
    """Each pair of a center word and a context word is an example: center (...), context (...) or
    (..., C), negatives (..., K) with the leading dimensions of one of them."""
    checks.tables(in_weight, out_weight)
    device = in_weight.device
    center = checks.indices("center", center, device)
    context = checks.indices("context", context, device)
    window = (*center.shape, -1)
    checks.same_shape(
        "context", context, (("of center", center.shape), ("(*center.shape, C)", window))
    )
    shape = context.shape
    wide = context.dim() > center.dim()
    given = (("center", center), ("context", context), negatives)
    if negatives is not None:
        negatives = checks.indices("negatives", negatives, device)
        shapes = [("(*context.shape, K)", (*shape, -1))]
        if wide:
            shapes.append(("(*center.shape, K)", (*center.shape, -1)))
        checks.same_shape("negatives", negatives, shapes)
        if negatives.dim() == context.dim():  # one set for each center
            negatives = negatives[..., None, :].expand(*shape, negatives.shape[-1])
        negatives = negatives.reshape(shape.numel(), negatives.shape[-1])
    if wide:
        center = center[..., None].expand(shape)
    return Batch(
        center.reshape(-1, 1),
        context.reshape(-1),
        negatives,
        *_terms(negatives, paths),
        True,
        checks.padding(padding_idx, in_weight.shape[0]),
        given,
    )


def cbow(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    context: Tensor,
    negatives: Tensor | None,
    paths: Any,
    mean: bool,
    padding_idx: int | None,
) -> Batch:
    """Each center word with its context words is an example: center (...), context (..., C),
    negatives (..., K)."""
    checks.tables(in_weight, out_weight)
    device = in_weight.device
    center = checks.indices("center", center, device)
    context = checks.indices("context", context, device)
    checks.same_shape("context", context, (("(*center.shape, C)", (*center.shape, -1)),))
    given = negatives
    if negatives is not None:
        negatives = checks.indices("negatives", negatives, device)
        checks.same_shape("negatives", negatives, (("(*center.shape, K)", (*center.shape, -1)),))
        negatives = negatives.reshape(center.numel(), negatives.shape[-1])
    return Batch(
        context.reshape(center.numel(), context.shape[-1]),
        center.reshape(-1),
        negatives,
        *_terms(negatives, paths),
        mean,
        checks.padding(padding_idx, in_weight.shape[0]),
        (("context", context), ("center", center), given),
    )


def _terms(negatives: Tensor | None, paths: Any) -> tuple[Paths | None, int]:
    if (negatives is None) == (paths is None):
        raise ValueError(
            "one of negatives (negative sampling) and paths (hierarchical softmax) must be given, "
            f"got {'neither' if paths is None else 'both'}"
        )
    if negatives is not None:
        return None, 1 + negatives.shape[-1]
    own = Paths(paths.offsets, paths.nodes, paths.codes)
    # A module keeps the number beside its paths: asking the tensors costs more than a small batch.
    depth = getattr(paths, "depth", None)
    return own, longest(own) if depth is None else depth


def longest(paths: Paths) -> int:
    """The nodes of the longest path."""
    if paths.offsets.shape[0] <= 1:
        return 0
    return int(torch.diff(paths.offsets).max())
