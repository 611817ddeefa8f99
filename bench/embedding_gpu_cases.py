"""Word vectors on a GPU: steps of `nn.SkipGram` against plain PyTorch on the same GPU, and the
trainer against gensim on the same machine's CPUs, with as many threads as it is fastest with.

The trainer's bytes are its floor (`word2vec_cases.cost`): each output row of a window read and
written once, each context row once for its whole stay in the window.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import seqkern

from . import embedding_cases, word2vec_cases
from .embedding_cases import Family, Plain, Shape
from .gpu import Case

SHAPES = tuple(
    Shape(100_000, features, pairs, 5) for pairs in (8192, 65_536) for features in (100, 300)
)
OPTIMIZERS = ("none", "SparseAdam", "SGD")
PASSES = 4
"""Over the text: in fewer, vectors have learnt little and agree on little."""


def cases(device: torch.device) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        yield from trainings(Path(folder), device)
    for shape in SHAPES:
        for optimizer in OPTIMIZERS:
            yield step(shape, optimizer, device)


def step(shape: Shape, optimizer: str, device: torch.device) -> Case:
    """Forward, backward and the optimizer's step; for "SGD" ours is `update_`. What is compared is
    the loss, at first that of the same tables."""
    of_cpu = embedding_cases.Case("training", 1, Family(optimizer), shape)
    batch = [t.to(device) for t in of_cpu.indices()]
    torch.manual_seed(1)
    with torch.device(device):
        plain = Plain(shape)
    ours = seqkern.nn.SkipGram(shape.words, shape.features, sparse=True, device=device)
    ours.load_state_dict(plain.state_dict())
    theirs = embedding_cases.Contestant(plain, lambda: plain(*batch), optimizer)
    if optimizer == "SGD":
        mine: Any = embedding_cases.Update(ours, batch)
    else:
        mine = embedding_cases.Contestant(ours, lambda: ours(*batch), optimizer)
    return Case(
        f"{of_cpu.row} {shape}", lambda: mine()[0], lambda: theirs()[0], bytes=of_cpu.bytes_read
    )


def trainings(folder: Path, device: torch.device) -> Iterator[Case]:
    """Some passes over the text by each side; what is compared is the cosines of frequent words."""
    try:
        import gensim  # noqa: F401
    except ImportError:
        print("gensim is not installed: the trainer has no peer and is left out", file=sys.stderr)
        return
    corpus = word2vec_cases.make_corpus(folder)
    for dim in (100, 300):
        row = word2vec_cases.Row(f"skip-gram NS d={dim}", dim, None, 0, {"sg": 1})
        yield training(row, corpus, device)


def training(row: word2vec_cases.Row, corpus: word2vec_cases.Corpus, device: torch.device) -> Case:
    """It includes copying the tables to the GPU and back. Both sides train alike, so in the
    end both have seen the same text as often, and can be judged."""
    sides = word2vec_cases.Contestants(row, corpus, PASSES, device=device)
    threads = sides.use_the_peers_best()
    words = PASSES * corpus.part_words

    def theirs() -> Tensor:
        sides.train_theirs()
        return sides.agree()[1][0]

    return Case(
        f"training {row.name} {words} words gensim {threads} threads",
        lambda: sides.train_ours()[0],
        theirs,
        bytes=word2vec_cases.cost(row, sides.ours).bytes * words,
        tolerance=word2vec_cases.AGREEMENT,
        rounds=2,  # a pass of gensim takes seconds
        quality=sides.judged,
    )
