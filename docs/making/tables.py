"""Tables from the records in ``bench/results``, as Markdown."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from statistics import geometric_mean, mean
from typing import Any

from bench import random_shapes as random_report
from bench import report, word2vec_quality
from bench.runs import Record, read_runs
from docs.making.results import MACHINES, runs

_ROWS = {
    "LSTM float32 dense": ("LSTM float32", "LSTM float32"),
    "LSTM float32 ragged": ("LSTM float32, ragged batch", "LSTM float32, 길이가 제각각인 배치"),
    "LSTM bfloat16 dense": ("LSTM bfloat16", "LSTM bfloat16"),
    "GRU float32 dense": ("GRU float32", "GRU float32"),
    "attention float32 causal": ("attention float32, causal", "어텐션 float32, causal"),
    "attention bfloat16 causal": ("attention bfloat16, causal", "어텐션 bfloat16, causal"),
    "TransformerEncoderLayer float32 dropout 0.1": (
        "TransformerEncoderLayer float32",
        "TransformerEncoderLayer float32",
    ),
    "skip-gram NS d=100": ("skip-gram, against gensim", "skip-gram, gensim 대비"),
}
"""The rows of the table in the README, in English and Korean."""
_MODES = ("inference", "training")
_THREADS = 2


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ratios(records: Iterable[Record], row: str, mode: str, threads: int) -> list[float]:
    """The peer's time over ours at each shape of a row."""
    return [
        record["ratio"]
        for record in records
        if "table" in record
        and (record["row"], record["mode"], record["threads"]) == (row, mode, threads)
    ]


def speed() -> str:
    head = [f"{machine.label}, {mode}" for machine in MACHINES.values() for mode in _MODES]
    return _speed("", head, 0)


def speed_in_korean() -> str:
    modes = ("추론", "학습")
    head = [f"{machine.label}, {mode}" for machine in MACHINES.values() for mode in modes]
    return _speed("", head, 1)


def _speed(corner: str, head: list[str], language: int) -> str:
    rows = []
    for row, names in _ROWS.items():
        cells = []
        for machine in MACHINES:
            for mode in _MODES:
                cells.append(_mean_ratio(runs(machine).records, row, mode))
        rows.append([names[language], *cells])
    return table([corner, *head], rows)


def summary_of(machine: str) -> Callable[[], str]:
    """All rows of layers, cells and attention on a machine: mean over the shapes, and range."""

    def summary() -> str:
        domains = ("recurrent", "attention")
        order = list(dict.fromkeys(r["row"] for m in MACHINES for r in runs(m).records))
        records = [r for r in runs(machine).records if r["domain"] in domains]
        return report.summary(sorted(records, key=lambda r: order.index(r["row"])))

    return summary


def limits_of(machine: str) -> Callable[[], str]:
    """The part of the machine's own limit that each row reaches."""

    def limits() -> str:
        records = [r for r in runs(machine).records if r["domain"] in ("recurrent", "attention")]
        return report.summary(records, report.of_limit)

    return limits


def random_shapes() -> str:
    """Ratios at shapes that nobody chose."""
    record = json.loads((MACHINES["xeon"].path / "random-shapes.json").read_text())
    return random_report.table(random_report.Measured(**one) for one in record["measured"]) + "\n"


def releases() -> str:
    """Attention beside each release of PyTorch for which it was measured: means over the shapes."""
    found = {"2.13": runs("xeon").records}
    for file in sorted(MACHINES["xeon"].path.glob("bench-attention-torch-*.json")):
        found[file.stem.removeprefix("bench-attention-torch-")] = read_runs([file]).records
    rows = list(dict.fromkeys(r["row"] for r in found[max(found)] if "table" in r))
    columns = list(itertools.product(_MODES, found))
    cells = [
        [row, *(_mean_ratio(found[release], row, mode) for mode, release in columns)]
        for row in rows
    ]
    return table(["", *(f"{mode}, torch {release}" for mode, release in columns)], cells)


def _mean_ratio(records: Iterable[Record], row: str, mode: str) -> str:
    found = ratios(records, row, mode, _THREADS)
    return f"**{geometric_mean(found):.2f}**" if found else ""


def errors() -> str:
    """Errors of output and gradients beside PyTorch's, where they were measured."""
    rows = [
        [
            record["row"],
            record["shape"],
            *(
                f"{record[side][what]:.1e}"
                for what in ("output", "gradients")
                for side in ("ours", "peer")
            ),
        ]
        for machine in MACHINES
        for record in runs(machine).errors
    ]
    head = ["", "B x H x N x D", "output, seqkern", "PyTorch", "gradients, seqkern", "PyTorch"]
    return table(head, rows)


# ---- word vectors, measured on one machine ----

