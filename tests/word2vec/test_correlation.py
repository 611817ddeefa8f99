"""Pearson's and Spearman's correlation, against scipy where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqkern.word2vec.correlation import pearson, ranks, spearman

CASES = {
    "normal": (np.random.default_rng(0).standard_normal((2, 40))),
    "ties": np.random.default_rng(1).integers(0, 4, (2, 60)).astype(float),
    "three": np.array([[1.0, 2.0, 4.0], [3.0, 1.0, 7.0]]),
    "two": np.array([[1.0, 2.0], [3.0, 1.0]]),
    "strong": np.stack([np.arange(30.0), np.arange(30.0) + 3 * np.sin(np.arange(30.0))]),
    "huge": 1e200 * np.random.default_rng(2).standard_normal((2, 9)),
}


@pytest.mark.parametrize("name", CASES)
def test_as_scipy(name: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = CASES[name]
    scale = 1e-200 if name == "huge" else 1.0  # where scipy itself overflows
    for ours, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        mine, other = ours(first, second), theirs(first * scale, second * scale)
        assert mine.statistic == pytest.approx(other.statistic, rel=1e-12, abs=1e-12)
        if not math.isnan(other.pvalue):  # scipy's Spearman of two pairs
            assert mine.pvalue == pytest.approx(other.pvalue, rel=1e-6, abs=1e-300)
        assert tuple(mine) == (mine[0], mine[1]) == (mine.statistic, mine.pvalue)


def test_by_hand() -> None:
    assert pearson([1, 2, 3], [2, 4, 6]).statistic == pytest.approx(1)
    assert pearson([1, 2, 3], [3, 2, 1]).statistic == pytest.approx(-1)
    # r = 0.5, one degree of freedom: t = 1 / sqrt(3), whose distribution is Cauchy's
    correlation = pearson([1, 2, 3], [1, 3, 2])
    assert correlation.statistic == pytest.approx(0.5)
    assert correlation.pvalue == pytest.approx(1 - 2 / math.pi * math.atan(1 / math.sqrt(3)))
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]).statistic == pytest.approx(1)


def test_ranks_share_their_mean() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]


def test_a_constant_side_has_no_correlation() -> None:
    for correlation in (pearson, spearman):
        assert all(map(math.isnan, correlation([1, 1, 1], [1, 2, 3])))
    assert all(map(math.isnan, spearman([math.nan, 1, 2], [1, 2, 3])))


@pytest.mark.parametrize("second", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]]])
def test_lengths_must_fit(second: list) -> None:
    with pytest.raises(ValueError, match="two rows of equal length, at least 2"):
        pearson([1.0, 2.0] if len(second) != 1 or isinstance(second[0], list) else [1.0], second)
