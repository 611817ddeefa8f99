"""The noise distribution of negative sampling, drawn with torch's generator by an alias table."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_STEPS = 2**32
POWER = 0.75
"""Of the word counts (Mikolov et al. 2013)."""


class AliasTable(NamedTuple):
    """Walker's alias method: draw k uniformly from [0, V) and u from [0, 2^32); the word is k where
    u < thresholds[k], else aliases[k]. Probabilities are within 2^-32 / V of the exact ones for
    each entry that contributes to a word."""

    thresholds: Tensor
    """int64 (V,), 0 to 2^32"""
    aliases: Tensor
    """int64 (V,)"""


def noise_weights(
    counts: Tensor | None, words: int, padding_idx: int, device: torch.device | str = "cpu"
) -> Tensor:
    """counts ** 0.75, or 1 for each word where there are no counts; 0 for the padding index.

    Raises:
        ValueError: `counts` is not `words` numbers from 0 up, some of them positive.
    """
    if counts is None:
        weights = torch.ones(words, dtype=torch.float64, device=device)
    else:
        weights = checked_counts(counts, words).to(device) ** POWER
    if padding_idx >= 0:
        weights[padding_idx] = 0
    if not bool(weights.sum() > 0):
        raise ValueError(
            f"noise_counts must be positive for some word besides padding_idx, of {words} words"
        )
    return weights


def checked_counts(counts: Tensor, words: int) -> Tensor:
    """The counts as float64. Raises ValueError unless they are `words` finite numbers from 0 up."""
    counts = torch.as_tensor(counts)
    if tuple(counts.shape) != (words,):
        raise ValueError(
            f"noise_counts must have the shape [{words}], one number for each word, got "
            f"{list(counts.shape)}"
        )
    numbers = counts.to(torch.float64)
    if words and not (bool(torch.isfinite(numbers).all()) and bool((numbers >= 0).all())):
        raise ValueError("noise_counts must be finite numbers from 0 up")
    return numbers


def alias_table(weights: Tensor) -> AliasTable:
    """The table that draws k with probability weights[k] / sum.

    Vose's sweep (1991) without a loop: entries below the mean are filled up, in their order, by
    those above it in theirs, so that two running sums pair small entries with large ones.

    Args:
        weights: (V,), not negative, some positive; V > 0.
    """
    scaled = weights.double() * (len(weights) / weights.double().sum())
    small, large = (scaled < 1).nonzero()[:, 0], (scaled >= 1).nonzero()[:, 0]
    thresholds = torch.ones_like(scaled)
    aliases = torch.arange(len(scaled), device=scaled.device)
    if len(small) and len(large):
        wanted = (1 - scaled[small]).cumsum(0)
        offered = (scaled[large] - 1).cumsum(0)
        # A small entry takes from the first large one that has something left.
        before = torch.cat([wanted.new_zeros(1), wanted[:-1]])
        giver = torch.searchsorted(offered, before, right=True).clamp(max=len(large) - 1)
        thresholds[small] = scaled[small]
        aliases[small] = large[giver]
        # A large entry that a small one leaves below the mean is filled up by the next large one.
        taker = torch.searchsorted(wanted, offered)
        ends = (taker < len(small)) & (
            torch.arange(len(large), device=taker.device) + 1 < len(large)
        )
        left = 1 + offered - wanted[taker.clamp(max=len(small) - 1)]
        thresholds[large[ends]] = left[ends].clamp(0, 1)
        aliases[large[:-1][ends[:-1]]] = large[1:][ends[:-1]]
    return AliasTable((thresholds * _STEPS).round().long(), aliases)


def draw(table: AliasTable, shape: tuple[int, ...]) -> Tensor:
    """int64 numbers of this shape, independent, by torch's generator of the table's device."""
    thresholds, aliases = table
    k = torch.randint(len(thresholds), shape, device=thresholds.device)
    u = torch.randint(_STEPS, shape, device=thresholds.device)
    return torch.where(u < thresholds[k], k, aliases[k])
