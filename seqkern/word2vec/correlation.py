"""Pearson's and Spearman's correlation with their p-values.

The p-value is the probability that uncorrelated normal data correlate at least as strongly, in
either direction: with n pairs, t = r sqrt((n - 2) / (1 - r^2)) has Student's t distribution with
n - 2 degrees of freedom, so p = I(1 - r^2; (n - 2) / 2, 1 / 2), the regularised incomplete beta
function. mpmath, which comes with torch (through sympy), computes it; scipy is not needed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Correlation(NamedTuple):
    """A coefficient from -1 to 1 and its two-sided p-value; NaN where one side is constant."""

    statistic: float
    pvalue: float


def pearson(first: ArrayLike, second: ArrayLike) -> Correlation:
    """Correlation of the values.

    Args:
        first: n numbers, n at least 2.
        second: as many.

    Raises:
        ValueError: the lengths differ or are below 2.
    """
    x, y = _pair(first, second)
    x, y = _direction(x), _direction(y)
    coefficient = float(np.clip(x @ y, -1.0, 1.0))
    return Correlation(coefficient, _p_value(coefficient, len(x)))


def spearman(first: ArrayLike, second: ArrayLike) -> Correlation:
    """Correlation of the ranks, equal values sharing the mean of their ranks.

    Arguments and errors are those of :func:`pearson`. A NaN among the values makes the result NaN.
    """
    x, y = _pair(first, second)
    if np.isnan(x).any() or np.isnan(y).any():
        return Correlation(math.nan, math.nan)
    return pearson(ranks(x), ranks(y))


def ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value among the sorted ones, from 1; equal values share their mean."""
    _, kind, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[kind.reshape(-1)]


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(
            "a correlation needs two rows of equal length, at least 2, got shapes "
            f"{x.shape} and {y.shape}"
        )
    return x, y


def _direction(values: np.ndarray) -> np.ndarray:
    """The deviations from the mean as a vector of length 1; NaN where there are none."""
    with np.errstate(invalid="ignore"):
        deviations = values - values.mean()
        deviations = deviations / np.abs(deviations).max()  # squares neither overflow nor vanish
        return deviations / math.sqrt(deviations @ deviations)


def _p_value(coefficient: float, pairs: int) -> float:
    if math.isnan(coefficient):
        return math.nan
    if pairs == 2:
        return 1.0  # two points always lie on a line
    import mpmath  # type: ignore[import-untyped]

    # (1 - r)(1 + r) keeps the digits that 1 - r^2 loses where r is close to 1
    rest = (1 - abs(coefficient)) * (1 + abs(coefficient))
    return float(mpmath.betainc((pairs - 2) / 2, 0.5, 0, rest, regularized=True))
