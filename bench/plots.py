"""Plots of a benchmark run, as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Record = dict[str, Any]

_SIDES = (("peer", "PyTorch", "tab:orange"), ("ours", "seqkern", "tab:blue"))
_SWEEP_LABELS = {"time": "sequence length", "batch": "batch size", "hidden": "hidden size"}


def draw_plots(
    records: Sequence[Record], peak_memory: Sequence[Record], folder: Path
) -> list[Path]:
    """Draw what the records allow, each domain by itself.

    Args:
        records: the ``extra_info`` of each measurement.
        peak_memory: the measurements of memory.
        folder: where the files go; it must exist.

    Returns:
        The files written.
    """
    plots = []
    for domain in _distinct(record["domain"] for record in [*records, *peak_memory]):
        of_domain = [record for record in records if record["domain"] == domain]
        for mode in _distinct(record["mode"] for record in of_domain):
            of_mode = [record for record in of_domain if record["mode"] == mode]
            swept = [record for record in of_mode if "sweep" in record]
            if swept:
                path = folder / f"{domain}-sweeps-{mode}.png"
                plots.append(_draw_sweeps(swept, path, f"time, {mode}", "_min", 1e3, "ms"))
            grid = [record for record in of_mode if "table" in record]
            for threads in _distinct(record["threads"] for record in grid):
                chosen = [record for record in grid if record["threads"] == threads]
                path = folder / f"{domain}-speeds-{mode}-{threads}threads.png"
                plural = "thread" if threads == 1 else "threads"
                plots.append(_draw_speeds(chosen, path, f"{mode}, {threads} {plural}"))
        swept = [r for r in peak_memory if r["domain"] == domain and "sweep" in r]
        if swept:
            title = "peak memory of a training step beyond its inputs"
            path = folder / f"{domain}-memory.png"
            plots.append(_draw_sweeps(swept, path, title, "", 2**-20, "MiB"))
    return plots


def _draw_sweeps(
    records: Sequence[Record], path: Path, title: str, suffix: str, scale: float, unit: str
) -> Path:
    """A quantity of both sides against one dimension at a time.

    A row of axes per kind of call and a column per dimension; if there is one dimension only, the
    kinds stand in two columns.

    Args:
        records: with ``row``, ``sweep`` and ``at``, and the quantity under ``ours`` and ``peer``,
            with `suffix` behind it; ``own``, where it is there, is what no way of doing it saves.
        path: the file.
        title: of the figure.
        suffix: see `records`.
        scale: what the quantity is multiplied by, to be in the `unit`.
        unit: label of the vertical axis.
    """
    rows = _distinct(record["row"] for record in records)
    sweeps = _distinct(record["sweep"] for record in records)
    columns = len(sweeps) if len(sweeps) > 1 else min(2, len(rows))
    cells = [(row, sweep) for row in rows for sweep in sweeps]
    lines = -(-len(cells) // columns)
    figure = Figure(figsize=(4 * columns, 3 * lines), layout="constrained")
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, (row, sweep) in zip(places, cells, strict=False):
        points = [r for r in records if (r["row"], r["sweep"]) == (row, sweep)]
        points.sort(key=lambda record: record["at"])
        places_at = [point["at"] for point in points]
        for side, label, color in _SIDES:
            values = [point[side + suffix] * scale for point in points]
            axes.loglog(places_at, values, marker="o", color=color, label=label)
        if points and all("own" in point for point in points):
            own = [point["own"] * scale for point in points]
            axes.loglog(places_at, own, color="gray", linestyle="--", label="gradients alone")
        axes.set_xticks(places_at, list(map(str, places_at)), fontsize=8)
        axes.minorticks_off()
        axes.set_title(row, fontsize=10)
        axes.set(xlabel=_SWEEP_LABELS.get(sweep, sweep), ylabel=unit)
        axes.grid(alpha=0.3)
    for axes in places[len(cells) :]:
        axes.set_axis_off()
    figure.axes[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    return path


def _draw_speeds(records: Sequence[Record], path: Path, title: str) -> Path:
    """Achieved speed beside the fastest that PyTorch reaches on this machine, one axes per row."""
    rows = _distinct(record["row"] for record in records)
    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(5.5 * columns, 2.8 * lines), layout="constrained")
    for axes, row in zip(figure.subplots(lines, columns, squeeze=False).flat, rows, strict=False):
        _draw_bars(axes, [record for record in records if record["row"] == row])
        axes.set_title(row, fontsize=10)
    for axes in figure.axes[len(rows) :]:
        axes.set_axis_off()
    figure.axes[0].legend(fontsize=7)
    figure.suptitle(f"{title}; dashed: PyTorch's matrix product (GFLOP/s), its fastest read (GB/s)")
    figure.savefig(path, dpi=90)
    return path


def _draw_bars(axes: Axes, records: Sequence[Record]) -> None:
    """GB/s where reading sets the limit, otherwise GFLOP/s."""
    reads = "bytes" in records[0]
    work, peak = ("bytes", "peak_gbs") if reads else ("flops", "peak_gflops")
    places = range(len(records))
    for offset, (side, label, color) in zip((-0.2, 0.2), _SIDES, strict=True):
        speeds = [record[work] / record[f"{side}_min"] / 1e9 for record in records]
        axes.bar([place + offset for place in places], speeds, 0.4, color=color, label=label)
    axes.axhline(records[0][peak], color="gray", linestyle="--")
    axes.set_xticks(list(places), [r["shape"] for r in records], rotation=25, fontsize=7)
    axes.set_ylabel("GB/s" if reads else "GFLOP/s")


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The different values, in the order of their first appearance."""
    return list(dict.fromkeys(values))
