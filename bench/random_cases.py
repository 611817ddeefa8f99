"""Cases of random shapes, the same for the same seed: nobody chose the sizes by hand.

A group is a part of the package; `draw` makes as many different cases of it as are asked for. Sizes
are drawn so that each power of two is as likely as the next, small ones included; what takes long
on one core is drawn again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import torch

from . import attention_cases, attention_module_cases, embedding_cases, recurrent_cases
from .cases import MODES, Case

_DTYPES = (torch.float32, torch.float32, torch.bfloat16)  # float32 twice as often
_MOST_FLOPS = 2e10


def draw(group: str, count: int, seed: int, threads: int) -> list[Case]:
    """Different cases of a group, one of `GROUPS`."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    found: dict[str, Case] = {}
    for case in _endless(group, seed, threads):
        if case.flops <= _MOST_FLOPS:
            found.setdefault(str(case), case)
        if len(found) == count:
            break
    return list(found.values())


def _endless(group: str, seed: int, threads: int) -> Iterator[Case]:
    source = random.Random(f"{group} {seed}")
    while True:
        yield GROUPS[group](source, threads)


def _size(source: random.Random, least: int, most: int) -> int:
    """Whole, with a uniform logarithm."""
    return round(math.exp(source.uniform(math.log(least), math.log(most))))


def _layer(source: random.Random, threads: int) -> Case:
    batch = _size(source, 1, 64)
    family = recurrent_cases.Family(
        source.choice(("LSTM", "LSTM", "GRU", "RNN")),
        source.choice(_DTYPES),
        source.choice(("dense", "dense", "ragged")) if batch > 1 else "dense",
        layers=source.choice((1, 1, 2)),
        bidirectional=source.random() < 0.3,
    )
    time, inputs, hidden = (_size(source, *limits) for limits in ((4, 256), (8, 768), (8, 768)))
    shape = recurrent_cases.Shape(time, batch, inputs, hidden)
    return recurrent_cases.Case(source.choice(MODES), threads, family, shape)


def _cell(source: random.Random, threads: int) -> Case:
    family = recurrent_cases.Family(
        source.choice(("LSTMCell", "GRUCell", "RNNCell")), source.choice(_DTYPES)
    )
    batch, inputs, hidden = (_size(source, *limits) for limits in ((1, 128), (8, 768), (8, 768)))
    shape = recurrent_cases.Shape(1, batch, inputs, hidden)
    return recurrent_cases.Case(source.choice(MODES), threads, family, shape)


def _attention(source: random.Random, threads: int) -> Case:
    family = attention_cases.Family(
        source.choice(("dense", "dense", "causal", "padded", "bias")), source.choice(_DTYPES)
    )
    batch, heads, queries = (_size(source, *limits) for limits in ((1, 8), (1, 16), (4, 1024)))
    other_keys = family.kind == "dense" and source.random() < 0.3
    shape = attention_cases.Shape(
        batch,
        heads,
        queries,
        source.choice((16, 32, 48, 64, 64, 80, 128)),
        keys=_size(source, 4, 1024) if other_keys else None,
    )
    return attention_cases.Case(source.choice(MODES), threads, family, shape)


def _multihead(source: random.Random, threads: int) -> Case:
    heads = source.choice((1, 2, 4, 4, 8, 8, 12))
    shape = attention_module_cases.Shape(
        _size(source, 1, 8), _size(source, 4, 512), heads * _size(source, 8, 64), heads
    )
    family = attention_module_cases.Family(
        "MultiheadAttention",
        shape,
        source.choice(MODES),
        dtype=source.choice(_DTYPES),
        padded=source.random() < 0.3,
        weights=source.random() < 0.6,
    )
    return attention_module_cases.Case(family.mode, threads, family)


def _transformer(source: random.Random, threads: int) -> Case:
    heads = source.choice((1, 2, 4, 8))
    width = heads * max(1, _size(source, 32, 256) // heads)
    shape = attention_module_cases.Shape(_size(source, 1, 8), _size(source, 8, 150), width, heads)
    family = attention_module_cases.Family(
        source.choice(("TransformerEncoderLayer", "TransformerDecoderLayer")),
        shape,
        source.choice(MODES),
        dtype=source.choice(_DTYPES),
        padded=False,
        dropout=source.choice((0.0, 0.1)),
        feedforward=4 * width,
    )
    return attention_module_cases.Case(family.mode, threads, family)


def _skipgram(source: random.Random, threads: int) -> Case:
    family = embedding_cases.Family(
        source.choice(("SparseAdam", "torch SparseAdam", "none", "SGD")),
        source.choice(("uniform", "zipf")),
    )
    limits = ((1000, 100_000), (16, 300), (16, 8192), (1, 15))
    shape = embedding_cases.Shape(*(_size(source, *each) for each in limits))
    return embedding_cases.Case("training", threads, family, shape)


GROUPS: dict[str, Callable[[random.Random, int], Case]] = {
    "recurrent": _layer,
    "cells": _cell,
    "attention": _attention,
    "multihead": _multihead,
    "transformer": _transformer,
    "skipgram": _skipgram,
}
