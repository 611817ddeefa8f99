"""The specification itself, against loops over single numbers, and its random generator against
published numbers."""

from __future__ import annotations

import math

import pytest
import torch

from seqkern.attention import reference
from seqkern.attention.philox import kept, philox
from tests.attention.cases import OPTIONS_OF_THE_REFERENCE, some_tensors

WORD = 0xFFFFFFFF


def philox_by_hand(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 on Python's integers, after the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (second >> 32) ^ c[1] ^ k[0],
            second & WORD,
            (first >> 32) ^ c[3] ^ k[1],
            first & WORD,
        ]
        k = [(k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD]
    return tuple(c)


@pytest.mark.parametrize(
    "counter, key, words",
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers(counter, key, words):
    """The known-answer vectors that Random123 publishes for philox4x32-10."""
    found = philox(tuple(torch.tensor(c) for c in counter), tuple(torch.tensor(k) for k in key))
    assert tuple(int(word) for word in found) == words
    assert philox_by_hand(counter, key) == words


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 7, 2**63 - 1])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_which_weights_are_kept(seed, p):
    batch, heads, queries, keys = 2, 3, 4, 7
    found = kept(torch.tensor(seed), p, batch, heads, queries, keys)
    assert found.shape == (batch, heads, queries, keys) and found.dtype == torch.bool
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                for j in range(keys):
                    counter = (j // 4, i, b * heads + h, 0)
                    word = philox_by_hand(counter, (seed & WORD, seed >> 32))[j % 4]
                    assert bool(found[b, h, i, j]) == (word >= math.floor(p * 2**32))
    assert torch.equal(
        kept(torch.tensor(seed), p, 1, heads, queries, keys, first_batch=1), found[1:]
    )


def by_hand(tensors: dict, options: dict, b: int, h: int, i: int) -> tuple[list[float], float]:
    """One row of the output and its lse, with Python's floats."""
    numbers = {name: t.tolist() for name, t in tensors.items() if t is not None}
    batch, heads, queries, width = tensors["query"].shape
    shared = heads // tensors["key"].shape[1]
    keys = tensors["key"].shape[2]
    q, key = numbers["query"][b][h][i], numbers["key"][b][h // shared]
    value = numbers["value"][b][h // shared]
    left, right = options.get("window", (-1, -1))
    seed = options.get("seed")
    scores: dict[int, float] = {}
    for j in range(keys):
        s = sum(x * y for x, y in zip(q, key[j], strict=True))
        s *= options.get("scale") or 1 / math.sqrt(width)
        if options.get("softcap"):
            s = options["softcap"] * math.tanh(s / options["softcap"])
        if "bias" in numbers:
            s += tensors["bias"].expand(batch, heads, queries, keys)[b, h, i, j].item()
        at = i + keys - queries
        if "alibi_slopes" in numbers:
            slopes = numbers["alibi_slopes"]
            s -= (slopes[b][h] if isinstance(slopes[0], list) else slopes[h]) * abs(at - j)
        seen = s > -math.inf
        if "mask" in numbers:
            seen &= tensors["mask"].expand(batch, heads, queries, keys)[b, h, i, j].item()
        seen &= not (options.get("is_causal") and j > i)
        seen &= not (left >= 0 and j < at - left) and not (right >= 0 and j > at + right)
        if seen:
            scores[j] = s
    total = sum(math.exp(s) for s in scores.values())
    if "sinks" in numbers:
        total += math.exp(numbers["sinks"][h])
    output = [0.0] * len(value[0]) if keys else [0.0] * tensors["value"].shape[3]
    for j, s in scores.items():
        weight = math.exp(s) / total
        if options.get("dropout_p"):
            p, number = options["dropout_p"], int(seed)
            counter = (j // 4, i, b * heads + h, 0)
            word = philox_by_hand(counter, (number & WORD, number >> 32))[j % 4]
            weight = weight / (1 - p) if word >= math.floor(p * 2**32) else 0.0
        output = [o + weight * v for o, v in zip(output, value[j], strict=True)]
    return output, math.log(total) if total else -math.inf


@pytest.mark.parametrize("name", OPTIONS_OF_THE_REFERENCE)
def test_every_option_against_loops_over_numbers(name):
    tensors, options = some_tensors(name)
    output, lse = reference.attention(**tensors, **options)
    batch, heads, queries, _ = tensors["query"].shape
    for b in range(batch):
        for h in range(heads):
            for i in range(queries):
                row, total = by_hand(tensors, options, b, h, i)
                assert output[b, h, i].tolist() == pytest.approx(row, rel=1e-12, abs=1e-13)
                assert lse[b, h, i].item() == pytest.approx(total, rel=1e-12)


def test_no_option_is_without_effect():
    sums = [round(float(_sum(name)), 9) for name in OPTIONS_OF_THE_REFERENCE]
    assert len(set(sums)) == len(sums)


def _sum(name: str) -> torch.Tensor:
    tensors, options = some_tensors(name)
    output, lse = reference.attention(**tensors, **options)
    return output.sum() + lse.masked_fill(lse.isinf(), 0).sum()


def test_varlen_is_one_call_for_each_sequence():
    starts_q, starts_k = [0, 3, 3, 8], [0, 5, 7, 7]
    q, k, v = torch.randn(8, 4, 6), torch.randn(7, 2, 6), torch.randn(7, 2, 5)
    slopes, seed = torch.rand(3, 4), torch.tensor(11)
    output, lse = reference.varlen_attention(
        q, k, v, torch.tensor(starts_q), torch.tensor(starts_k), alibi_slopes=slopes,
        dropout_p=0.4, seed=seed, is_causal=True,
    )  # fmt: skip
    assert output.shape == (8, 4, 5) and lse.shape == (4, 8)
    for b in range(3):
        rows, keys = slice(*starts_q[b : b + 2]), slice(*starts_k[b : b + 2])
        one = [t[r].transpose(0, 1)[None] for t, r in ((q, rows), (k, keys), (v, keys))]
        expected, total = reference.attention(
            *one, alibi_slopes=slopes[b], dropout_p=0.4, seed=seed, is_causal=True, sequence=b
        )
        assert torch.equal(output[rows], expected[0].transpose(0, 1))
        assert torch.equal(lse[:, rows], total[0])
