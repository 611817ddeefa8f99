"""More tokens than 32 bits count, in a file with holes and in memory that is never written, so that
they take neither disk nor memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from seqkern.embedding.training import Tally, train_
from seqkern.text import EncodedCorpus
from seqkern.text.corpus import HEADER_BYTES, Sizes, map_tokens
from seqkern.word2vec.training import PIECE, Schedule, Training
from tests.embedding.training_cases import noise

TAIL = torch.tensor([1, 2, 3, 1, 2, -1], dtype=torch.int32)
TOKENS = 2**31 + PIECE + len(TAIL)
WORDS = 5


@pytest.fixture
def corpus(tmp_path: Path) -> EncodedCorpus:
    """The word 0 over and over, a sentence a piece, and at the end a sentence of others."""
    path = tmp_path / "ids"
    with open(path, "wb") as file:
        for end in range(PIECE, TOKENS, PIECE):
            file.seek(HEADER_BYTES + 4 * (end - 1))
            file.write(TAIL[-1:].numpy().tobytes())
        file.seek(HEADER_BYTES + 4 * (TOKENS - len(TAIL)))
        file.write(TAIL.numpy().tobytes())
    if os.stat(path).st_blocks * 512 > 2**28:
        pytest.skip("the file system keeps no holes in files")
    sentences = TOKENS // PIECE + 1
    sizes = Sizes(TOKENS, TOKENS - sentences, sentences, WORDS)
    with open(path, "rb") as file:
        return EncodedCorpus(path, sizes, map_tokens(file.fileno(), TOKENS, path))


def test_every_token_is_in_one_piece_and_the_rate_falls_to_the_end(corpus: EncodedCorpus) -> None:
    seen, rates = 0, []

    def step(tokens: torch.Tensor, lr: float, final_lr: float, seed: int) -> Tally:
        nonlocal seen
        # Where it begins in the whole corpus, by address: contents say nothing, most are zeros.
        assert (tokens.data_ptr() - corpus.tokens.data_ptr()) // 4 == seen
        seen += len(tokens)
        rates.append((lr, final_lr))
        return Tally(len(tokens), 0, 0, None)

    Training(corpus, TOKENS, step, Schedule(1.0, 0.0, 1), (1,)).epoch(0, None)
    assert seen == TOKENS
    assert len(rates) == TOKENS // PIECE + 1
    assert rates[0][0] == 1 and rates[-1][1] == 0
    assert all(a[1] == b[0] for a, b in zip(rates, rates[1:], strict=False))


def test_one_call_reaches_the_last_sentence() -> None:
    """The word 0 is always thinned out, so that only the last sentence moves the tables."""
    tokens = torch.from_numpy(np.zeros(TOKENS, np.int32))
    tokens[-len(TAIL) :] = TAIL
    tokens[TOKENS // 2 + 10] = -1  # so that each thread has a part
    rows = torch.rand(WORDS, 8), torch.rand(WORDS, 8)
    before = rows[0].clone()
    keep = torch.tensor([0.0, *[1.0] * (WORDS - 1)])
    tally = train_(
        *rows, tokens, model="skipgram", keep=keep, noise=noise(WORDS), lr=0.1, final_lr=0.1,
        seed=1, threads=2,
    )  # fmt: skip
    assert tally.words == TOKENS - 2 and tally.kept == len(TAIL) - 1
    assert (rows[0] != before).any(1).tolist() == [False, True, True, True, False]
