"""Several threads: what each part of the tokens does, and the deterministic mode."""

from __future__ import annotations

import os
import time

import pytest
import torch

from seqkern.embedding.training import train_
from tests.limits import HANGS
from tests.parity import relative_error

from . import training_cases as cases
from .test_training import VARIANTS, options_of
from .train_emulation import Emulation, Options


def tables(dtype=torch.float32, dim=20, rows=cases.WORDS + 20):
    torch.manual_seed(5)
    return (torch.randn(rows, dim) * 0.6).to(dtype), (torch.randn(rows, dim) * 0.6).to(dtype)


def trained(options, tokens, dtype=torch.float32, **more):
    input_rows, output_rows = tables(dtype)
    tally = train_(input_rows, output_rows, tokens, compute_loss=True, **options, **more)
    return input_rows, output_rows, tally


@pytest.mark.parametrize("copies", [False, True], ids=["in place", "copies"])
@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
@pytest.mark.parametrize("variant", ["skipgram-ns", "skipgram-hs", "cbow-ns", "cbow-hs"])
def test_parts_one_after_the_other(variant, with_bags, copies, isa):
    """With one thread at work, the parts of three follow each other: the emulation's, with the
    random numbers of each part. Tells whether sentences are cut, and whether what copies of rows
    have gained reaches the tables: between windows, at the end of a part, once."""
    torch.set_num_threads(1)
    options = options_of(variant, with_bags, lr=0.02, final_lr=0.02)
    tokens = cases.corpus(60)
    input_rows, output_rows, tally = trained(options, tokens, threads=3, copies=copies)
    before = tables()
    ends = [0]
    for part in (1, 2, 3):
        at = len(tokens) * part // 3
        while at < len(tokens) and tokens[at - 1] >= 0:
            at += 1
        ends.append(at)
    emulation = None
    pairs = kept = 0
    for part in range(3):
        given = before if emulation is None else (emulation.input, emulation.output)
        emulation = Emulation(*given, Options(**options), part)
        emulation.dtype = torch.float32
        expected = emulation.run(tokens[ends[part] : ends[part + 1]])
        pairs, kept = pairs + expected.pairs, kept + expected.kept
    assert (tally.pairs, tally.kept) == (pairs, kept)
    assert tally.words == int((tokens >= 0).sum())
    for ours, theirs, old in zip(
        (input_rows, output_rows), (emulation.input, emulation.output), before, strict=True
    ):
        assert relative_error(ours.double() - old.double(), theirs - old.double()) < 2e-5


@pytest.mark.parametrize("copies", [None, False, True], ids=["auto", "in place", "copies"])
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", ["ns", "hs"])
def test_threads_learn(kind, threads, copies):
    """The loss falls as with one where the parts follow each other; whatever the threads do to each
    other, which may cost them steps, it falls."""
    options = options_of(f"skipgram-{kind}", False, lr=0.05, final_lr=0.05)
    tokens = torch.cat([cases.corpus(20), torch.tensor([-1], dtype=torch.int32)]).repeat(20)

    def losses(number, at_work):
        torch.set_num_threads(at_work)
        rows = tables()
        found = [
            train_(*rows, tokens, threads=number, copies=copies, compute_loss=True, **options).loss
            for _ in range(2)
        ]
        assert not any(table.isnan().any() for table in rows)
        return found

    alone = losses(1, 1)
    assert losses(threads, 1)[1] == pytest.approx(alone[1], rel=0.02)
    together = losses(threads, threads)
    start = train_(*tables(), tokens, compute_loss=True, **options | {"lr": 0.0, "final_lr": 0.0})
    assert max(together) < (start.loss + alone[0]) / 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_threads_measure_how_far_apart_they_are():
    """As often as it takes until nothing else has a processor meanwhile: a measurement that is
    always wrong never gives this."""
    torch.set_num_threads(2)
    nearest = torch.full((2,), torch.inf, dtype=torch.float64)
    give_up = time.monotonic() + HANGS
    # Nanoseconds. What is interrupted does not count; both counted the same round trips.
    while not (nearest < 20_000).all() or nearest.max() >= 2 * nearest.min() + 50:
        assert time.monotonic() < give_up, nearest
        pair = torch.ops.seqkern.embedding_thread_distances(2)
        # 0: another program had one of the processors, or the thread was not there yet. Nothing
        # goes there and back within 5.
        assert ((pair == 0) | (pair > 5)).all()
        if (pair > 0).all():
            nearest = torch.minimum(nearest, pair)


def test_threads_without_a_partner_measure_nothing():
    torch.set_num_threads(1)
    measure = torch.ops.seqkern.embedding_thread_distances
    assert measure(4).tolist() == [0, 0, 0, 0]
    assert measure(1).tolist() == [0]
    with pytest.raises(RuntimeError, match="threads should be between 1 and 4096, but it is 0"):
        measure(0)


@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
def test_one_thread_repeats_itself(with_bags):
    options = options_of("skipgram-ns", with_bags)
    tokens = cases.corpus(20)
    first, again = (trained(options, tokens, threads=1) for _ in range(2))
    other = trained(options | {"seed": 8}, tokens, threads=1)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_deterministic_for_any_number_of_threads(variant, with_bags, dtype):
    options = options_of(variant, with_bags, deterministic=True)
    tokens = cases.corpus(60)
    torch.set_num_threads(1)
    expected = trained(options, tokens, dtype, threads=1)
    for threads, at_work in ((2, 1), (2, 2), (3, 3), (3, 2), (40, 2)):
        torch.set_num_threads(at_work)
        result = trained(options, tokens, dtype, threads=threads)
        assert torch.equal(result[0], expected[0]), threads
        assert torch.equal(result[1], expected[1]), threads
        assert result[2] == expected[2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_deterministic_makes_the_same_steps(variant, isa):
    """A single sentence is all in one strand, where window follows window as ever."""
    options = options_of(variant, False)
    tokens = (torch.rand(60).square() * cases.WORDS).int()
    input_rows, output_rows, tally = trained(options, tokens, threads=2, deterministic=True)
    emulation = Emulation(*tables(), Options(**options))
    expected = emulation.run(tokens)
    assert tally[:3] == expected[:3]
    assert tally.loss == pytest.approx(expected.loss, rel=1e-5)
    for ours, theirs, old in zip(
        (input_rows, output_rows), (emulation.input, emulation.output), tables(), strict=True
    ):
        assert relative_error(ours.double() - old.double(), theirs - old.double()) < 2e-5


def test_deterministic_bags_give_back_all_their_steps():
    """One sentence no longer than the window: composites neither come late nor leave early, so the
    steps are those of the ordinary mode."""
    options = options_of("skipgram-ns", True, window=20, lr=0.05)
    options["keep"] = torch.ones(cases.WORDS)
    tokens = (torch.rand(18) * cases.WORDS).int()
    one, two = (
        trained(options, tokens, threads=1, deterministic=deterministic)
        for deterministic in (False, True)
    )
    for a, b, old in zip(one[:2], two[:2], tables(), strict=True):
        assert relative_error(a - old, b - old) < 1e-5


@pytest.mark.parametrize("kind", ["ns", "hs"])
def test_deterministic_learns(kind):
    options = options_of(f"skipgram-{kind}", False, lr=0.05, final_lr=0.05)
    tokens = torch.cat([cases.corpus(20), torch.tensor([-1], dtype=torch.int32)]).repeat(20)
    plain, deterministic = (
        trained(options, tokens, threads=1, deterministic=deterministic)[2].loss
        for deterministic in (False, True)
    )
    assert deterministic == pytest.approx(plain, rel=0.02)
