"""Tables and plots of what `bench.gpu` recorded; ``python -m bench.report FILE.json`` makes them,
too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from .runs import NoBenchmark
from .targets import GPU_GOALS, Goal
from .word2vec_quality import ALLOWED

Record = dict[str, Any]
"""What `gpu.Run` writes."""
Row = dict[str, Any]
"""A `gpu.Result`."""


def joined(records: Sequence[Record]) -> Record:
    """Several runs on one kind of GPU as one: of a case the latest result, and of the copy's
    bandwidth the best. What one run left out or failed at, another one may have measured.

    Raises:
        NoBenchmark: they are of different GPUs.
    """
    gpus = {record["gpu"] for record in records}
    if len(gpus) > 1:
        raise NoBenchmark(f"runs on different GPUs: {', '.join(sorted(gpus))}; report them apart")
    results = {row["name"]: row for record in records for row in record["results"]}
    failed = {name: said for record in records for name, said in record["failed"].items()}
    left_out = dict.fromkeys(name for record in records for name in record["left_out"])
    return {
        **records[-1],
        "copy_gbs": max(record["copy_gbs"] for record in records),
        "seconds": sum(record["seconds"] for record in records),
        "results": list(results.values()),
        "failed": {name: said for name, said in failed.items() if name not in results},
        "left_out": [name for name in left_out if name not in results],
    }


def write(record: Record, folder: Path) -> None:
    """`gpu-report.md` with its plots."""
    plots = draw_plots(record, folder)
    shown = "".join(f"\n![{plot.stem}]({plot.name})\n" for plot in plots)
    (folder / "gpu-report.md").write_text(markdown(record) + shown)


def markdown(record: Record) -> str:
    sections = [
        f"# GPU benchmarks: {record['gpu']}\n\n"
        "A ratio is the peer's time divided by seqkern's, each the median of rounds taken in turns;"
        " above 1 seqkern is faster. The GPU's own copy reads and writes "
        f"{record['copy_gbs']:.0f} GB/s.\n\nPeers: "
        f"{', '.join(f'{name} {state}' for name, state in record['peers'].items())}.\n",
        "## Goals\n\n" + goals(record),
        "## Groups\n\n" + groups(record["results"]),
        "## Cases\n\n" + table(record["results"]),
    ]
    if record["failed"]:
        rows = [[name, said.splitlines()[0]] for name, said in record["failed"].items()]
        sections.append("## Failed\n\n" + _table(["case", "why"], rows))
    if record["left_out"]:
        named = "".join(f"- {name}\n" for name in record["left_out"])
        sections.append(f"## Left out: no time ({record['seconds']:.0f} s in all)\n\n{named}")
    sections.append(f"```\n{record['installation']}\n```\n")
    return "\n".join(sections)


# ---- goals ----


def goals(record: Record) -> str:
    """Each goal, what was reached of it, and whether it is met."""
    head = ["goal", "target", "cases", "mean", "worst", "quality", "met"]
    return _table(head, [_goal(goal, record) for goal in GPU_GOALS])


def _goal(goal: Goal, record: Record) -> list[str]:
    measured = [row for row in record["results"] if goal.covers(row["name"])]
    others = [name for name in (*record["failed"], *record["left_out"]) if goal.covers(name)]
    count = str(len(measured)) + (f" of {len(measured) + len(others)}" if others else "")
    if not measured:
        return [goal.name, str(goal), count, "", "", "", "**not measured**"]
    values = [_value(goal, row, record) for row in measured]
    mean, worst = geometric_mean(values), max(values) if goal.most else min(values)
    met = goal.reached(worst if goal.each else mean)
    quality = ""
    if goal.quality:
        fits = [_no_worse(row["quality"]) for row in measured]
        quality = "equal" if all(fits) else "**worse or not judged**"
        met = met and all(fits)
    answer = "yes" if met else "**no**"
    if any(goal.covers(name) for name in record["failed"]):
        answer = "**no: some failed**"
    elif others:
        answer += ", of those measured"
    return [goal.name, str(goal), count, f"{mean:.2f}", f"{worst:.2f}", quality, answer]


def _value(goal: Goal, row: Row, record: Record) -> float:
    if goal.quantity == "copy":
        return float(row["gbs"] / record["copy_gbs"])
    return float(row[goal.quantity])


def _no_worse(quality: dict[str, Sequence[float]] | None) -> bool:
    """Whether ours falls short of the peer's by no more than is allowed; a score that is not a
    number says no."""
    return bool(quality) and all(
        theirs - ours <= ALLOWED[name] for name, (ours, theirs) in (quality or {}).items()
    )


# ---- cases ----


def groups(results: Sequence[Row]) -> str:
    """The geometric mean of the ratios of the cases whose names differ in their sizes only."""
    by_group: dict[str, list[float]] = {}
    for row in results:
        by_group.setdefault(_without_sizes(row["name"]), []).append(row["ratio"])
    rows = [
        [name, str(len(ratios)), f"{geometric_mean(ratios):.2f}", f"{min(ratios):.2f}"]
        for name, ratios in by_group.items()
    ]
    return _table(["group", "cases", "geometric mean", "worst"], rows)


def _without_sizes(name: str) -> str:
    return " ".join(word for word in name.split() if not re.fullmatch(r"\d+(x\d+)*", word))


def table(results: Sequence[Row]) -> str:
    """In Markdown."""
    rows = [
        [
            row["name"],
            f"{row['ours_ms']:.3f}",
            f"{row['theirs_ms']:.3f}",
            f"{row['ratio']:.2f}",
            reached(row),
            f"{row['error']:.1e}",
            _scores(row["quality"]),
        ]
        for row in results
    ]
    head = ["case", "ours, ms", "peer, ms", "ratio", "reached", "apart", "quality: ours / peer's"]
    return _table(head, rows)


def line(row: Row) -> str:
    """One case, as it is measured."""
    times = f"{row['ours_ms']:.3f} / {row['theirs_ms']:.3f} ms"
    return f"{row['name']}: {times}, ratio {row['ratio']:.2f} {reached(row)}"


def reached(row: Row) -> str:
    if row["step_us"] is not None:
        return f"{row['step_us']:.2f} us a step"
    if row["tflops"] is not None:
        return f"{row['tflops']:.0f} TFLOP/s"
    return "" if row["gbs"] is None else f"{row['gbs']:.0f} GB/s"


def _scores(quality: dict[str, Sequence[float]] | None) -> str:
    pairs = (quality or {}).items()
    return ", ".join(f"{name} {ours:.3f} / {theirs:.3f}" for name, (ours, theirs) in pairs)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# ---- plots ----

_SIZES = re.compile(r"(?P<group>.+?) (?P<sizes>\d+(?:x\d+)*)(?P<rest>( causal)?)$")
_SIDES = (("theirs_ms", "peer", "tab:orange"), ("ours_ms", "seqkern", "tab:blue"))


def draw_plots(record: Record, folder: Path) -> list[Path]:
    """Attention's speed against the length of its sequences, decoding's bandwidth against the
    number of keys, the time of recurrent layers against their width: those that were measured."""
    # matplotlib takes a second to import, and a GPU machine may be without it.
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return []
    attention = _grouped(record["results"], "attention (forward|training) bf16 d")
    decode = _grouped(record["results"], "attention decode ")
    recurrent = _grouped(record["results"], "(cuda|triton) (LSTM|GRU) (inference|training) ")
    recurrent = {
        f"{group}, batch {batch}": [row for row in rows if row["sizes"][1] == batch]
        for group, rows in recurrent.items()
        for batch in sorted({row["sizes"][1] for row in rows})
    }
    drawn = [
        _draw(attention, folder / "gpu-attention.png", 0, "length", "TFLOP/s", _speed("tflops")),
        _draw(
            decode, folder / "gpu-decode.png", 0, "keys", "GB/s", _speed("gbs"), record["copy_gbs"]
        ),
        _draw(
            recurrent, folder / "gpu-recurrent.png", 2, "width", "ms", lambda row, side: row[side]
        ),
    ]
    return [path for path in drawn if path is not None]


def _grouped(results: Sequence[Row], pattern: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in results:
        parts = _SIZES.match(row["name"])
        if parts and re.match(pattern, row["name"]):
            sizes = [int(size) for size in parts["sizes"].split("x")]
            found.setdefault(parts["group"] + parts["rest"], []).append({**row, "sizes": sizes})
    return found


def _speed(quantity: str) -> Callable[[Row, str], float]:
    """Ours was recorded; the peer's is less by the ratio of the times."""
    return lambda row, side: row[quantity] * row["ours_ms"] / row[side]


def _draw(
    grouped: dict[str, list[Row]],
    path: Path,
    size: int,
    label: str,
    unit: str,
    value: Callable[[Row, str], float],
    limit: float = math.nan,
) -> Path | None:
    """One axes for each group, its rows against one of their sizes."""
    from matplotlib.figure import Figure

    if not grouped:
        return None
    columns = min(4, len(grouped))
    lines = -(-len(grouped) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * lines), layout="constrained")
    places = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, (name, rows) in zip(places, grouped.items(), strict=False):
        rows = sorted(rows, key=lambda row: row["sizes"][size])
        at = [row["sizes"][size] for row in rows]
        for side, said, color in _SIDES:
            values = [value(row, side) for row in rows]
            axes.plot(at, values, marker="o", color=color, label=said)
        if not math.isnan(limit):
            axes.axhline(limit, color="gray", linestyle="--", label="copy")
        axes.set_xscale("log", base=2)
        axes.set_xticks(at, list(map(str, at)), fontsize=7)
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_title(name, fontsize=8)
        axes.set(xlabel=label, ylabel=unit)
        axes.grid(alpha=0.3)
    for axes in places[len(grouped) :]:
        axes.set_axis_off()
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=90)
    return path
