"""Whether two loss curves are the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Two trainings that differ in rounding diverge, slowly at first and then chaotically. So the losses
# must agree closely, step by step, in the first steps, and on average throughout.
YOUNG = 100  # steps
YOUNG_TOLERANCE = 1e-3
AVERAGE_TOLERANCE = 2e-2


@dataclass(frozen=True)
class Agreement:
    """How far two loss curves are from each other, relative to the first."""

    young: float
    """Largest difference of a single step among the first :data:`YOUNG`."""
    average: float
    """Largest difference of the averages over each tenth of the steps."""

    @classmethod
    def of(cls, first: list[float], second: list[float]) -> Agreement:
        """Compare two curves of the same length, at least one step long."""
        one, other = torch.tensor(first), torch.tensor(second)
        young = ((one - other).abs() / one)[:YOUNG].max().item()
        tenths = zip(one.chunk(10), other.chunk(10), strict=True)
        # torch.tensor(...).max() hands on a NaN, which Python's max may lose
        averages = [((a.mean() - b.mean()).abs() / a.mean()).item() for a, b in tenths]
        return cls(young, torch.tensor(averages).max().item())

    @property
    def holds(self) -> bool:
        """Whether the curves agree. A NaN never does."""
        return self.young <= YOUNG_TOLERANCE and self.average <= AVERAGE_TOLERANCE

    def __str__(self) -> str:
        return (
            f"{'agree' if self.holds else 'DISAGREE'}: "
            f"each of the first {YOUNG} steps within {self.young:.1e} "
            f"(allowed {YOUNG_TOLERANCE:.0e}), the average of every tenth of the run "
            f"within {self.average:.1e} (allowed {AVERAGE_TOLERANCE:.0e})"
        )
