"""Shapes where seqkern was once slower than PyTorch, or nearly: ``python -m bench.random_shapes
--watched`` measures these instead of drawing any."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from . import attention_cases, attention_module_cases, recurrent_cases
from .cases import MODES, Case

FLOAT, BFLOAT = torch.float32, torch.bfloat16

# (T, B, I, H)
LAYERS = {
    ("LSTM", FLOAT, 1, False): [(70, 40, 96, 512), (60, 24, 320, 384), (96, 12, 200, 200)],
    ("LSTM", FLOAT, 2, True): [(50, 24, 384, 384)],
    ("LSTM", BFLOAT, 1, False): [(256, 8, 768, 768), (125, 33, 28, 28)],
}
# (B, I, H)
CELLS = {
    ("RNNCell", FLOAT): [(63, 44, 8)],
    ("LSTMCell", BFLOAT): [(9, 473, 155)],
    ("GRUCell", BFLOAT): [(6, 397, 411)],
}
# (B, H, N, D)
CALLS = [(1, 4, 16, 16), (2, 1, 4, 128), (1, 12, 16, 64), (6, 1, 16, 16), (2, 4, 16, 128)]
# (B, N, E, heads)
MODULES = {
    "inference": [(2, 60, 96, 4), (1, 12, 96, 4), (2, 12, 256, 4), (2, 150, 32, 4)],
    "training": [(2, 50, 64, 4), (4, 200, 256, 8)],
}
ENCODERS = [(2, 23, 192, 8), (1, 22, 48, 2), (3, 117, 174, 2), (3, 45, 60, 2)]


def watched(threads: int) -> dict[str, list[Case]]:
    """The cases of each group, one of `random_cases.GROUPS`, with so many threads."""
    return {
        "recurrent": list(_layers(threads)),
        "cells": list(_cells(threads)),
        "attention": list(_calls(threads)),
        "multihead": list(_modules(threads)),
        "transformer": list(_encoders(threads)),
    }


def _layers(threads: int) -> Iterator[Case]:
    for (cell, dtype, layers, bidirectional), shapes in LAYERS.items():
        family = recurrent_cases.Family(
            cell, dtype, "dense", layers=layers, bidirectional=bidirectional
        )
        for shape in shapes:
            yield recurrent_cases.Case("inference", threads, family, recurrent_cases.Shape(*shape))


def _cells(threads: int) -> Iterator[Case]:
    for (cell, dtype), shapes in CELLS.items():
        for shape in shapes:
            yield recurrent_cases.Case(
                "inference",
                threads,
                recurrent_cases.Family(cell, dtype),
                recurrent_cases.Shape(1, *shape),
            )


def _calls(threads: int) -> Iterator[Case]:
    for shape, dtype, mode in itertools.product(CALLS, (FLOAT, BFLOAT), MODES):
        family = attention_cases.Family("dense", dtype)
        yield attention_cases.Case(mode, threads, family, attention_cases.Shape(*shape))


def _modules(threads: int) -> Iterator[Case]:
    for mode, shapes in MODULES.items():
        for shape in shapes:
            family = attention_module_cases.Family(
                "MultiheadAttention",
                attention_module_cases.Shape(*shape),
                mode,
                padded=False,
                weights=True,
            )
            yield attention_module_cases.Case(mode, threads, family)


def _encoders(threads: int) -> Iterator[Case]:
    for shape in ENCODERS:
        family = attention_module_cases.Family(
            "TransformerEncoderLayer",
            attention_module_cases.Shape(*shape),
            "inference",
            feedforward=4 * shape[2],
        )
        yield attention_module_cases.Case("inference", threads, family)