_WORDS = "epyc"
_WORD_ROWS = {
    "skip-gram NS d=100": "skip-gram, negative sampling, d=100",
    "skip-gram NS d=300": "skip-gram, negative sampling, d=300",
    "CBOW NS d=100": "CBOW, negative sampling, d=100",
    "skip-gram HS d=100": "skip-gram, hierarchical softmax, d=100",
    "FastText skip-gram d=100": "FastText skip-gram, n-grams of 3 to 6, d=100",
    "vocabulary and encoding": "vocabulary and encoding (gensim only counts)",
}


def word_rates() -> dict[str, dict[int, tuple[float, float]]]:
    """By row and number of threads, millions of words a second of gensim and of seqkern."""
    found: dict[str, dict[int, tuple[float, float]]] = {row: {} for row in _WORD_ROWS}
    for record in runs(_WORDS).records:
        if record["row"] in found and record["mode"] in ("training", "reading"):
            # A text is read as a whole: its words are in the name of the shape only.
            words = record.get("words") or int(record["shape"].removesuffix("-words"))
            rates = tuple(words / record[f"{side}_min"] / 1e6 for side in ("peer", "ours"))
            found[record["row"]][record["threads"]] = (rates[0], rates[1])
    return found


def word_speed() -> str:
    rows = []
    for row, rates in word_rates().items():
        cells = []
        for theirs, ours in (rates[threads] for threads in (1, 2)):
            cells += [f"{theirs:.3g}", f"**{ours:.3g}** ({ours / theirs:.1f} times)"]
        rows.append([_WORD_ROWS[row], *cells])
    head = [f"{side}, {n}" for n in ("1 thread", "2 threads") for side in ("gensim", "seqkern")]
    return table(["M words/s", *head], rows)


def word_scaling() -> str:
    """Two threads against one in each run, without and with copies of the frequent rows."""
    folder = MACHINES[_WORDS].path
    without = [folder / f"bench-word2vec{run}.json" for run in ("", "-again", "-scaling")]
    copies = sorted(folder.glob("bench-word2vec-scaling-copies-*.json"))
    rows = []
    for row, name in _WORD_ROWS.items():
        plain, copied = (
            [record for file in files for record in read_runs([file]).records
             if record["row"] == row and record["mode"] == "scaling"]
            for files in (without, copies)
        )  # fmt: skip
        if copied:
            rows.append(
                [
                    name,
                    ", ".join(f"{record['ratio']:.2f}" for record in plain),
                    ", ".join(
                        f"{r['ratio']:.2f} ({r['cores_apart_ns']:.0f} ns)"
                        for r in sorted(copied, key=lambda r: r["cores_apart_ns"])
                    ),
                ]
            )
    return table(["", "without copies", "with copies (between the processors)"], rows)


_QUALITY_ROWS = {
    "sg-ns": "skip-gram, negative sampling",
    "sg-hs": "skip-gram, hierarchical softmax",
    "cbow-ns": "CBOW, negative sampling",
    "cbow-hs": "CBOW, hierarchical softmax",
}


def _quality() -> dict[tuple[Any, ...], str]:
    """By model, side, threads and whatever else differs, the mean scores over the seeds."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in word2vec_quality.read_records(MACHINES[_WORDS].path / "quality.json"):
        key = [record["model"], record["side"], record["threads"]]
        key += [record.get("alpha", word2vec_quality.ALPHA), record.get("copies", "auto")]
        groups.setdefault(tuple(key), []).append(record)
    return {
        key: "{:.3f}, {:.3f}, {:.1f}".format(
            *(mean(record[score] for record in group) for score in word2vec_quality.SCORES)
        )
        for key, group in groups.items()
    }


def word_quality() -> str:
    scores = _quality()
    rows = [
        [name]
        + [
            scores[model, side, threads, word2vec_quality.ALPHA, "auto"]
            for threads in (1, 2)
            for side in ("gensim", "seqkern")
        ]
        for model, name in _QUALITY_ROWS.items()
    ]
    head = [f"{side}, {n}" for n in ("1 thread", "2 threads") for side in ("gensim", "seqkern")]
    return table(["", *head], rows)


def word_variants() -> str:
    """The trainings that differ from those of `word_quality`."""
    rows = []
    for (model, side, threads, alpha, copies), scores in sorted(_quality().items()):
        what = [
            *(["given sentences, not a file"] if side == "gensim-sentences" else []),
            *([f"alpha={alpha:g}"] if alpha != word2vec_quality.ALPHA else []),
            *([f"copies of frequent rows: {copies}"] if copies != "auto" else []),
        ]
        if what:
            count = f"{threads} thread{'s' if threads > 1 else ''}"
            name = side.removesuffix("-sentences")
            rows.append([_QUALITY_ROWS[model], f"{name}, {count}", ", ".join(what), scores])
    return table(["", "trained by", "how", "scores"], rows)


def embedding_steps() -> str:
    """Steps of `nn.SkipGram` against PyTorch's operations."""
    records = [record for record in runs(_WORDS).records if record["domain"] == "embedding"]
    return report.summary(records)
