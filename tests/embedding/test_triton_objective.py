"""Losses, gradients and steps of skip-gram and CBOW by Triton's kernels, against plain PyTorch.

`tests.triton_device` says where the kernels run. Both ways of summing rows are taken: by atomics,
and sorted, which torch.use_deterministic_algorithms asks for and 16-bit tables take anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.library import opcheck

import seqkern
from seqkern.core.triton import support
from seqkern.nn import functional as SF
from tests.embedding import test_operators, test_update
from tests.embedding.cases import Case, check, data, gradients, loss
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton
OPS = torch.ops.seqkern
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(DEVICE), seqkern.use_backend("triton"):
        yield


@pytest.fixture(params=["atomic", "sorted"])
def sums(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Sorted: with short pieces, so that few entries are several of them."""
    from seqkern.embedding.triton import rows, settings

    monkeypatch.setattr(settings, "CHUNK", 16)
    taken: list[str] = []
    atomic, pieces = rows._atomic, rows._pieces
    monkeypatch.setattr(rows, "_atomic", lambda *a: [taken.append("atomic"), atomic(*a)])
    monkeypatch.setattr(rows, "_pieces", lambda *a: [taken.append("sorted"), pieces(*a)])
    torch.use_deterministic_algorithms(request.param == "sorted")
    yield request.param
    torch.use_deterministic_algorithms(False)
    assert request.param in taken, "the rows were summed in another way"


