"""The tables that training changes: one row of float32 for each word, bucket or inner node."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_LINE = 16  # float32 in a cache line, 64 bytes


def padded_width(size: int) -> int:
    """The features of a row that ends where a cache line does, for `size` features or more."""
    return -(-size // _LINE) * _LINE


def zeros(rows: int, size: int) -> Tensor:
    """A table of zeros, shape (rows, size). Its rows begin at whole cache lines, so that no two
    threads write into one line for two rows.

    The memory is numpy's, which asks the system for huge pages where an array is large: rows are
    visited in no order, and with small pages nearly every visit would miss the TLB.
    """
    padded = padded_width(size)
    memory = np.zeros(rows * padded + _LINE, np.float32)
    start = -(memory.ctypes.data // 4) % _LINE
    return torch.from_numpy(memory[start : start + rows * padded]).view(rows, padded)[:, :size]


def fill_random(table: Tensor, seed: int) -> None:
    """Uniform in [-1, 1) / size: gensim 4's initialisation, bit for bit where the words come in the
    same order.

    word2vec.c's own initialisation has half these bounds.
    """
    rows, size = table.shape
    generator = np.random.default_rng(seed)
    at_once = max(1, 2**22 // size)  # numpy draws the same numbers however they are cut
    for start in range(0, rows, at_once):
        part = table[start : start + at_once]
        drawn = generator.random(tuple(part.shape), dtype=np.float32)
        drawn *= 2.0
        drawn -= 1.0
        drawn /= size
        part.copy_(torch.from_numpy(drawn))
