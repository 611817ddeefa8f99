"""What a training on a GPU draws: windows, kept words and negatives, by their distributions."""

from __future__ import annotations

import pytest
import torch

from seqkern.embedding.triton import windows as device_windows
from seqkern.embedding.triton.windows import Windows, draw_negatives, draw_windows
from tests.embedding import training_cases as cases
from tests.triton_device import DEVICE, RUNS_KERNELS

if RUNS_KERNELS:
    pytestmark = pytest.mark.triton  # on the device as well


def generator(seed: int = 1) -> torch.Generator:
    made = torch.Generator(DEVICE)
    made.manual_seed(seed)
    return made


def windows(tokens: torch.Tensor, **changed) -> Windows:
    options = {
        "keep": torch.ones(cases.WORDS, device=DEVICE), "window": 5, "shrink": True, "cbow": False,
        "share_negatives": True, "generator": generator(), **changed,
    }  # fmt: skip
    return draw_windows(tokens.to(DEVICE), **options)


def contexts(found: Windows) -> list[tuple[int, list[int]]]:
    """Each window's target and places of contexts."""
    columns = (t.tolist() for t in (found.targets, found.low, found.high, found.skipped))
    return [
        (target, [place for place in range(low, high) if place != skipped])
        for target, low, high, skipped in zip(*columns, strict=True)
    ]


def test_windows_of_two_sentences():
    tokens = torch.tensor([1, 2, 3, -1, 4, -1, -1, 5, 6], dtype=torch.int32)
    found = windows(tokens, shrink=False, window=1)
    assert found.words.tolist() == [1, 2, 3, 4, 5, 6] and int(found.read) == 6
    # The word that is alone has no window.
    assert contexts(found) == [(1, [1]), (2, [0, 2]), (3, [1]), (5, [5]), (6, [4])]
    assert int(found.pairs) == 6
    assert int(windows(tokens, shrink=False, window=1, cbow=True).pairs) == 5
    each = windows(tokens, shrink=False, window=1, share_negatives=False)
    assert contexts(each) == [(1, [1]), (2, [0]), (2, [2]), (3, [1]), (5, [5]), (6, [4])]
    assert int(each.pairs) == 6


def test_long_sentences_are_cut(monkeypatch):
    monkeypatch.setattr(device_windows, "LONGEST_SENTENCE", 4)
    found = windows(torch.zeros(10, dtype=torch.int32), shrink=False, window=9)
    assert [places for _, places in contexts(found)][3:5] == [[0, 1, 2], [5, 6, 7]]
    assert int(found.pairs) == 4 * 3 + 4 * 3 + 2


def test_windows_are_uniform_and_even():
    """Each size from 1 to 5 as often as the others, and as far to the left as to the right."""
    found = windows(torch.zeros(50_000, dtype=torch.int32))
    inner = slice(10, -10)
    left = (found.skipped - found.low)[inner]
    right = (found.high - found.skipped - 1)[inner]
    assert torch.equal(left, right)
    shares = torch.bincount(left.long(), minlength=6)[1:].double() / len(left)
    assert len(shares) == 5 and float((shares - 0.2).abs().max()) < 0.01


def test_subsampling_keeps_the_given_share():
    keep = torch.ones(cases.WORDS, device=DEVICE)
    keep[0], keep[1], keep[2] = 0.25, 0.75, 0.0
    tokens = torch.tensor([0, 1, 2, 3, -1], dtype=torch.int32).repeat(20_000)
    counts = torch.bincount(windows(tokens, keep=keep).words, minlength=4).tolist()
    assert counts[0] == pytest.approx(5_000, rel=0.05)
    assert counts[1] == pytest.approx(15_000, rel=0.03)
    assert counts[2:4] == [0, 20_000]


def test_negatives_follow_the_noise():
    """Words 2 and 3 keep half of their quarter, 1 gets the rest: 1/8, 5/8, 1/8, 1/8; thresholds are
    unsigned, and the word 0 keeps 3/4 of its quarter in a second table."""
    half = 2**31 - 1
    for first, shares in ((half, [1, 5, 1, 1]), (-(2**30), [1.5, 4.5, 1, 1])):
        thresholds = torch.tensor([first, half, half, half], dtype=torch.int32, device=DEVICE)
        aliases = torch.ones(4, dtype=torch.int32, device=DEVICE)
        targets = torch.full((40_000,), 9, dtype=torch.int32, device=DEVICE)
        drawn, weights = draw_negatives(targets, thresholds, aliases, 5, generator())
        found = torch.bincount(drawn.flatten(), minlength=4).double() / drawn.numel()
        expected = torch.tensor(shares, device=DEVICE).double() / 8
        torch.testing.assert_close(found, expected, rtol=0.03, atol=0)
        # Whatever is drawn twice counts once with its number.
        assert torch.equal(weights.sum(1), torch.full_like(weights[:, 0], 5))
        assert weights.max() > 1 and weights.min() == 0


def test_repeated_negatives_and_targets_are_left_out():
    drawn = torch.tensor([[3, 4, 3, 5, 3], [1, 1, 2, 2, 7]], device=DEVICE)
    targets = torch.tensor([5, 1], device=DEVICE)
    found = device_windows._weights(drawn, targets)
    assert found.tolist() == [[3, 1, 0, 0, 0], [0, 0, 2, 0, 1]]
