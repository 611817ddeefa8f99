"""What the trainer refuses, counts, and does with odd input."""

from __future__ import annotations

import math

import pytest
import torch

from seqkern.embedding.training import train_

from . import training_cases as cases
from .train_emulation import Bags, Noise

WORDS = cases.WORDS


def given(**changed):
    arguments = {
        "input_rows": torch.randn(WORDS, 8),
        "output_rows": torch.randn(WORDS, 8),
        "tokens": torch.arange(WORDS, dtype=torch.int32),
        "model": "skipgram",
        "keep": torch.ones(WORDS),
        "noise": cases.noise(),
        "lr": 0.1,
        "final_lr": 0.0,
        "seed": 1,
        "threads": 1,
    }
    return {**arguments, **changed}


def with_paths(**changed):
    paths = cases.huffman()._replace(**changed)
    return {"noise": None, "paths": paths}


def run(arguments):
    return train_(**arguments)


def ids(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


BOTH = torch.randn(2 * WORDS, 8)


ERRORS = [
    ({"model": "glove"}, ValueError, "model must be 'skipgram' or 'cbow', got 'glove'"),
    ({"noise": None}, ValueError, "got neither of them"),
    ({"paths": cases.huffman()}, ValueError, "got both of them"),
    (
        {"tokens": ids(1, 2, WORDS, 3)},
        RuntimeError,
        "tokens .* 0 to 29, or -1, .* element 2 is 30",
    ),
    ({"tokens": ids(1, -2)}, RuntimeError, "tokens .* element 1 is -2"),
    ({"tokens": ids(*[1] * 9000, 2**31 - 1)}, RuntimeError, "element 9000 is 2147483647"),
    ({"tokens": torch.arange(5)}, RuntimeError, "tokens should be int32"),
    ({"tokens": ids(1, 2)[None]}, RuntimeError, "tokens should have 1 dimension"),
    ({"keep": torch.ones(WORDS).double()}, RuntimeError, "keep should be float32"),
    ({"keep": torch.full((WORDS,), math.nan)}, RuntimeError, "keep .* element 0 is nan"),
    ({"keep": torch.full((WORDS,), 1.5)}, RuntimeError, "keep .* element 0 is 1.5"),
    ({"keep": torch.ones(WORDS + 1)}, RuntimeError, "output_rows .* each of the 31"),
    ({"window": 0}, RuntimeError, "window should be between 1 and 10000, but it is 0"),
    ({"window": 2**40}, RuntimeError, "window should be between 1 and 10000"),
    ({"negatives": 0}, RuntimeError, "negatives should be between 1 and"),
    ({"threads": 0}, RuntimeError, "threads should be 1 or more, but it is 0"),
    ({"threads": 2**40}, RuntimeError, "threads should be at most"),
    ({"lr": -0.1}, RuntimeError, "lr should be a finite number"),
    ({"lr": math.nan}, RuntimeError, "lr should be a finite number"),
    ({"final_lr": math.inf}, RuntimeError, "final_lr should be a finite number"),
    (
        {"input_rows": torch.randn(WORDS, 8).double()},
        RuntimeError,
        "input_rows should be float32 or",
    ),
    ({"input_rows": torch.randn(WORDS, 8).bfloat16()}, RuntimeError, "output_rows .* dtype"),
    ({"input_rows": torch.randn(WORDS - 1, 8)}, RuntimeError, "input_rows .* each of the 30"),
    ({"input_rows": torch.randn(WORDS, 9)}, RuntimeError, "output_rows .* 9 columns, .* has 8"),
    ({"input_rows": torch.randn(WORDS)}, RuntimeError, "input_rows should have the shape"),
    ({"input_rows": torch.randn(8, WORDS).t()}, RuntimeError, "input_rows .* contiguous rows"),
    ({"input_rows": torch.randn(8).expand(WORDS, 8)}, RuntimeError, "input_rows .* overlap"),
    ({"input_rows": torch.randn(WORDS, 8, device="meta")}, RuntimeError, "input_rows .* CPU"),
    (
        {"input_rows": BOTH[:WORDS], "output_rows": BOTH[WORDS - 1 : -1]},
        RuntimeError,
        "share memory",
    ),
    ({"noise": Noise(ids(1, 2), ids(1, 2))}, RuntimeError, r"noise.thresholds .* \(30,\)"),
    (
        {"noise": Noise(ids(*[0] * WORDS), ids(*[0] * 29, 30))},
        RuntimeError,
        "noise.aliases .* element 29 is 30",
    ),
    (with_paths(nodes=ids(1)), RuntimeError, "paths.codes should have the shape"),
    (
        with_paths(offsets=torch.arange(WORDS + 1)),
        RuntimeError,
        "paths.offsets should end with",
    ),
    (
        with_paths(offsets=torch.arange(WORDS)),
        RuntimeError,
        "paths.offsets should have the shape",
    ),
    (
        {**with_paths(), "output_rows": torch.randn(WORDS - 2, 8)},
        RuntimeError,
        "paths.nodes .* less than 28, .* is 28",
    ),
    (
        with_paths(codes=cases.huffman().codes + 1),
        RuntimeError,
        "paths.codes should be 0 or 1, but element",
    ),
    (
        {"bags": Bags(torch.arange(WORDS + 1), ids(*range(1, WORDS + 1)))},
        RuntimeError,
        "bags.rows .* element 29 is 30",
    ),
    (
        {"bags": Bags(torch.arange(WORDS + 1).flip(0), ids(*range(WORDS)))},
        RuntimeError,
        "bags.offsets should begin with 0, but it begins with 30",
    ),
]


@pytest.mark.parametrize("changed, error, message", ERRORS, ids=str)
def test_errors_name_the_argument_and_leave_the_tables(changed, error, message):
    arguments = given(**changed)
    tables = [arguments["input_rows"], arguments["output_rows"]]
    before = [table.clone() for table in tables]
    with pytest.raises(error, match=message):
        run(arguments)
    for table, old in zip(tables, before, strict=True):
        assert table.is_meta or torch.equal(table, old)


@pytest.mark.parametrize("tokens", [ids(), ids(-1), ids(-1, -1, 3, -1), ids(3)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_nothing_to_train(tokens, deterministic):
    arguments = given(tokens=tokens, compute_loss=True, deterministic=deterministic, threads=2)
    before = arguments["input_rows"].clone(), arguments["output_rows"].clone()
    tally = run(arguments)
    words = int((tokens >= 0).sum())
    assert tally[:3] == (words, words, 0)
    assert math.isnan(tally.loss)
    assert torch.equal(arguments["input_rows"], before[0])
    assert torch.equal(arguments["output_rows"], before[1])


def test_no_words_at_all():
    empty = torch.empty(0, 8)
    nothing = Noise(ids(), ids())
    arguments = given(
        input_rows=empty, output_rows=empty.clone(), tokens=ids(), keep=empty[:, 0], noise=nothing
    )
    assert run(arguments) == (0, 0, 0, None)


def test_counts():
    """Every word kept, windows of one: two pairs for each neighbourhood."""
    tokens = ids(1, 2, 3, -1, 4, -1, 5, 6)
    tally = run(given(tokens=tokens, window=1))
    assert tally == (6, 6, 6, None)
    assert run(given(tokens=tokens, window=1, model="cbow"))[:3] == (6, 6, 5)
    assert run(given(tokens=tokens, keep=torch.zeros(WORDS)))[:3] == (6, 0, 0)


def test_subsampling_keeps_the_given_share():
    keep = torch.ones(WORDS)
    keep[0], keep[1] = 0.25, 0.75
    tokens = torch.tensor([0, 1, 2, -1], dtype=torch.int32).repeat(20_000)
    tally = run(given(tokens=tokens, keep=keep, lr=0.0))
    assert tally.kept == pytest.approx(40_000, rel=0.01)


def test_negatives_follow_the_noise():
    """With the rows at zero the first steps of the outputs tell how often each was drawn: the
    centre word goes up by lr / 2 per pair, a negative down."""
    thresholds = torch.full((4,), 2**31 - 1, dtype=torch.int32)  # half
    noise = Noise(thresholds, ids(1, 1, 1, 1))
    # Words 2 and 3 keep half of their quarter, 1 gets the rest: 1/8, 5/8, 1/8, 1/8.
    input_rows, output_rows = torch.full((4, 1), 1e-4), torch.zeros(4, 1)
    tokens = ids(*[0, 0, -1] * 20_000)
    train_(
        input_rows, output_rows, tokens, model="skipgram", keep=torch.ones(4), noise=noise,
        window=1, lr=1e-6, final_lr=1e-6, seed=3, threads=1,
    )  # fmt: skip
    drawn = -output_rows[1:, 0] / (1e-4 * 1e-6 / 2) / 40_000 / 5
    torch.testing.assert_close(drawn, torch.tensor([5, 1, 1]) / 8, rtol=0.02, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("model", ["skipgram", "cbow"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_numbers_that_are_none_do_not_crash(bad, model, deterministic, isa):
    for objective in ({}, with_paths()):
        arguments = given(model=model, deterministic=deterministic, compute_loss=True, **objective)
        arguments["input_rows"][7, 3] = bad
        run(arguments)
        if math.isnan(bad):
            assert arguments["input_rows"][7].isnan().any()
            assert arguments["output_rows"].isnan().any()


def test_saturated_products():
    """Products far beyond the sigmoid's range: steps of lr or none, and a loss of at most 87 a
    term."""
    rows = torch.full((WORDS, 8), 1e6)
    tally = run(given(input_rows=rows, output_rows=rows.clone(), compute_loss=True, lr=1e-3))
    assert rows.isfinite().all()
    assert 0 < tally.loss <= 6 * 87


def test_seeds_of_any_size():
    tables = []
    for seed in (5, 5 + 2**64, -1, 2**64 - 1):
        torch.manual_seed(0)
        arguments = given(seed=seed)
        run(arguments)
        tables.append(arguments["input_rows"])
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[2], tables[3])
    assert not torch.equal(tables[0], tables[2])


def test_parameters_and_versions():
    """Tables that require a gradient are trained, and autograd learns that they were written."""
    weight = torch.nn.Parameter(torch.randn(WORDS, 8))
    old, version = weight.detach().clone(), weight._version
    kept_for_backward = (weight * weight).sum()
    run(given(input_rows=weight))
    assert not torch.equal(weight, old)
    assert weight._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept_for_backward.backward()


def test_long_sentences_span_batches():
    """One sentence of 20,000 words: every window once, the learning rate down to its end."""
    tokens = torch.randint(0, WORDS, (20_000,)).int()
    tally = run(given(tokens=tokens, window=1))
    assert tally.pairs == 2 * 20_000 - 2


def test_very_long_sentences_are_cut():
    """After 2^20 words: as if a sentence ended there."""
    longest = 2**20
    tokens = torch.zeros(2 * longest + 5, dtype=torch.int32)
    rows = torch.zeros(WORDS, 1)
    tally = run(given(input_rows=rows, output_rows=rows.clone(), tokens=tokens, window=1))
    assert tally[:2] == (len(tokens), len(tokens))
    assert tally.pairs == 2 * (len(tokens) - 3)


def test_the_operator_by_opcheck():
    a = given(tokens=ids(1, 2, 3, -1, 4, 5))
    arguments = (
        a["input_rows"], a["output_rows"], a["tokens"], a["keep"], *a["noise"], *[None] * 5,
        False, 5, True, 5, True, True, 0.1, 0.1, 1, 1, False, True, -1,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.seqkern.embedding_train_.default, arguments)