CASES = [
    Case(examples=7),
    Case(examples=6, negatives=None, words=9),
    Case("cbow", examples=5, window=11, features=33),
    Case("cbow", examples=5, negatives=None, mean=False, words=9, padding_idx=2),
    Case(examples=9, padding_idx=0, words=4, negatives=9),  # a tile of terms and one more
    Case(examples=3, features=130, negatives=2),
    Case(examples=2, features=1, negatives=0),
    Case("cbow", examples=4, window=3, words=2, padding_idx=1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("guarded_launches")
def test_float32(case, sums):
    check(case, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("case", CASES[1:5:2], ids=str)
@pytest.mark.usefixtures("guarded_launches")
def test_other_dtypes(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("case", [Case(examples=0), Case("cbow", examples=3, window=0)], ids=str)
def test_no_examples_or_none_that_counts(case):
    check(case, torch.float32)


@pytest.mark.usefixtures("guarded_launches")
def test_rows_in_many_places(sums):
    """Three words in 30 examples: their pieces fill several chunks, and end within one."""
    check(Case(words=3, examples=30, negatives=4, features=5), torch.float32)


UPDATES = [
    Case(examples=6),
    Case("cbow", examples=5, negatives=None, mean=False, words=9, window=2),
    Case(words=3, examples=12, negatives=4, padding_idx=1, features=33),
    Case(examples=0),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", UPDATES, ids=str)
@pytest.mark.usefixtures("guarded_launches")
def test_one_step(case, dtype):
    test_update.check_one_step(case, dtype)


def test_steps_are_summed_both_ways(sums):
    test_update.check_one_step(UPDATES[2], torch.float32)


def test_a_step_writes_between_the_rows_of_other_tables():
    """Rows that are parts of wider ones: what lies between them stays, and so do other rows."""
    memory = torch.full((6, 9), torch.nan)
    table, other = memory[:, :5].copy_(torch.randn(6, 5)), torch.randn(6, 5)
    before = memory.clone()
    examples = seqkern.embedding.batch.skipgram(
        table, other, torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([[5], [0]]), None, -1
    )
    seqkern.embedding.ops.update_(table, other, examples, 0.5)
    changed = (memory != before) & ~memory.isnan()
    assert changed.nonzero()[:, 0].unique().tolist() == [1, 2]
    assert memory[:, 5:].isnan().all()


def test_the_same_bits_each_time():
    """Whatever ran before: sorted sums have one order, and another batch beside them has none."""
    case = Case(words=3, examples=20, negatives=3, features=7)
    d = data(case)
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            tables = d.tables(torch.float32)
            results.append(gradients(loss(case, d, tables), tables))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("filling", [torch.nan, torch.inf])
@pytest.mark.parametrize("case", [Case(examples=8), Case("cbow", examples=6)], ids=str)
def test_what_is_left_out_may_hold_anything(case, filling):
    case = Case(**{**case.__dict__, "padding_idx": 4, "words": 7})
    d = data(case)
    results = []
    for value in (0.0, filling):
        d.in_weight[4] = d.out_weight[4] = value
        tables = d.tables(torch.float32)
        results.append(gradients(loss(case, d, tables), tables))
    for mine, other in zip(*results, strict=True):
        assert mine.isfinite().all()
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_propagate_as_in_pytorch(bad):
    v, u = torch.randn(6, 20), torch.randn(6, 20)
    v[1, 3] = bad
    ids = torch.tensor([1, 2]), torch.tensor([3, 4]), torch.tensor([[0], [5]])
    results = []
    for backend in ("triton", "reference"):
        with seqkern.use_backend(backend):
            tables = (v.clone().requires_grad_(), u.clone().requires_grad_())
            results.append(gradients(SF.skipgram_loss(*tables, *ids), tables))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_scores(dtype):
    """log sigma neither overflows nor loses its digits; the logarithm of 1 + x has them all."""
    scores = torch.tensor([0.0, 0.3, 1.0, 8.0, 20.0, 60.0, 85.0, 5000.0], dtype=dtype)
    scores = torch.cat([scores, -scores])
    zero = torch.zeros(1, dtype=torch.int64)
    for score in scores:
        tables = (score.view(1, 1), torch.ones(1, 1, dtype=dtype))
        found = SF.skipgram_loss(*tables, zero, zero, zero[None, :0])
        exact = -torch.nn.functional.logsigmoid(score.double())
        # The hardware's exponential of -60 has an argument rounded to 24 bits.
        loose = 1e-5 if dtype == torch.float32 else 1e-14
        torch.testing.assert_close(found.double(), exact, rtol=loose, atol=1e-37)


def test_sparse_gradients_rise():
    case = Case(examples=9, padding_idx=3, words=12)
    d = data(case)
    tables = d.tables(torch.float32)
    grads = torch.autograd.grad(loss(case, d, tables, sparse=True), tables)
    kept = (d.center != 3) & (d.context != 3)
    touched = [d.center[kept], torch.cat([d.context[kept], d.negatives[kept].flatten()])]
    for grad, words in zip(grads, touched, strict=True):
        assert grad.is_coalesced()
        assert grad._indices()[0].tolist() == sorted(set(words.tolist()) - {3})


@pytest.mark.parametrize("tree", [False, True])
def test_the_operators_contract(tree):
    arguments = test_operators.batch(tree)
    tests = ("test_schema", "test_faketensor")
    for save in (False, True):
        opcheck(OPS.embedding_objective_triton.default, (*arguments, save), test_utils=tests)
    found = OPS.embedding_objective_triton(*arguments, True)
    for needs in (1, 2, 3):
        back = (torch.ones_like(found[0]), *found[1:], *arguments, needs)
        opcheck(OPS.embedding_objective_backward_triton.default, back, test_utils=tests)
        opcheck(OPS.embedding_objective_backward_sparse_triton.default, back, test_utils=tests)
    opcheck(OPS.embedding_objective_update_triton_.default, (*arguments, 0.1), test_utils=tests)


@pytest.mark.skipif(not support.INTERPRETED, reason="compares with the CPU's kernels")
@pytest.mark.parametrize("tree", [False, True])
def test_what_is_saved_does_not_depend_on_what_ran(tree):
    arguments = test_operators.batch(tree)
    by_triton = OPS.embedding_objective_triton(*arguments, True)
    compiled = OPS.embedding_objective(*arguments, True)
    for mine, other in zip(by_triton, compiled, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "place, change, says",
    [
        (0, lambda t: t.half(), "same dtype and device"),
        (0, lambda t: t[0], "in_weight should have 2 dimensions"),
        (0, lambda t: t.t().contiguous().t(), "in_weight should have contiguous rows"),
        (0, lambda t: t.int(), "in_weight should be of one of"),
        (1, lambda t: t[:, :4], "same number of features"),
        (2, lambda t: t.int(), "inputs should be int64"),
        (2, lambda t: t[:, 0], "inputs should have 2 dimensions"),
        (3, lambda t: t[:2], r"targets should have the shape \[6\], but has \[2\]"),
        (4, lambda t: None, "either negatives or path_offsets"),
        (8, lambda n: 9, r"negatives should have the shape \[6, 8\]"),
        (8, lambda n: -1, "terms should not be negative"),
    ],
)
def test_arguments_that_do_not_fit(place, change, says):
    good = test_operators.batch(False)
    with pytest.raises(RuntimeError, match=says):
        OPS.embedding_objective_triton(*good[:place], change(good[place]), *good[place + 1 :], True)


def test_saved_tensors_are_checked():
    good = test_operators.batch(False)
    found = OPS.embedding_objective_triton(*good, True)
    with pytest.raises(RuntimeError, match=r"hidden should have the shape \[6, 5\]"):
        OPS.embedding_objective_backward_triton(
            found[0], found[1], found[2][:3], *found[3:], *good, 3
        )
    with pytest.raises(RuntimeError, match="coefficients should be float32"):
        OPS.embedding_objective_backward_triton(*found[:4], found[4].double(), *good, 3)
    with pytest.raises(RuntimeError, match="grad_loss should be one number"):
        OPS.embedding_objective_backward_triton(found[2], *found[1:], *good, 3)
    with pytest.raises(RuntimeError, match="in_weight should have rows that do not overlap"):
        OPS.embedding_objective_update_triton_(good[0][:1].expand(9, 5), *good[1:], 0.1)


@pytest.mark.skipif(DEVICE != "cpu", reason="there it is a device-side assertion")
@pytest.mark.parametrize("bad", [-1, 8, 2**40])
def test_indices_out_of_range(bad):
    """They are no addresses, the tables stay as they are, and the error names the argument."""
    v, u = torch.randn(8, 4), torch.randn(8, 4)
    right, wrong = torch.tensor([1, 2]), torch.tensor([3, bad])
    before = v.clone(), u.clone()
    for ids, name in (
        ((wrong, right, right[:, None]), r"center\[1\]"),
        ((right, wrong, right[:, None]), r"context\[1\]"),
        ((right, right, wrong[:, None]), r"negatives\[1, 0\]"),
    ):
        with pytest.raises(IndexError, match=rf"{name} is {bad}, it should be in \[0, 8\)"):
            SF.skipgram_loss(v, u, *ids)
        made = seqkern.nn.SkipGram(8, 4)
        made.in_embed.weight.data, made.out_embed.weight.data = v, u
        with pytest.raises(IndexError, match=name):
            made.update_(*ids, lr=1.0)
    assert torch.equal(v, before[0]) and torch.equal(u, before[1])


@pytest.mark.skipif(DEVICE != "cpu", reason="there it is a device-side assertion")
def test_a_tree_that_does_not_fit():
    from seqkern.embedding.huffman import huffman_paths

    right = huffman_paths(torch.rand(8))
    every = torch.arange(8)
    for paths in (
        right._replace(nodes=right.nodes + 100),
        right._replace(nodes=-right.nodes - 1),
        right._replace(offsets=right.offsets + 5),
    ):
        with pytest.raises(RuntimeError, match=r"paths\."):
            SF.skipgram_loss(torch.randn(8, 4), torch.randn(8, 4), every, every, paths=paths)


def test_compiled_whole():
    case = Case(examples=5)
    d = data(case)
    tables = d.tables(torch.float32)

    def run(v, u):
        return SF.skipgram_loss(v, u, d.center, d.context, d.negatives)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for mine, other in zip(
        gradients(compiled(*tables), tables), gradients(run(*tables), tables), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_autocast_changes_nothing():
    case = Case(examples=4)
    d = data(case)
    tables = d.tables(torch.float32)
    expected = gradients(loss(case, d, tables), tables)
    with torch.autocast(DEVICE.partition(":")[0], dtype=torch.bfloat16):
        found = gradients(loss(case, d, tables), tables)
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other)


def test_second_derivatives_are_those_of_the_reference():
    d = data(Case(examples=3))
    case = Case(examples=3)

    def second(backend: str) -> torch.Tensor:
        tables = d.tables(torch.float32)
        with seqkern.use_backend(backend):
            (first,) = torch.autograd.grad(loss(case, d, tables), tables[:1], create_graph=True)
        return torch.autograd.grad(first.square().sum(), tables[1])[0]

    torch.testing.assert_close(second("triton"), second("reference"), rtol=1e-4, atol=1e-6)


def test_sanitizer():
    """What compute-sanitizer runs on a GPU: both ways of summing, trees and negatives."""
    for case in (Case(examples=4), Case("cbow", examples=4, negatives=None, words=9)):
        check(case, torch.float32)
        check(case, torch.bfloat16)
        test_update.check_one_step(case, torch.float32)
