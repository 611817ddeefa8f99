r"""Philox4x32-10, the random generator behind dropout in attention, in plain PyTorch.

A generator without a state (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as
1, 2, 3"): the random word is a function of a counter and a key, so that a kernel can draw the
number of any element at any time, and again in the backward, without storing a mask. One round
takes the four words of the counter and the two of the key to::

    hi0, lo0 = high and low half of 0xD2511F53 * c0
    hi1, lo1 = high and low half of 0xCD9E8D57 * c2
    c0, c1, c2, c3 = hi1 ^ c1 ^ k0,  lo1,  hi0 ^ c3 ^ k1,  lo0
    k0, k1 = k0 + 0x9E3779B9,  k1 + 0xBB67AE85              (for the next round)

and ten rounds are what the paper recommends. Words are kept in int64, whose product of two words
wraps around to the right 64 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[Tensor, Tensor]) -> Words:
    """Four random words for each counter: int64 tensors that broadcast, values 0 to 2^32 - 1."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32 & _WORD) ^ c1 ^ k0,
            product1 & _WORD,
            (product0 >> 32 & _WORD) ^ c3 ^ k1,
            product0 & _WORD,
        )
        k0, k1 = k0 + _KEY_STEPS[0] & _WORD, k1 + _KEY_STEPS[1] & _WORD
    return c0, c1, c2, c3


def kept(
    seed: Tensor,
    dropout_p: float,
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    *,
    first_batch: int = 0,
) -> Tensor:
    """Which attention weights dropout keeps: bool (batch, heads, queries, keys).

    Element (b, h, i, j) takes word j % 4 of counter (j // 4, i, b * heads + h, 0) under the key
    (low, high half of `seed`), and is kept where the word is at least floor(dropout_p * 2^32).

    Args:
        seed: int64, no dimensions.
        dropout_p: the probability to drop, 0 to 1; 1 drops everything.
        first_batch: the number b of the first of the `batch` entries.
    """
    device = seed.device
    block = torch.arange((keys + 3) // 4, device=device)
    row = torch.arange(queries, device=device)[:, None]
    head = torch.arange(first_batch * heads, (first_batch + batch) * heads, device=device)
    words = philox(
        (block, row, head[:, None, None], torch.zeros_like(block)),
        (seed & _WORD, seed >> 32 & _WORD),
    )
    drawn = torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(-2)[..., :keys]
    threshold = int(dropout_p * 2**32)
    return (drawn >= threshold).view(batch, heads, queries, keys)
