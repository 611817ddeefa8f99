"""What a benchmark is meant to reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Least ratios of the peer's time to ours for one row of the report."""

    mean: float
    """Geometric mean over all shapes."""
    one: float | None = None
    """Geometric mean over the shapes with batch size 1."""
    worst: float | None = None
    """Every single shape."""
