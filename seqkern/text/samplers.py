"""Subsampling, negative sampling and the Huffman tree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqkern.core.library import require_text


class AliasTable(NamedTuple):
    """Draws words in constant time: take k uniformly from [0, V) and u uniformly from [0, 2^32);
    the word is k if u < thresholds[k], else aliases[k].

    (A. J. Walker, ACM TOMS 3, 1977; M. D. Vose, IEEE TSE 17, 1991.) `alias_table` makes it.
    """

    thresholds: Tensor
    """int32 (V,): the bits of unsigned 32-bit numbers."""
    aliases: Tensor
    """int32 (V,)."""


class HuffmanPaths(NamedTuple):
    """The paths from the root of the Huffman tree to every word: word i takes the entries
    offsets[i] to offsets[i + 1] of the other two."""

    offsets: Tensor
    """int64 (V + 1,)."""
    nodes: Tensor
    """int32 (L,): inner nodes, numbered 0 to V - 2; a path begins with the root, V - 2."""
    codes: Tensor
    """uint8 (L,): word2vec.c's code at each node; the label that the node learns is 1 - code."""


def keep_probability(counts: Tensor, sample: float) -> Tensor:
    """word2vec's subsampling: the probability with which each occurrence of a word is kept.

    With f a word's share of all counts and t = `sample`: min(1, sqrt(t / f) + t / f), as in
    word2vec.c. (The paper, Mikolov et al. 2013, has sqrt(t / f).) gensim's default is t = 1e-3,
    fastText's 1e-4.

    Args:
        counts: (V,), not negative.
        sample: t, from 0 on; 0 keeps everything.

    Returns:
        float32 (V,); 1 for a word with the count 0.

    Raises:
        ValueError: `sample` is negative or no number, or a count is negative.
    """
    if not sample >= 0:
        raise ValueError(f"sample should be 0 or positive; it is {sample}")
    counts = counts.to(torch.float64)
    if bool((counts < 0).any()):
        raise ValueError("counts should not be negative")
    if sample == 0:
        return torch.ones(counts.shape, dtype=torch.float32)
    ratio = sample * counts.sum() / counts
    return (ratio.sqrt() + ratio).nan_to_num(nan=1.0).clamp(max=1.0).to(torch.float32)


def alias_table(weights: Tensor) -> AliasTable:
    """The table that draws i with the probability weights[i] / sum(weights).

    The table is exact for probabilities q_i / (V * 2^32) with whole q_i, which are less than 1
    away from the weights' share: each probability is within 2^-32 / V (and a relative 2^-50, the
    rounding of the division) of what was asked for. A weight of 0 is never drawn.

    Args:
        weights: (V,), finite, not negative and not all 0; computed in float64.

    Returns:
        The thresholds and aliases, each (V,), int32.

    Raises:
        ValueError, TypeError: `weights` are not so.
        RuntimeError: the text core is not built.
    """
    values = _numbers(weights, "weights").to(torch.float64)
    if len(values) == 0 or not bool(values.isfinite().all()) or bool((values < 0).any()):
        raise ValueError("weights should be finite and not negative, and at least one")
    if not bool((values > 0).any()):
        raise ValueError("weights should not be all 0")
    thresholds, aliases = require_text().alias_table(values.numpy())
    return AliasTable(torch.from_numpy(thresholds.view(np.int32)), torch.from_numpy(aliases))


def huffman(counts: Tensor) -> HuffmanPaths:
    """word2vec.c's Huffman tree: of two nodes with the same count an inner one goes before a word,
    and a rarer word's successor in the vocabulary before the word.

    Args:
        counts: int64 (V,), not negative and not increasing; their sum fits int64.

    Returns:
        The path to every word, the root first.

    Raises:
        ValueError, TypeError: `counts` are not so.
        RuntimeError: the text core is not built.
    """
    values = _numbers(counts, "counts")
    if values.dtype != torch.int64:
        raise ValueError(f"counts should be int64; it is {values.dtype}")
    if bool((values < 0).any()) or bool((values[1:] > values[:-1]).any()):
        raise ValueError("counts should not be negative and should fall or stay")
    if float(values.to(torch.float64).sum()) >= 2.0**63:
        raise ValueError("the sum of counts should be below 2^63")
    parts = require_text().huffman(values.numpy())
    return HuffmanPaths(*map(torch.from_numpy, parts))


def _numbers(values: Tensor, name: str) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} should be a tensor; it is a {type(values).__name__}")
    if values.dim() != 1:
        raise ValueError(f"{name} should have one dimension; it has {values.dim()}")
    return values.detach().cpu().contiguous()
