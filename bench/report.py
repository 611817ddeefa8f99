"""Tables and plots of a benchmark run: ``python -m bench.report FILE.json [--out DIR]``.

Prints the tables as Markdown and writes them to ``DIR/report.md``, with the plots beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from .plots import draw_plots

Record = dict[str, Any]
"""The ``extra_info`` of one measurement; `pair.py` and the ``*_bench.py`` files write it."""

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
"""What stands around the summary in a README."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the report of one JSON file. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("file", type=Path, help="what pytest-benchmark wrote")
    parser.add_argument("--out", type=Path, help="folder for the report (default: that of FILE)")
    parser.add_argument("--readme", type=Path, help="put the summary between this file's markers")
    options = parser.parse_args(arguments)
    try:
        run = json.loads(options.file.read_text())
        benchmarks = run["benchmarks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"bench.report: {options.file} is no benchmark JSON: {error!r}", file=sys.stderr)
        return 1
    folder = options.out or options.file.parent
    folder.mkdir(parents=True, exist_ok=True)
    records = [entry["extra_info"] for entry in benchmarks if "ratio" in entry["extra_info"]]
    plots = draw_plots(records, folder)
    text = markdown(run, records) + "".join(f"\n![{plot.stem}]({plot.name})\n" for plot in plots)
    (folder / "report.md").write_text(text)
    if options.readme:
        before, rest = options.readme.read_text().split(f"{BEGIN}\n")
        after = rest.split(END)[1]
        options.readme.write_text(f"{before}{BEGIN}\n{summary(records)}{END}{after}")
    print(text)
    return 0


def summary(records: list[Record]) -> str:
    """One row per kind of layer: geometric means over the shapes, and the range they span."""
    tables = [record for record in records if "table" in record]
    columns = sorted(_distinct((record["mode"], record["threads"]) for record in tables))
    head = ["", *(f"{mode}, {n} thread{'s' if n > 1 else ''}" for mode, n in columns)]
    rows = []
    for name in _distinct(record["row"] for record in tables):
        cells = []
        for column in columns:
            ratios = [
                record["ratio"]
                for record in tables
                if record["row"] == name and (record["mode"], record["threads"]) == column
            ]
            span = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else ""
            cells.append(f"**{geometric_mean(ratios):.2f}** ({span})" if ratios else "")
        rows.append([name, *cells])
    return _table(head, rows)


def markdown(run: dict[str, Any], records: list[Record]) -> str:
    """All tables of a run."""
    sections = [_header(run, records)]
    for table in _distinct(record["table"] for record in records if "table" in record):
        chosen = [record for record in records if record.get("table") == table]
        for mode, threads in _distinct((record["mode"], record["threads"]) for record in chosen):
            part = [r for r in chosen if (r["mode"], r["threads"]) == (mode, threads)]
            title = f"## {table}, {mode}, {threads} {'thread' if threads == 1 else 'threads'}\n\n"
            sections.append(title + _ratios(part))
            sections.append(_details(part))
    if run.get("peak_memory"):
        sections.append(_memory(run["peak_memory"]))
    return "\n".join(sections)


def _header(run: dict[str, Any], records: list[Record]) -> str:
    delegated = any(record["backend"] == "torch" for record in records)
    asterisk = " An asterisk marks a shape that seqkern leaves to PyTorch." if delegated else ""
    peers = ", ".join(f"{name} {state}" for name, state in run.get("peers", {}).items())
    return (
        "# Benchmarks\n\n"
        "A number is the peer's time divided by seqkern's, each the shortest of many rounds taken "
        f"in turns; above 1 seqkern is faster.{asterisk} A dagger marks a shape where PyTorch's "
        "own results are wrong (seqkern's agree with PyTorch's in float32).\n\n"
        f"Peers: {peers}.\n\n```\n{run.get('installation', '')}\n```\n"
    )


def _ratios(records: list[Record]) -> str:
    """One row per kind of layer: its ratio at each shape, the mean, and the target."""
    shapes = _distinct(record["shape"] for record in records)
    head = ["", *shapes, "mean", "batch 1", "worst", "target", "met"]
    rows = []
    for name in _distinct(record["row"] for record in records):
        by_shape = {record["shape"]: record for record in records if record["row"] == name}
        ratios = [record["ratio"] for record in by_shape.values()]
        singles = [record["ratio"] for record in by_shape.values() if record["batch"] == 1]
        mean = geometric_mean(ratios)
        one = geometric_mean(singles) if singles else None
        target, met = _judge(next(iter(by_shape.values()))["target"], mean, one, min(ratios))
        rows.append(
            [
                name,
                *(_ratio(by_shape.get(shape)) for shape in shapes),
                f"**{mean:.2f}**",
                "" if one is None else f"{one:.2f}",
                f"{min(ratios):.2f}",
                target,
                met,
            ]
        )
    return _table(head, rows)


def _ratio(record: Record | None) -> str:
    if record is None:
        return ""
    wrong = "†" if record.get("peer_wrong") else ""
    return f"{record['ratio']:.2f}{'*' if record['backend'] == 'torch' else ''}{wrong}"


def _judge(
    target: dict[str, float | None] | None, mean: float, one: float | None, worst: float
) -> tuple[str, str]:
    """The target in words, and whether it is met: yes, no, or nothing where there is none."""
    if target is None:
        return "", ""
    words, met = [], True
    for label, key, reached in (
        ("", "mean", mean),
        ("batch 1 ", "one", one),
        ("each ", "worst", worst),
    ):
        least = target[key]
        if least is not None and reached is not None:
            words.append(f"{label}≥ {least:g}")
            met = met and reached >= least
    return ", ".join(words), "yes" if met else "**no**"


def _details(records: list[Record]) -> str:
    """Times and speeds of every measurement, folded away."""
    head = ["", "shape", "backend", "rounds", "peer ms", "seqkern ms", "(medians)", "ratio"]
    head += ["peer GFLOP/s", "seqkern GFLOP/s", "GEMM peak"]
    rows = [
        [
            record["row"],
            record["shape"],
            record["backend"],
            str(record["rounds"]),
            f"{record['peer_min'] * 1e3:.3f}",
            f"{record['ours_min'] * 1e3:.3f}",
            f"{record['peer_median'] * 1e3:.3f} / {record['ours_median'] * 1e3:.3f}",
            f"{record['ratio']:.2f}",
            f"{record['flops'] / record['peer_min'] / 1e9:.1f}",
            f"{record['flops'] / record['ours_min'] / 1e9:.1f}",
            f"{record['peak_gflops']:.0f}",
        ]
        for record in records
    ]
    table = _table(head, rows)
    return f"<details><summary>times and GFLOP/s</summary>\n\n{table}\n</details>\n"


def _memory(records: list[Record]) -> str:
    """Peak memory of a training step, at each shape: ours and the peer's, which ours should not
    exceed."""
    shapes = _distinct(record["shape"] for record in records)
    rows = []
    for name in _distinct(record["row"] for record in records):
        by_shape = {record["shape"]: record for record in records if record["row"] == name}
        cells = [
            f"{r['ours'] / 2**20:.1f} / {r['peer'] / 2**20:.1f}" if r else ""
            for r in map(by_shape.get, shapes)
        ]
        met = all(record["ours"] <= record["peer"] for record in by_shape.values())
        rows.append([name, *cells, "each ≤ PyTorch's", "yes" if met else "**no**"])
    title = "## Peak memory of a training step: seqkern / PyTorch, MiB\n\n"
    return title + _table(["", *shapes, "target", "met"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The different values, in the order of their first appearance."""
    return list(dict.fromkeys(values))


if __name__ == "__main__":
    sys.exit(main())
