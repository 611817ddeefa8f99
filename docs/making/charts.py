"""Charts from the records in ``bench/results``, as SVG: horizontal bars on a logarithmic axis.

Written by hand and not by a plotting library, so that the same records give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from statistics import geometric_mean
from typing import NamedTuple

from docs.making.results import MACHINES, runs
from docs.making.tables import ratios, word_rates

_COLORS = ("#4c78a8", "#f58518", "#9ecae9", "#ffbf79")
_BAR, _GAP = 13, 12  # heights: of a bar, between two groups
_LETTER = 7.3  # its width, roughly
_WIDTH, _RIGHT = 430, 60  # of the axis; what is right of it
_TEXT = 'font-family="sans-serif" font-size="13" fill="#222"'


class Bar(NamedTuple):
    """One bar, and where the shapes it stands for begin and end; None where there is only one."""

    series: int
    value: float
    span: tuple[float, float] | None = None


class Group(NamedTuple):
    label: str
    bars: list[Bar]


def bars(
    title: str, series: Sequence[str], groups: Sequence[Group], ticks: Sequence[float], start: float
) -> str:
    """The chart.

    Args:
        title: what the axis shows.
        series: names of the colours.
        groups: from top to bottom.
        ticks: of the axis, which reaches from the first to the last of them.
        start: where bars begin.
    """
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    left = 20 + _LETTER * max(len(group.label) for group in groups)

    def x(value: float) -> float:
        return left + _WIDTH * (math.log(value) - low) / (high - low)

    parts, y = [], 64.0
    for group in groups:
        height = _BAR * len(group.bars)
        middle = y + height / 2 + 4.5
        parts.append(f'<text x="{left - 10:.1f}" y="{middle:.1f}" text-anchor="end" {_TEXT}>'
                     f"{escape(group.label)}</text>")  # fmt: skip
        for bar in group.bars:
            parts += _bar(bar, x, start, y)
            y += _BAR
        y += _GAP
    bottom = y - _GAP / 2
    grid = []
    for tick in ticks:
        strong = tick == start
        grid.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="54" y2="{bottom:.1f}" '
            f'stroke="{"#222" if strong else "#ddd"}"/>'
            f'<text x="{x(tick):.1f}" y="{bottom + 17:.1f}" text-anchor="middle" {_TEXT}>'
            f"{tick:g}</text>"
        )
    legend, at = [], 12.0
    for color, name in zip(_COLORS, series, strict=False):
        legend.append(f'<rect x="{at:.0f}" y="32" width="12" height="12" fill="{color}"/>'
                      f'<text x="{at + 18:.0f}" y="43" {_TEXT}>{escape(name)}</text>')  # fmt: skip
        at += 44 + _LETTER * len(name)
    total = f"{left + _WIDTH + _RIGHT:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{bottom + 28:.0f}" '
        f'viewBox="0 0 {total} {bottom + 28:.0f}" role="img">\n'
        f"<title>{escape(title)}</title>\n"
        '<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="12" y="20" {_TEXT} font-weight="bold">{escape(title)}</text>\n'
        + "\n".join([*legend, *grid, *parts])
        + "\n</svg>\n"
    )


def _bar(bar: Bar, x: Callable[[float], float], start: float, y: float) -> list[str]:
    left, right = sorted((x(start), x(bar.value)))
    middle = y + _BAR / 2
    parts = [
        f'<rect x="{left:.1f}" y="{y:.1f}" width="{right - left:.1f}" height="{_BAR - 1}" '
        f'fill="{_COLORS[bar.series]}"/>'
    ]
    end = right
    if bar.span is not None:
        first, last = (x(value) for value in bar.span)
        end = max(end, last)
        parts.append(
            f'<path d="M{first:.1f} {middle:.1f}H{last:.1f}M{first:.1f} {middle - 3:.1f}v6'
            f'M{last:.1f} {middle - 3:.1f}v6" stroke="#222" stroke-opacity="0.6" fill="none"/>'
        )
    parts.append(
        f'<text x="{end + 5:.1f}" y="{middle + 4:.1f}" {_TEXT.replace("13", "11")}>'
        f"{bar.value:.2f}</text>"
    )
    return parts


_FAMILIES = (
    "LSTM float32 dense",
    "LSTM float32 ragged",
    "LSTM bfloat16 dense",
    "LSTM bfloat16 ragged",
    "GRU float32 dense",
    "RNN float32 dense",
    "LSTMCell float32 dense",
    "attention float32 dense",
    "attention float32 causal",
    "attention bfloat16 causal",
    "attention float32 dropout 0.1",
    "TransformerEncoderLayer float32 dropout 0.1",
)


def speed() -> str:
    """Training against PyTorch on each machine, with the range over the shapes."""
    groups = []
    for row in _FAMILIES:
        found = [ratios(runs(machine).records, row, "training", 2) for machine in MACHINES]
        measured = [
            Bar(series, geometric_mean(values), (min(values), max(values)) if values[1:] else None)
            for series, values in enumerate(found)
            if values
        ]
        groups.append(Group(row.removesuffix(" dense"), measured))
    return bars(
        "Training step, 2 threads: PyTorch's time / seqkern's (mean and range over shapes)",
        [machine.label for machine in MACHINES.values()],
        groups,
        (0.5, 1, 2, 4, 8, 16),
        1,
    )


def word_vectors() -> str:
    """Words a second of gensim and of seqkern."""
    groups = [
        Group(
            row,
            [
                Bar(2 * (threads - 1) + side, rates[threads][side])
                for threads in (1, 2)
                for side in (0, 1)
            ],
        )
        for row, rates in word_rates().items()
    ]
    names = [f"{side}, {n}" for n in ("1 thread", "2 threads") for side in ("gensim", "seqkern")]
    ticks = (0.1, 0.3, 1, 3, 10, 30, 100)
    return bars("Word vectors: millions of words a second", names, groups, ticks, 0.1)


CHARTS: dict[str, Callable[[], str]] = {"speed": speed, "word-vectors": word_vectors}
"""By the name of their file."""
