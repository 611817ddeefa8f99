"""What a training on a GPU goes through: the windows of a piece of the text, and their negatives.

All of it is drawn on the device of the tokens, by a generator that the call's seed starts, with
torch's own operators: a few dozen launches for a piece of a million tokens. They write and read
some 100 bytes for each word, where its window moves thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST_SENTENCE = 2**20
"""Kept words; what is longer is cut, as on the CPU."""
_COMPARISONS = 2**26  # of negatives with each other at once


@dataclass(frozen=True)
class Windows:
    """Centre words with their contexts, in the order of the text.

    Attributes:
        words: int32 (n,), the words that subsampling kept.
        targets: int32 (M,), what each window predicts.
        low, high: int32 (M,): its contexts are words[low:high]
        skipped: int32 (M,): without this place; -1 where there is none to leave out.
        read: how many of the tokens are words.
        pairs: how many predictions there are, as `training.Tally` counts them.
    """

    words: Tensor
    targets: Tensor
    low: Tensor
    high: Tensor
    skipped: Tensor
    read: Tensor
    pairs: Tensor

    def __len__(self) -> int:
        return len(self.targets)


def draw_windows(
    tokens: Tensor,
    keep: Tensor,
    window: int,
    shrink: bool,
    cbow: bool,
    share_negatives: bool,
    generator: torch.Generator,
) -> Windows:
    """See `training.train_` for the arguments. Every context is a window of its own where
    negatives are not shared (skip-gram). Windows without contexts are left out."""
    device = tokens.device
    is_word = tokens >= 0
    drawn = torch.rand(len(tokens), generator=generator, device=device)
    kept = is_word & (drawn < keep[tokens.clamp(min=0).long()]) if len(keep) else is_word
    places = kept.nonzero()[:, 0]
    words = tokens[places]
    first, last = _sentences((~is_word).cumsum(0)[places])
    place = torch.arange(len(words), device=device)
    if shrink:
        reach = torch.randint(1, window + 1, (len(words),), generator=generator, device=device)
    else:
        reach = torch.full((len(words),), window, device=device)
    low = torch.maximum(first, place - reach)
    high = torch.minimum(last, place + reach + 1)
    counts = high - low - 1
    pairs = (counts > 0).sum() if cbow else counts.sum()
    centre = (counts > 0).nonzero()[:, 0]
    low, high, skipped = low[centre], high[centre], centre
    if not (share_negatives or cbow):
        counts = counts[centre]
        owner = torch.repeat_interleave(counts)
        within = torch.arange(len(owner), device=device) - (counts.cumsum(0) - counts)[owner]
        low = low[owner] + within
        centre = centre[owner]
        low = low + (low >= centre)
        high, skipped = low + 1, torch.full_like(low, -1)
    return Windows(words, words[centre], low.int(), high.int(), skipped.int(), is_word.sum(), pairs)


def _sentences(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Where the sentence of each word begins and ends, from the rising numbers of sentences."""
    place = torch.arange(len(numbers), device=numbers.device)
    first = torch.searchsorted(numbers, numbers)
    last = torch.searchsorted(numbers, numbers, right=True)
    first = first + (place - first) // LONGEST_SENTENCE * LONGEST_SENTENCE
    return first, torch.minimum(last, first + LONGEST_SENTENCE)


def draw_negatives(
    targets: Tensor,
    thresholds: Tensor,
    aliases: Tensor,
    negatives: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Of each window: int32 (M, K) words, and float32 (M, K), how often each counts.

    One that is the target itself does not count; of those that are drawn several times the first
    counts for all, because a window is one step at the rows as they were.

    Args:
        thresholds, aliases: of `training.Noise`.
    """
    device, shape = targets.device, (len(targets), negatives)
    entries = torch.randint(max(len(aliases), 1), shape, generator=generator, device=device)
    fractions = torch.randint(2**32, shape, generator=generator, device=device)
    below = fractions < (thresholds.long() & 0xFFFFFFFF)[entries]
    drawn = torch.where(below, entries, aliases.long()[entries]).int()
    return drawn, torch.cat(
        [
            _weights(part, of)
            for part, of in zip(
                drawn.split(max(1, _COMPARISONS // negatives**2)),
                targets.split(max(1, _COMPARISONS // negatives**2)),
                strict=True,
            )
        ]
    )


def _weights(drawn: Tensor, targets: Tensor) -> Tensor:
    equal = drawn[:, :, None] == drawn[:, None, :]
    repeats = equal.tril(-1).any(2)
    return equal.sum(2).masked_fill(repeats | (drawn == targets[:, None]), 0).float()


def context_keys(
    windows: Windows, chosen: Tensor, slots: int, bags: tuple[Tensor, Tensor] | None, longest: int
) -> Tensor:
    """The input rows that the contexts of some windows add to: int32 (n, slots), or with bags
    (n, slots, longest); -1 where there is none.

    Args:
        chosen: int64 (n,), numbers of windows; one beyond them has no contexts.
    """
    real, chosen = _existing(windows, chosen)
    low, high, skipped = (t[chosen].long() for t in (windows.low, windows.high, windows.skipped))
    place = low[:, None] + torch.arange(slots, device=low.device)
    place = place + ((place >= skipped[:, None]) & (skipped >= 0)[:, None])
    real = real[:, None] & (place < high[:, None])
    words = windows.words[torch.where(real, place, 0)]
    if bags is None:
        return words.masked_fill(~real, -1)
    offsets, rows = bags
    begin, end = (offsets[words.long() + i][..., None] for i in (0, 1))
    at = begin + torch.arange(longest, device=low.device)
    real = real[..., None] & (at < end)
    return _at(rows, torch.where(real, at, 0)).masked_fill(~real, -1)


def target_keys(
    windows: Windows,
    chosen: Tensor,
    noise: tuple[Tensor, Tensor] | None,
    paths: tuple[Tensor, Tensor] | None,
    terms: int,
) -> Tensor:
    """The output rows of the targets of some windows: int32 (n, terms); -1 where there is none.

    Args:
        noise: negatives and weights, as `draw_negatives` gives them; else
        paths: offsets and nodes.
    """
    real, chosen = _existing(windows, chosen)
    targets = windows.targets[chosen]
    if noise is not None:
        negatives, weights = (t[chosen] for t in noise)
        keys = torch.cat([targets[:, None], negatives.masked_fill(weights == 0, -1)], 1)
    else:
        assert paths is not None
        offsets, nodes = paths
        at = offsets[targets.long()][:, None] + torch.arange(terms, device=targets.device)
        inside = at < offsets[targets.long() + 1][:, None]
        keys = _at(nodes, torch.where(inside, at, 0)).masked_fill(~inside, -1)
    return keys.masked_fill(~real[:, None], -1)


def _existing(windows: Windows, chosen: Tensor) -> tuple[Tensor, Tensor]:
    real = chosen < len(windows)
    return real, torch.where(real, chosen, 0)


def _at(values: Tensor, places: Tensor) -> Tensor:
    """values[places], where there may be no values at all and all places are 0."""
    return values[places] if len(values) else values.new_zeros(places.shape)
