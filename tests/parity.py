"""What "the same numbers" means: one rule for every operator, dtype and backend.

Results are compared with the reference in float64. A result may be twice as far from it as
PyTorch's own operator of the same dtype is, plus a small atol for the cases in which PyTorch
happens to be exact.
Distances are relative, in the Euclidean norm of a whole tensor. NaN is never the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

TINY = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float16: 6e-3}


def relative_error(actual: Tensor, reference: Tensor) -> float:
    """|actual - reference| / |reference|, or |actual| where that is zero; NaN if there is one."""
    reference = reference.detach().double()
    distance = torch.linalg.vector_norm(actual.detach().double() - reference)
    size = torch.linalg.vector_norm(reference)
    return float(distance / size if size > 0 else distance)


def assert_parity(
    ours: Tensor,
    theirs: Tensor,
    reference: Tensor,
    what: str = "result",
    tiny: float | None = None,
) -> None:
    """Fails unless `ours` has the shape and dtype of `theirs` and is as near to `reference`.

    `tiny` is that of the result's dtype, unless the computation used a lower one.
    """
    assert ours.dtype == theirs.dtype, f"{what}: dtype {ours.dtype}, PyTorch's {theirs.dtype}"
    assert ours.shape == theirs.shape, f"{what}: {list(ours.shape)}, PyTorch {list(theirs.shape)}"
    if ours.numel() == 0:
        return
    error = relative_error(ours, reference)
    allowed = 2 * relative_error(theirs, reference) + (TINY[ours.dtype] if tiny is None else tiny)
    # Written so that a NaN on either side fails.
    assert error <= allowed, f"{what} ({ours.dtype}): error {error:.3g}, allowed {allowed:.3g}"


def assert_all_parity(
    ours: Sequence[Tensor],
    theirs: Iterable[Tensor],
    reference: Iterable[Tensor],
    names: Iterable[str],
    tiny: Iterable[float | None] | None = None,
) -> None:
    """`assert_parity` for lists of results of the same length."""
    each = [None] * len(ours) if tiny is None else tiny
    for mine, other, exact, name, atol in zip(ours, theirs, reference, names, each, strict=True):
        assert_parity(mine, other, exact, name, atol)
