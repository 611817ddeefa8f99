"""Trainings that diverge say so, and stop."""

from __future__ import annotations

import itertools
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqkern.core.errors import UserError
from seqkern.word2vec import DivergenceError, FastText, KeyedVectors, Progress, Word2Vec, training
from seqkern.word2vec.divergence import LIMIT, Watch
from seqkern.word2vec.placement import Placed
from seqkern.word2vec.tables import zeros
from seqkern.word2vec.training import Schedule
from tests.word2vec.corpora import topic_sentences

SENTENCES = topic_sentences()
SMALL: dict[str, Any] = {"vector_size": 20, "workers": 1, "sample": 0, "alpha": 10.0}
OBJECTIVES = [
    {"sg": sg, "hs": hs, "negative": 0 if hs else 5, "cbow_mean": mean}
    for sg, hs, mean in itertools.product((0, 1), (0, 1), (0, 1))
    if mean or not sg
]


def kinds(**options: Any) -> list[tuple[Any, dict[str, Any]]]:
    return [(Word2Vec, {**SMALL, **options}), (FastText, {**SMALL, **options, "bucket": 200})]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_whatever_is_trained(objective: dict[str, Any], device: str) -> None:
    """ "cpu:0" stands for a GPU: the tables are copied there."""
    for kind, options in kinds(**objective, device=device):
        model = kind(**options)
        model.build_vocab(SENTENCES)
        with pytest.raises(DivergenceError) as caught:
            model.train(SENTENCES)
        assert isinstance(caught.value, UserError) and isinstance(caught.value, ArithmeticError)
        assert re.fullmatch(
            r"training diverged in epoch 1 of 5, before word 24,000 of 120,000, where the learning "
            r"rate went from 10 to 8: the vectors hold .* and are lost\. Start anew .* with a lower"
            r" alpha\. It was 10; usual are 0\.025 \(skip-gram\) and 0\.05 \(CBOW\)",
            str(caught.value),
        ), caught.value


@pytest.mark.parametrize("options", [{"workers": 2}, {"deterministic": True}], ids=str)
def test_however_it_is_trained(options: dict[str, Any]) -> None:
    torch.set_num_threads(2)
    for kind, given in kinds(**options, sg=1):
        with pytest.raises(DivergenceError):
            kind(SENTENCES, **given)


def test_within_a_piece_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PIECE", 2000)
    for kind, options in kinds(alpha=1.0, sg=1):
        heard: list[Progress] = []
        with pytest.raises(DivergenceError, match="in epoch 1 of 5, before word [0-9],[0-9]{3} of"):
            kind(SENTENCES, **options, progress=heard.append)
        assert len(heard) < 5 and all(progress.epoch == 0 for progress in heard)


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_checkpoint_stays(tmp_path: Path, epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a callback saves after an epoch is from before."""
    falling = Schedule.at

    def rising(schedule: Schedule, epoch_now: int, done: float) -> float:
        return falling(schedule, epoch_now, done) if epoch_now < epoch else 10.0

    class Checkpoint:
        def __init__(self, name: str) -> None:
            self.path = tmp_path / name
            self.epochs = 0

        def on_epoch_end(self, model: Word2Vec) -> None:
            self.epochs += 1
            self.path.write_bytes(pickle.dumps(model))
            model.wv.save_word2vec_format(self.path.with_suffix(".vectors"))

    for kind, options in kinds(alpha=0.05, min_alpha=0.05, sg=1):
        checkpoint = Checkpoint(kind.__name__)
        monkeypatch.setattr(Schedule, "at", rising)
        with pytest.raises(DivergenceError, match=f"in epoch {epoch + 1} of 5"):
            kind(SENTENCES, **options, callbacks=[checkpoint])
        assert checkpoint.epochs == epoch
        model = pickle.loads(checkpoint.path.read_bytes())
        assert np.abs(model.wv.vectors).max() < 100
        saved = KeyedVectors.load_word2vec_format(checkpoint.path.with_suffix(".vectors"))
        np.testing.assert_array_equal(saved.vectors, model.wv.vectors)
        monkeypatch.setattr(Schedule, "at", falling)
        model.train(SENTENCES, epochs=1)


def test_afterwards_it_says_so_at_once() -> None:
    for kind, options in kinds(sg=1):
        model = kind(**options)
        model.build_vocab(SENTENCES)
        for message in (
            "training diverged in epoch 1",
            "the vectors hold .* an earlier training diverged",
        ):
            with pytest.raises(DivergenceError, match=message):
                model.train(SENTENCES, start_alpha=10.0)
        with pytest.raises(DivergenceError, match="an earlier training diverged. Start anew"):
            model.train(SENTENCES, start_alpha=0.025)
        model.build_vocab(SENTENCES)
        model.train(SENTENCES, start_alpha=0.025)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), LIMIT, -2 * LIMIT])
class TestWatch:
    """Wherever a number stands that should not be there."""

    def placed(self, rows: int, size: int) -> Placed:
        tables = zeros(rows, size), zeros(rows - 1, size)
        return Placed(*tables, torch.ones(rows), None, None, None, None)

    @pytest.mark.parametrize("size", [1, 16, 20])
    def test_every_number(self, value: float, size: int) -> None:
        placed = self.placed(7, size)
        watch = Watch(placed, len(placed.input_rows))
        for table in (placed.input_rows, placed.output_rows):
            for row, column in itertools.product(range(len(table)), range(size)):
                table[row, column] = value
                for largest in (watch.all(), watch.frequent()):
                    assert not largest < LIMIT
                table[row, column] = 3.0
        assert watch.all() == watch.frequent() == 3

    def test_of_many_rows(self, value: float) -> None:
        placed = self.placed(300_000, 16)
        watch = Watch(placed, len(placed.input_rows))
        for table in (placed.input_rows, placed.output_rows):
            for row in (0, 16_383, 150_000, -16_384, -1):
                table[row, 3] = value
                assert not watch.all() < LIMIT
                assert row == 150_000 or not watch.frequent() < LIMIT
                table[row, 3] = 0


@pytest.mark.parametrize("callbacks", [[], [object()]], ids=["at the end", "after each epoch"])
def test_in_a_bucket_of_ngrams(callbacks: list[object]) -> None:
    """Which no word's own vector shows: by the words' means."""
    model = FastText(**{**SMALL, "alpha": 0.025, "bucket": 200})
    model.build_vocab(SENTENCES)
    row = len(model.wv) + model.wv.subwords.rows("ship")[0]

    def spoil(progress: Progress) -> None:
        if progress.epoch == 4:
            model._input[row, 3] = float("nan")

    model.progress = spoil
    with pytest.raises(DivergenceError, match="in epoch 5 of 5, .*: the vectors hold NaN"):
        model.train(SENTENCES, callbacks=callbacks)


def test_no_rows() -> None:
    placed = Placed(zeros(0, 4), zeros(0, 4), torch.ones(0), None, None, None, None)
    assert Watch(placed, 0).all() == Watch(placed, 0).frequent() == 0
