"""The training loop against its emulation: every window's step is autograd's."""

from __future__ import annotations

import pytest
import torch

from seqkern.embedding.training import train_
from tests.parity import relative_error

from . import training_cases as cases
from .train_emulation import Emulation, Options

VARIANTS = {
    "skipgram-ns": {},
    "skipgram-ns-per-pair": {"share_negatives": False},
    "skipgram-hs": {},
    "cbow-ns": {},
    "cbow-ns-sum": {"cbow_mean": False},
    "cbow-hs": {},
    "cbow-hs-sum": {"cbow_mean": False},
}


def options_of(variant: str, with_bags: bool, **more) -> dict:
    model, kind = variant.split("-")[:2]
    given = {"model": model, "keep": cases.keep(), **cases.objective(kind), **VARIANTS[variant]}
    if with_bags:
        given["bags"] = cases.bags()
    # Sums over windows of bags are long vectors: at a high rate their steps would overshoot, and
    # the last bit would decide where to.
    lr = 0.02 if with_bags and variant.endswith("sum") else 0.3
    return {**given, "lr": lr, "final_lr": lr / 6, "seed": 7, **more}


def check(options: dict, dim: int, stride: int, dtype=torch.float32, tokens=None, **limits):
    tokens = cases.corpus() if tokens is None else tokens
    rows = cases.WORDS + 20
    input_rows = cases.Guarded(rows, dim, stride, dtype, 0.6)
    output_rows = cases.Guarded(rows, dim, stride, dtype, 0.6)
    before = input_rows.rows.clone(), output_rows.rows.clone()
    emulation = Emulation(*before, Options(**options))
    expected = emulation.run(tokens)
    tally = train_(
        input_rows.rows, output_rows.rows, tokens, threads=1, compute_loss=True, **options
    )
    assert tally[:3] == expected[:3]
    tight = dtype == torch.float32
    assert tally.loss == pytest.approx(expected.loss, rel=1e-5 if tight else 1e-2, nan_ok=True)
    # The change is what is compared: next to the rows themselves it is small.
    for name, ours, theirs, old in (
        ("input_rows", input_rows.rows, emulation.input, before[0]),
        ("output_rows", output_rows.rows, emulation.output, before[1]),
    ):
        error = relative_error(ours.double() - old.double(), theirs - old.double())
        assert error < (2e-5 if tight else 0.05), f"{name}: {error}"
    input_rows.assert_intact()
    output_rows.assert_intact()


@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_window_makes_the_step_of_the_objective(variant, with_bags, isa):
    check(options_of(variant, with_bags), dim=37, stride=48)


@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16(variant, with_bags, isa):
    check(options_of(variant, with_bags), dim=37, stride=64, dtype=torch.bfloat16)


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100, 130])
def test_dimensions(dim, isa):
    check(options_of("skipgram-ns", False), dim, dim)
    check(options_of("cbow-hs", True), dim, dim + 3)


@pytest.mark.parametrize("negatives", [1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 20, 40])
def test_numbers_of_negatives(negatives, isa):
    """Blocks of targets of all sizes, and several of them; negatives that are drawn twice."""
    options = options_of("skipgram-ns", False, negatives=negatives, lr=0.05)
    check(options, 20, 20, tokens=cases.corpus(3))


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 30])
@pytest.mark.parametrize("shrink", [False, True])
def test_window_sizes(window, shrink, isa):
    """All numbers of contexts, and windows longer than sentences."""
    for with_bags in (False, True):
        options = options_of("skipgram-ns", with_bags, window=window, shrink_windows=shrink)
        check(options | {"lr": 0.01}, 20, 20, tokens=cases.corpus(3, longest=70))
