"""Word vectors of gensim and of seqkern judged alike: how good are they after the same training?

``python -m bench.word2vec_quality CORPUS --out FILE.json`` trains every asked combination of
side, model, seed and number of threads on a text file (one sentence a line) and appends one record
a training to FILE.json, a line each. What is in the file already is not trained again, so a run
that was interrupted continues where it stopped, and the two sides may be trained at different
times.

gensim judges both sides, on the data that its wheel carries: WordSim-353 and SimLex-999 (Spearman's
rank correlation with people's judgements of similarity) and the analogies of Mikolov et al. (2013),
in percent of the questions whose four words the vocabulary has.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

from seqkern.word2vec.placement import device_of

MODELS: dict[str, dict[str, int]] = {
    "sg-ns": {"sg": 1, "hs": 0, "negative": 5},
    "cbow-ns": {"sg": 0, "hs": 0, "negative": 5},
    "sg-hs": {"sg": 1, "hs": 1, "negative": 0},
    "cbow-hs": {"sg": 0, "hs": 1, "negative": 0},
}
GENSIM = ("gensim", "gensim-sentences")
"""gensim reading a file, its fastest way, and gensim given sentences. They differ with several
workers: reading a file, each worker lets the learning rate fall by its own words alone, so that it
starts an epoch where it should, and ends it too high (two workers: by half of the epoch's fall)."""
SIDES = (*GENSIM, "seqkern")
SCORES = {"wordsim353": "WordSim-353", "simlex999": "SimLex-999", "analogies": "analogies %"}
ALLOWED = {"wordsim353": 0.015, "simlex999": 0.015, "analogies": 1.0}
"""How far the mean over the seeds may be below gensim's."""
ALPHA = 0.025
"""Both sides' default of the learning rate, and that of a record that says nothing of it."""
CPU = "cpu"
"""Where gensim trains, ours unless another device is asked for, and a record that names none."""
COPIES = {"auto": None, "always": True, "never": False}
"""Whether threads of ours work on copies of frequent rows (see `seqkern.embedding.training`);
"auto", and a record that says nothing: where their processors are far apart."""
_IDENTITY = ("side", "model", "seed", "threads", "epochs", "dim", "corpus")

Record = dict[str, Any]


def train_and_judge(task: Record, corpus: Path) -> Record:
    """One training and its scores."""
    settings: dict[str, Any] = MODELS[task["model"]] | {
        "vector_size": task["dim"],
        "epochs": task["epochs"],
        "seed": task["seed"],
        "workers": task["threads"],
        "alpha": task.get("alpha", ALPHA),
        "window": 5,
        "sample": 1e-3,
        "min_count": 5,
    }
    start = time.perf_counter()
    if task["side"] in GENSIM:
        from gensim.models.word2vec import LineSentence, Word2Vec

        if task["side"] == "gensim":
            vectors = Word2Vec(corpus_file=str(corpus), **settings).wv
        else:
            vectors = Word2Vec(LineSentence(str(corpus)), **settings).wv
    else:
        from gensim.models import KeyedVectors

        import seqkern
        from seqkern.embedding import training
        from seqkern.word2vec import model

        device = task.get("device", CPU)
        train = functools.partial(training.train_, copies=COPIES[task.get("copies", "auto")])
        with mock.patch.object(model, "train_", train):  # which is no argument of Word2Vec
            ours = seqkern.Word2Vec(corpus_file=str(corpus), device=device, **settings).wv
        vectors = KeyedVectors(task["dim"])
        vectors.add_vectors(ours.index_to_key, ours.vectors)
    return task | judge(vectors) | {"seconds": round(time.perf_counter() - start, 1)}


def judge(vectors: Any) -> dict[str, float]:
    """The three scores of gensim ``KeyedVectors``."""
    from gensim.test.utils import datapath

    pairs = {
        name: vectors.evaluate_word_pairs(datapath(file))[1].statistic
        for name, file in (("wordsim353", "wordsim353.tsv"), ("simlex999", "simlex999.txt"))
    }
    analogies, _ = vectors.evaluate_word_analogies(datapath("questions-words.txt"))
    return {name: round(float(score), 5) for name, score in pairs.items()} | {
        "analogies": round(100 * float(analogies), 3)
    }


def read_records(path: Path) -> list[Record]:
    """What earlier runs left; nothing if there were none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def missing(tasks: Iterable[Record], records: Iterable[Record]) -> list[Record]:
    """The tasks that no record answers."""
    done = {_identity(record) for record in records}
    return [task for task in tasks if _identity(task) not in done]


def _identity(record: Record) -> tuple[Any, ...]:
    others = (
        record.get("alpha", ALPHA), record.get("device", CPU), record.get("copies", "auto")
    )  # fmt: skip
    return (*(record[name] for name in _IDENTITY), *others)


def table(records: Sequence[Record]) -> str:
    """Means over the seeds and, where both sides are there, ours minus gensim's.

    Ours at any number of threads is held against gensim's at the same number, or where that was not
    trained against gensim's at any: more threads are meant to make no difference, and for
    a GPU the number has no meaning. Where gensim was trained in both of its ways, ours is held
    against each.
    """
    lines = [
        ["model", "threads", "seeds", *SCORES.values(), "held against", "differences", "met"],
        ["---"] * (len(SCORES) + 6),
    ]
    groups: dict[tuple[str, str, int], list[Record]] = {}
    for record in records:
        device = record.get("device", CPU)
        side = record["side"] + ("" if device == CPU else f" on {device}")
        if "copies" in record:
            side += f", copies {record['copies']}"
        key = (record["model"], side, record["threads"])
        groups.setdefault(key, []).append(record)
    for (model, side, threads), group in sorted(groups.items()):
        scores = {name: mean(record[name] for record in group) for name in SCORES}
        shown = [_score(name, scores[name]) for name in SCORES]
        seeds = " ".join(str(record["seed"]) for record in sorted(group, key=lambda r: r["seed"]))
        line = [f"{model} {side}", str(threads), seeds, *shown]
        peers = [] if side in GENSIM else _peers(groups, model, threads)
        for peer in peers or [[]]:
            against = _comparison(scores, peer) if peer else ["", "", ""]
            lines.append([*line, *against])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _comparison(scores: dict[str, float], peer: Sequence[Record]) -> list[str]:
    """Whom ours is held against, the differences, and whether they are allowed."""
    differences = {name: scores[name] - mean(record[name] for record in peer) for name in SCORES}
    met = all(differences[name] >= -ALLOWED[name] for name in SCORES)
    return [
        f"{len(peer)} of {peer[0]['side']}, {peer[0]['threads']} threads",
        " ".join(_score(name, differences[name], "+") for name in SCORES),
        "yes" if met else "**no**",
    ]


def _score(name: str, value: float, sign: str = "") -> str:
    return f"{value:{sign}.{1 if name == 'analogies' else 3}f}"


def _peers(
    groups: dict[tuple[str, str, int], list[Record]], model: str, threads: int
) -> list[list[Record]]:
    """gensim's trainings in each of its ways."""
    found = []
    for way in GENSIM:
        counts = [count for name, side, count in groups if (name, side) == (model, way)]
        if counts:
            found.append(groups[model, way, threads if threads in counts else max(counts)])
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.word2vec_quality", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="text, one sentence a line")
    parser.add_argument("--out", type=Path, metavar="FILE.json", required=True)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["gensim", "seqkern"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--epochs", type=int, default=5, metavar="N")
    parser.add_argument("--dim", type=int, default=100, metavar="N")
    parser.add_argument("--alpha", type=float, default=ALPHA, metavar="RATE")
    parser.add_argument(
        "--device", default=CPU, help="where ours trains, such as cuda; once, whatever --threads"
    )
    parser.add_argument(
        "--copies", choices=COPIES, default="auto",
        help="of frequent rows, for each thread of ours (default: where processors are far apart)",
    )  # fmt: skip
    options = parser.parse_args(words)
    if not options.corpus.is_file():
        parser.error(f"{options.corpus} is no file")
    try:
        device_of(options.device)
    except ValueError as error:
        parser.error(f"--device: {error}")
    corpus = f"{options.corpus.name}:{os.path.getsize(options.corpus)}"
    asked = [
        {
            "side": side,
            "model": model,
            "seed": seed,
            "threads": threads,
            "epochs": options.epochs,
            "dim": options.dim,
            "corpus": corpus,
            "alpha": options.alpha,
        }
        for seed in options.seeds  # first one seed of everything, for an early look
        for model in options.models
        for threads in options.threads
        for side in options.sides
        if side in GENSIM or options.device == CPU or threads == options.threads[0]
    ]
    for task in asked:
        if task["side"] not in GENSIM and options.device != CPU:
            task["device"] = options.device
        if task["side"] not in GENSIM and options.copies != "auto":
            task["copies"] = options.copies
    tasks = missing(asked, read_records(options.out))
    for number, task in enumerate(tasks, 1):
        record = train_and_judge(task, options.corpus)
        with open(options.out, "a") as file:
            file.write(json.dumps(record) + "\n")
        scores = " ".join(f"{name} {record[name]}" for name in SCORES)
        print(
            f"{number}/{len(tasks)} {task['side']} {task['model']} seed {task['seed']} "
            f"threads {task['threads']}: {scores}",
            flush=True,
        )
    of_corpus = [
        record
        for record in read_records(options.out)
        if (record["corpus"], record["epochs"], record["dim"], record.get("alpha", ALPHA))
        == (corpus, options.epochs, options.dim, options.alpha)
    ]
    print(table(of_corpus))
    return 0


if __name__ == "__main__":
    sys.exit(main())
