"""Plots of a benchmark run, as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_SIDES = (("peer", "PyTorch", "tab:orange"), ("ours", "seqkern", "tab:blue"))
_SWEEP_LABELS = {"time": "sequence length", "batch": "batch size", "hidden": "hidden size"}


def draw_plots(records: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what the records allow.

    Args:
        records: the ``extra_info`` of each measurement.
        folder: where the files go; it must exist.

    Returns:
        The files written.
    """
    plots = []
    for mode in dict.fromkeys(record["mode"] for record in records):
        of_mode = [record for record in records if record["mode"] == mode]
        swept = [record for record in of_mode if "sweep" in record]
        if swept:
            plots.append(_draw_sweeps(swept, folder / f"sweeps-{mode}.png", mode))
        grid = [record for record in of_mode if "table" in record]
        for threads in dict.fromkeys(record["threads"] for record in grid):
            chosen = [record for record in grid if record["threads"] == threads]
            path = folder / f"gflops-{mode}-{threads}threads.png"
            plural = "thread" if threads == 1 else "threads"
            plots.append(_draw_speeds(chosen, path, f"{mode}, {threads} {plural}"))
    return plots


def _draw_sweeps(records: list[dict[str, Any]], path: Path, mode: str) -> Path:
    """Time against one dimension at a time; a row of axes per layer, a column per dimension."""
    rows = list(dict.fromkeys(record["row"] for record in records))
    sweeps = list(dict.fromkeys(record["sweep"] for record in records))
    figure = Figure(figsize=(4 * len(sweeps), 3 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(sweeps), squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        for axes, sweep in zip(line, sweeps, strict=True):
            points = sorted(
                (r for r in records if (r["row"], r["sweep"]) == (row, sweep)),
                key=lambda record: record["at"],
            )
            for side, label, color in _SIDES:
                axes.loglog(
                    [point["at"] for point in points],
                    [point[f"{side}_min"] * 1e3 for point in points],
                    marker="o",
                    color=color,
                    label=label,
                )
            ticks = [point["at"] for point in points]
            axes.set_xticks(ticks, list(map(str, ticks)))
            axes.minorticks_off()
            axes.set(title=row, xlabel=_SWEEP_LABELS.get(sweep, sweep), ylabel="ms")
            axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(mode)
    figure.savefig(path, dpi=100)
    return path


def _draw_speeds(records: list[dict[str, Any]], path: Path, title: str) -> Path:
    """Achieved GFLOP/s beside the measured peak of the matrix product, one axes per row."""
    rows = list(dict.fromkeys(record["row"] for record in records))
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(5.5 * columns, 2.8 * lines), layout="constrained")
    for axes, row in zip(figure.subplots(lines, columns, squeeze=False).flat, rows, strict=False):
        _draw_bars(axes, [record for record in records if record["row"] == row])
        axes.set_title(row, fontsize=10)
    for axes in figure.axes[len(rows) :]:
        axes.set_axis_off()
    figure.axes[0].legend(fontsize=7)
    figure.suptitle(f"GFLOP/s, {title}; dashed: PyTorch's matrix product")
    figure.savefig(path, dpi=90)
    return path


def _draw_bars(axes: Axes, records: list[dict[str, Any]]) -> None:
    places = range(len(records))
    for offset, (side, label, color) in zip((-0.2, 0.2), _SIDES, strict=True):
        speeds = [record["flops"] / record[f"{side}_min"] / 1e9 for record in records]
        axes.bar([place + offset for place in places], speeds, 0.4, color=color, label=label)
    axes.axhline(records[0]["peak_gflops"], color="gray", linestyle="--")
    axes.set_xticks(list(places), [r["shape"] for r in records], rotation=25, fontsize=7)
