"""opcheck of each operator, memory that was never written, what operators refuse, processes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.library import opcheck

from seqkern.embedding.huffman import huffman_paths
from seqkern.nn import SkipGram
from tests.embedding.cases import KERNEL_DTYPES, Case, check, data, gradients, loss
from tests.forks import results_around_a_fork

M_PERTURB = -6  # mallopt's name for "fill memory on allocation and release"; glibc only
OPS = torch.ops.seqkern


def batch(tree: bool, dtype: torch.dtype = torch.float32) -> tuple:
    """in_weight, out_weight, inputs, targets, negatives, the tree, terms, mean, padding_idx"""
    paths = huffman_paths(torch.rand(9)) if tree else None
    terms = int(torch.diff(paths.offsets).max()) if tree else 4
    return (
        torch.randn(9, 5).to(dtype),
        torch.randn(8 if tree else 9, 5).to(dtype),
        torch.randint(9, (6, 2)),
        torch.randint(9, (6,)),
        None if tree else torch.randint(9, (6, 3)),
        *(paths or (None, None, None)),
        terms,
        True,
        2,
    )


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_opcheck_of_the_objective(tree, dtype):
    arguments = batch(tree, dtype)
    for save in (False, True):
        opcheck(OPS.embedding_objective.default, (*arguments, save))
    found = OPS.embedding_objective(*arguments, True)
    for needs in (1, 2, 3):
        back = (torch.ones_like(found[0]), *found[1:], *arguments, needs)
        opcheck(OPS.embedding_objective_backward.default, back)
        opcheck(OPS.embedding_objective_backward_sparse.default, back)
    opcheck(OPS.embedding_objective_update_.default, (*arguments, 0.1))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_opcheck_of_bags_and_adam(dtype):
    weight = torch.randn(7, 3).to(dtype)
    offsets, rows = torch.tensor([0, 2, 2, 6]), torch.tensor([0, 5, 6, 1, 6, 6]).int()
    words = torch.tensor([2, 0, 2, 1])
    for mean in (True, False):
        opcheck(OPS.embedding_bags.default, (weight, offsets, rows, words, mean))
    grad = torch.randn(4, 3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    opcheck(OPS.embedding_bags_backward.default, (grad, weight, offsets, rows, words))
    opcheck(OPS.embedding_bags_backward_sparse.default, (grad, weight, offsets, rows, words))
    tables = (weight, torch.zeros_like(weight), torch.zeros_like(weight))
    touched, values = torch.tensor([1, 4]), torch.randn(2, 3).to(dtype)
    opcheck(OPS.sparse_adam_.default, (*tables, touched, values, 0.9, 0.99, 1e-8, 0.1))


@pytest.fixture
def poisoned() -> Iterator[None]:
    """New tensors hold NaN (torch fills them), and all other memory huge numbers (the C library
    does): whatever a kernel reads before it wrote it shows."""
    libc = ctypes.CDLL(None)
    perturb = getattr(libc, "mallopt", lambda *_: 0)
    perturb(M_PERTURB, 1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    perturb(M_PERTURB, 0)


@pytest.mark.parametrize("fill", [True, False], ids=["NaN", "huge"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_nothing_reads_memory_that_was_not_written(poisoned, isa, dtype, fill):
    torch.utils.deterministic.fill_uninitialized_memory = fill
    try:
        for case in (
            Case(features=33, padding_idx=5),
            Case(features=7, negatives=None, words=300),
            Case("cbow", features=17, padding_idx=5, window=6),
            Case("cbow", features=20, negatives=None, mean=False, padding_idx=1),
        ):
            check(case, dtype)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True


def test_operators_refuse_what_does_not_fit():
    """They are reachable without the functions that check first, so they stay inside their
    tensors by themselves."""
    good = batch(False)
    forward = OPS.embedding_objective

    def changed(place, value):
        return (*good[:place], value, *good[place + 1 :], True)

    for place, value, message in (
        (0, good[0].half(), "same dtype"),
        (0, good[0][0], "2 dimensions"),
        (0, good[0].t().contiguous().t(), "contiguous rows"),
        (1, torch.randn(9, 4), "same number of features"),
        (2, good[2] + 9, "inputs holds the index"),
        (2, good[2].int(), "inputs should be int64"),
        (2, good[2][:, 0], "inputs should have 2 dimensions"),
        (3, good[3][:2], "targets should have the shape"),
        (3, good[3] - 9, "targets holds the index -"),
        (4, good[4] + 9, "negatives holds the index"),
        (4, None, "either negatives or path_offsets"),
        (8, 9, "negatives should have the shape"),
        (8, -1, "terms should not be negative"),
    ):
        with pytest.raises(RuntimeError, match=message):
            forward(*changed(place, value))
    found = forward(*good, True)
    with pytest.raises(RuntimeError, match="hidden should have the shape"):
        OPS.embedding_objective_backward(found[0], found[1], found[2][:3], *found[3:], *good, 3)
    tree = batch(True)
    with pytest.raises(RuntimeError, match="have at most 1 nodes"):
        forward(*tree[:8], 1, *tree[9:], True)
    table = torch.randn(4, 3)
    for touched, message in (([1, 1], "rows should rise"), ([1, 4], "rows holds the index 4")):
        with pytest.raises(RuntimeError, match=message):
            OPS.sparse_adam_(
                table, table.clone(), table.clone(), torch.tensor(touched), torch.randn(2, 3),
                0.9, 0.99, 1e-8, 0.1,
            )  # fmt: skip


def test_many_rows_and_ties():
    """Tables of more rows than one pass of the sort tells apart, and rows that occur often."""
    for words in (2**11, 2**11 + 1, 2**22 + 3):
        case = Case(words=words, features=2, examples=0, negatives=2)
        d = data(case)
        few = torch.tensor([0, 1, words // 2, words - 2, words - 1])
        d.center, d.context = few[torch.randint(5, (300,))], few[torch.randint(5, (300,))]
        d.negatives = few[torch.randint(5, (300, 2))]
        tables = d.tables(torch.float32)
        small = Case(words=5, features=2, examples=300, negatives=2)
        place = {int(word): i for i, word in enumerate(few)}
        e = data(small)
        e.in_weight, e.out_weight = (t.detach()[few] for t in tables)
        for name in ("center", "context", "negatives"):
            old = getattr(d, name)
            setattr(e, name, torch.tensor([place[int(w)] for w in old.flatten()]).view(old.shape))
        right = e.tables(torch.float32)
        expected = gradients(loss(small, e, right), right)
        for sparse in (False, True):
            found = gradients(loss(case, d, tables, sparse=sparse), tables)
            torch.testing.assert_close(found[0], expected[0])
            for mine, other in zip(found[1:], expected[1:], strict=True):
                torch.testing.assert_close(mine[few], other)
                assert float(mine.abs().sum()) == pytest.approx(float(other.abs().sum()), rel=1e-5)


def step(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = SkipGram(200, 30)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    ids = torch.randint(200, (7, 500), generator=generator)
    made.update_(ids[0], ids[1], ids[2:].t(), lr=0.01)
    made(ids[0], ids[1], ids[2:].t()).backward()
    return torch.cat([w for p in made.parameters() for w in (p.detach(), p.grad)])


def test_several_threads_of_python_at_once():
    torch.set_num_threads(2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(step, [1, 2, 3, 4] * 3))
    for i, result in enumerate(found):
        assert torch.equal(result, step([1, 2, 3, 4][i % 4]))


def step_sum(seed: int) -> float:
    return float(step(seed).double().sum())


def test_after_a_fork():
    before, in_child, after = results_around_a_fork(step_sum, 1)
    assert before == in_child == after
