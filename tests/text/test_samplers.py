"""Subsampling, the alias table and the Huffman tree, against their definitions."""

from __future__ import annotations

import heapq
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkern.text import alias_table, huffman, keep_probability


def test_keep_probability_is_word2vecs():
    counts = torch.tensor([900, 90, 9, 1])
    for sample in (1e-3, 1e-4, 0.2):
        for count, kept in zip(
            counts.tolist(), keep_probability(counts, sample).tolist(), strict=True
        ):
            # word2vec.c: (sqrt(cn / (sample * words)) + 1) * (sample * words) / cn
            words = sample * 1000
            formula = (math.sqrt(count / words) + 1) * words / count
            assert kept == pytest.approx(min(1, formula), rel=1e-6)
    kept = keep_probability(counts, 1e-3)
    assert kept.dtype == torch.float32 and kept[0] < 0.05 and kept[-1] == 1


def test_keep_probability_at_the_edges():
    assert keep_probability(torch.tensor([3, 2]), 0).tolist() == [1, 1]
    assert keep_probability(torch.tensor([3, 0]), 1e-3)[1] == 1
    assert keep_probability(torch.tensor([0, 0]), 1e-3).tolist() == [1, 1]
    assert keep_probability(torch.tensor([], dtype=torch.int64), 1e-3).shape == (0,)
    for sample in (-1e-3, math.nan):
        with pytest.raises(ValueError, match="sample should be 0 or positive"):
            keep_probability(torch.tensor([3]), sample)
    with pytest.raises(ValueError, match="counts should not be negative"):
        keep_probability(torch.tensor([-3]), 1e-3)


def table_shares(weights: list[float]) -> list[Fraction]:
    """The probability that a table gives each entry, exactly."""
    table = alias_table(torch.tensor(weights, dtype=torch.float64))
    thresholds = [t & 0xFFFFFFFF for t in table.thresholds.tolist()]
    aliases = table.aliases.tolist()
    share = [Fraction(0)] * len(weights)
    for k, (threshold, alias) in enumerate(zip(thresholds, aliases, strict=True)):
        share[k] += Fraction(threshold, 2**32 * len(weights))
        share[alias] += Fraction(2**32 - threshold, 2**32 * len(weights))
    return share


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(0, 1e300), st.integers(0, 10).map(float), st.just(0.0)),
        min_size=1,
        max_size=60,
    ).filter(any)
)
def test_alias_table_is_exact(weights):
    total = sum(map(Fraction, weights))
    for share, weight in zip(table_shares(weights), weights, strict=True):
        wanted = Fraction(weight) / total
        # The sentence in the docstring.
        assert abs(share - wanted) <= Fraction(1, 2**32 * len(weights)) + wanted / 2**50
        assert share > 0 or wanted < Fraction(1, 2**32 * len(weights))
        assert weight > 0 or share == 0


def test_alias_table_of_many_words():
    counts = (1e8 / torch.arange(1, 50_001, dtype=torch.float64)).floor() ** 0.75
    shares = table_shares(counts.tolist())
    assert sum(shares) == 1
    total = counts.sum()
    worst = max(
        abs(float(s) - float(w / total)) for s, w in zip(shares[::97], counts[::97], strict=True)
    )
    assert worst < 2**-32 / 50_000 * 1.01
    assert table_shares([7.0]) == [1]
    assert table_shares([1.0] * 8) == [Fraction(1, 8)] * 8


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "at least one"),
        ([0.0, 0.0], "should not be all 0"),
        ([1.0, -1.0], "not negative"),
        ([1.0, math.inf], "finite"),
        ([1.0, math.nan], "finite"),
        ([[1.0]], "one dimension; it has 2"),
    ],
)
def test_alias_table_errors(weights, message):
    with pytest.raises(ValueError, match=message):
        alias_table(torch.tensor(weights))


def word2vec_tree(counts: list[int]) -> list[tuple[list[int], list[int]]]:
    """CreateBinaryTree of word2vec.c, array for array."""
    size = len(counts)
    count = counts + [10**18] * (size + 1)
    binary, parent = [0] * (2 * size + 1), [0] * (2 * size + 1)
    pos1, pos2 = size - 1, size
    for a in range(size - 1):
        least = []
        for _ in range(2):
            if pos1 >= 0 and count[pos1] < count[pos2]:
                least.append(pos1)
                pos1 -= 1
            else:
                least.append(pos2)
                pos2 += 1
        count[size + a] = count[least[0]] + count[least[1]]
        parent[least[0]] = parent[least[1]] = size + a
        binary[least[1]] = 1
    paths = []
    for word in range(size):
        nodes, codes, node = [], [], word
        while node != 2 * size - 2:
            codes.append(binary[node])
            nodes.append(parent[node] - size)
            node = parent[node]
        paths.append((nodes[::-1], codes[::-1]))
    return paths


COUNTS = st.lists(st.integers(0, 40), min_size=2, max_size=50).map(
    lambda counts: sorted(counts, reverse=True)
)


@settings(deadline=None)
@given(COUNTS)
def test_huffman_is_word2vecs_tree(counts):
    paths = huffman(torch.tensor(counts))
    offsets = paths.offsets.tolist()
    for word, (nodes, codes) in enumerate(word2vec_tree(counts)):
        span = slice(offsets[word], offsets[word + 1])
        assert paths.nodes[span].tolist() == nodes
        assert paths.codes[span].tolist() == codes
        assert nodes[0] == len(counts) - 2


@settings(deadline=None)
@given(COUNTS)
def test_huffman_is_optimal(counts):
    heap = list(counts)
    heapq.heapify(heap)
    least = 0
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        least += both
        heapq.heappush(heap, both)
    lengths = huffman(torch.tensor(counts)).offsets.diff().tolist()
    assert sum(c * length for c, length in zip(counts, lengths, strict=True)) == least


def test_huffman_of_few_words():
    assert huffman(torch.tensor([], dtype=torch.int64)).offsets.tolist() == [0]
    one = huffman(torch.tensor([5]))
    assert one.offsets.tolist() == [0, 0] and one.nodes.numel() == 0
    two = huffman(torch.tensor([5, 3]))
    assert two.nodes.tolist() == [0, 0] and two.codes.tolist() == [1, 0]
    assert (two.nodes.dtype, two.codes.dtype) == (torch.int32, torch.uint8)


def test_huffman_errors():
    with pytest.raises(ValueError, match="fall or stay"):
        huffman(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="counts should be int64; it is torch.float32"):
        huffman(torch.tensor([2.0, 1.0]))
    with pytest.raises(ValueError, match="below 2\\^63"):
        huffman(torch.tensor([2**62, 2**62]))
