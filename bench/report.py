"""Tables and plots of benchmark runs: ``python -m bench.report FILE.json ... [--out DIR]``.

Prints the tables as Markdown and writes them to ``DIR/report.md``, with the plots beside it.
Several files, one for each domain say, make one report; a measurement that two of them hold is
taken from the later one. What `bench.gpu` wrote makes a report of its own (`gpu-report.md`). The
tables of the documentation are made by ``python -m docs``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from . import gpu_report
from .plots import draw_plots
from .runs import NoBenchmark, Record, Runs, read_gpu_records, read_runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the report of the JSON files. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="what pytest-benchmark wrote")
    parser.add_argument(
        "--out", type=Path, help="folder for the report (default: the first FILE's)"
    )
    options = parser.parse_args(arguments)
    try:
        gpu_records = read_gpu_records(options.files)
        if gpu_records is not None:
            return _report_gpus(gpu_records, options.out or options.files[0].parent)
        runs = read_runs(options.files)
    except NoBenchmark as error:
        print(f"bench.report: {error}", file=sys.stderr)
        return 1
    folder = options.out or options.files[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw_plots(runs.records, runs.peak_memory, folder)
    text = markdown(runs) + "".join(f"\n![{plot.stem}]({plot.name})\n" for plot in plots)
    (folder / "report.md").write_text(text)
    print(text)
    return 0


def _report_gpus(records: list[Record], folder: Path) -> int:
    """The report of what `bench.gpu` wrote, a later file's cases in the place of an earlier's."""
    folder.mkdir(parents=True, exist_ok=True)
    record = gpu_report.joined(records)
    gpu_report.write(record, folder)
    print(gpu_report.markdown(record))
    return 0


def _own_ratio(record: Record) -> float | None:
    return record["ratio"]


def summary(records: list[Record], figure: Callable[[Record], float | None] = _own_ratio) -> str:
    """One row per kind of layer: geometric means over the shapes, and the range they span.

    Args:
        figure: of a record what is summed up; None where it has none.
    """
    tables = [record for record in records if "table" in record]
    columns = sorted(_distinct((record["mode"], record["threads"]) for record in tables))
    head = ["", *(f"{mode}, {n} thread{'s' if n > 1 else ''}" for mode, n in columns)]
    rows = []
    for name in _distinct(record["row"] for record in tables):
        cells = []
        for column in columns:
            found = [
                figure(record)
                for record in tables
                if record["row"] == name and (record["mode"], record["threads"]) == column
            ]
            figures = [one for one in found if one is not None]
            span = f" ({min(figures):.2f} to {max(figures):.2f})" if len(figures) > 1 else ""
            cells.append(f"**{geometric_mean(figures):.2f}**{span}" if figures else "")
        if any(cells):
            rows.append([name, *cells])
    return _table(head, rows)


def markdown(runs: Runs) -> str:
    """All tables."""
    records = runs.records
    sections = [_header(runs)]
    for table in _distinct(record["table"] for record in records if "table" in record):
        chosen = [record for record in records if record.get("table") == table]
        for mode, threads in _distinct((record["mode"], record["threads"]) for record in chosen):
            part = [r for r in chosen if (r["mode"], r["threads"]) == (mode, threads)]
            title = f"## {table}, {mode}, {threads} {'thread' if threads == 1 else 'threads'}\n\n"
            sections.append(title + _ratios(part))
            if any("words" in record for record in part):
                sections.append(_words(part))
            sections.append(_details(part))
    for domain in _distinct(record["domain"] for record in runs.peak_memory):
        sections.append(_memory([r for r in runs.peak_memory if r["domain"] == domain], domain))
    if runs.errors:
        sections.append(_errors(runs.errors))
    return "\n".join(sections)


def _header(runs: Runs) -> str:
    notes = ""
    if any(record["backend"] == "torch" for record in runs.records):
        notes += " An asterisk marks a shape that seqkern leaves to PyTorch."
    notes += (
        " A dagger marks a shape where PyTorch's own results are wrong (seqkern's agree with "
        "PyTorch's in float32)."
    )
    if any(record.get("checked_against") == "stand-in" for record in runs.records):
        notes += (
            " A double dagger marks dropout: PyTorch drops other elements than seqkern, so "
            "seqkern's results were compared with its own reference, with the same seed."
        )
    peers = ", ".join(f"{name} {state}" for name, state in runs.peers.items())
    installations = "".join(f"```\n{text}\n```\n" for text in runs.installations)
    return (
        "# Benchmarks\n\n"
        "A number is the peer's time divided by seqkern's, each the shortest of many rounds taken "
        f"in turns; above 1 seqkern is faster.{notes}\n\nPeers: {peers}.\n\n{installations}"
    )


def _ratios(records: list[Record]) -> str:
    """One row per kind of call: its ratio at each shape, the mean, and the target."""
    shapes = _distinct(record["shape"] for record in records)
    singly = any(record["target"] and record["target"]["one"] for record in records)
    head = ["", *shapes, "mean", *(["batch 1"] if singly else []), "worst"]
    head += ["of the limit", "target", "met"]
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
                *(["" if one is None else f"{one:.2f}"] if singly else []),
                f"{min(ratios):.2f}",
                _ratio_of_limits(by_shape.values()),
                target,
                met,
            ]
        )
    return _table(head, rows)


def _words(records: list[Record]) -> str:
    """Words per second of both, what ours should reach, and the most that this machine could do."""
    head = ["M words/s", "peer", "seqkern", "target", "met", "floor: memory", "arithmetic"]
    head += ["of it"]
    rows = []
    for record in records:
        theirs, ours = (record["words"] / record[f"{side}_min"] for side in ("peer", "ours"))
        floors = [
            record["words"] * record[peak] * 1e9 / record[work] if record[work] else None
            for work, peak in (("bytes", "memory_gbs"), ("flops", "peak_gflops"))
        ]
        least = record["least_words"]
        floor = floors[1] or floors[0]
        rows.append(
            [
                record["row"],
                f"{theirs / 1e6:.3f}",
                f"**{ours / 1e6:.3f}**",
                "" if least is None else f"≥ {least / 1e6:g}",
                "" if least is None else "yes" if ours >= least else "**no**",
                *("" if most is None else f"{most / 1e6:.1f}" for most in floors),
                "" if floor is None else f"{ours / floor:.2f}",
            ]
        )
    note = (
        "\nFloors: a word's arithmetic at the speed of PyTorch's matrix product, and its rows' "
        "traffic at that of memory beyond the caches; where the frequent rows stay in a cache, the "
        "second can be passed.\n"
    )
    return _table(head, rows) + note


def _ratio(record: Record | None) -> str:
    if record is None:
        return ""
    marks = [
        "*" if record["backend"] == "torch" else "",
        "†" if record.get("peer_wrong") else "",
        "‡" if record.get("checked_against") == "stand-in" else "",
    ]
    return f"{record['ratio']:.2f}{''.join(marks)}"


def of_limit(record: Record) -> float | None:
    """The part of the machine's own limit that ours reaches: of its best matrix product, or of its
    fastest read where that is nearer, so that it is the limit which binds."""
    parts = [
        record[work] / record["ours_min"] / 1e9 / record[peak]
        for work, peak in (("flops", "peak_gflops"), ("bytes", "peak_gbs"))
        if record.get(work) and record.get(peak)
    ]
    return max(parts, default=None)


def _ratio_of_limits(records: Iterable[Record]) -> str:
    """Their geometric mean and range."""
    parts = [part for part in map(of_limit, records) if part is not None]
    if not parts:
        return ""
    span = f" ({min(parts):.2f} to {max(parts):.2f})" if len(parts) > 1 else ""
    return f"{geometric_mean(parts):.2f}{span}"


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
    head += ["peer GFLOP/s", "seqkern GFLOP/s", "GEMM peak", "of peak"]
    reads = any("bytes" in record for record in records)
    if reads:
        head += ["peer GB/s", "seqkern GB/s", "read peak", "of peak", "memory alone"]
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
            *_speeds(record, "flops", "peak_gflops", ".0f"),
            *(_reading(record) if reads else []),
        ]
        for record in records
    ]
    table = _table(head, rows)
    limits = ", GFLOP/s and GB/s" if reads else " and GFLOP/s"
    note = (
        "\nThe read peak is PyTorch's fastest read of a buffer of the size that the call reads, "
        "which a large cache may hold from round to round; memory alone is that of a buffer beyond "
        "the caches.\n"
    )
    return (
        f"<details><summary>times{limits}</summary>\n\n{table}{note if reads else ''}\n</details>\n"
    )


def _speeds(record: Record, work: str, peak: str, form: str) -> list[str]:
    """Work per nanosecond of both, the peak of this machine, and the part of it that is ours."""
    theirs, ours = (record[work] / record[f"{side}_min"] / 1e9 for side in ("peer", "ours"))
    return [
        f"{theirs:.1f}",
        f"{ours:.1f}",
        format(record[peak], form),
        f"{ours / record[peak]:.2f}",
    ]


def _reading(record: Record) -> list[str]:
    if "bytes" not in record:
        return [""] * 5
    return [*_speeds(record, "bytes", "peak_gbs", ".1f"), f"{record['memory_gbs']:.1f}"]


def _memory(records: list[Record], domain: str) -> str:
    """Peak memory of a training step, at each shape: ours and the peer's, which ours should not
    exceed unless the record holds a limit of its own."""
    shapes = _distinct(record["shape"] for record in records)
    rows = []
    for name in _distinct(record["row"] for record in records):
        by_shape = {record["shape"]: record for record in records if record["row"] == name}
        cells = [
            f"{r['ours'] / 2**20:.1f} / {r['peer'] / 2**20:.1f}" if r else ""
            for r in map(by_shape.get, shapes)
        ]
        met = all(r["ours"] <= r.get("limit", r["peer"]) for r in by_shape.values())
        target = next(iter(by_shape.values())).get("target", "each ≤ PyTorch's")
        rows.append([name, *cells, target, "yes" if met else "**no**"])
    title = (
        f"## Peak memory of a training step ({domain}): seqkern / PyTorch, MiB\n\n"
        "Resident memory beyond weights and inputs.\n\n"
    )
    return title + _table(["", *shapes, "target", "met"], rows)


def _errors(records: list[Record]) -> str:
    """Errors against the reference: ours and the peer's, of each result."""
    names = _distinct(name for record in records for name in record["ours"])
    rows = []
    for record in records:
        ours, theirs, most = record["ours"], record["peer"], record["most"]
        met = ours["gradients"] <= most * theirs["gradients"]
        cells = [f"{ours[name]:.1e} / {theirs[name]:.1e}" if name in ours else "" for name in names]
        target = f"gradients ≤ {most:g} PyTorch's"
        rows.append([record["row"], record["shape"], *cells, target, "yes" if met else "**no**"])
    title = (
        "## Errors of output and gradients: seqkern / PyTorch\n\nRelative in norm to PyTorch's "
        "results in float64 for the same inputs; gradients: all of them as one vector.\n\n"
    )
    return title + _table(["", "shape", *names, "target", "met"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The different values, in the order of their first appearance."""
    return list(dict.fromkeys(values))


if __name__ == "__main__":
    sys.exit(main())
