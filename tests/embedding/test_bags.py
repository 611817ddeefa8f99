"""SubwordEmbedding and its operator: sums and means of bags of rows."""

from __future__ import annotations

import copy
import pickle
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import seqkern
from seqkern.embedding import ops
from seqkern.nn import SubwordEmbedding
from tests.embedding.cases import KERNEL_DTYPES
from tests.parity import assert_all_parity


class Bags(NamedTuple):
    offsets: Tensor
    rows: Tensor


class Letters:
    """N-grams of one length, their bucket a sum of code points: what `from_words` asks for."""

    buckets = 11

    def rows(self, word: str) -> list[int]:
        marked = f"<{word}>"
        return [sum(map(ord, marked[i : i + 3])) % self.buckets for i in range(len(marked) - 2)]

    def bags(self, words: list[str], first_row: int) -> Bags:
        each = [[i, *(first_row + r for r in self.rows(w))] for i, w in enumerate(words)]
        lengths = torch.tensor([0, *map(len, each)])
        return Bags(lengths.cumsum(0), torch.tensor(sum(each, []), dtype=torch.int32))


def bags(words: int, table_rows: int, longest: int) -> Bags:
    lengths = torch.randint(0, longest + 1, (words,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return Bags(offsets, torch.randint(table_rows, (int(lengths.sum()),)).int())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("features", [1, 20, 100, 300])
def test_parity(features, dtype, mean, backend, isa):
    with seqkern.use_backend(backend):
        check_bags(features, dtype, mean)


def check_bags(features, dtype, mean, count=25):
    """With the backend in use, against torch's embedding_bag; bags that are empty and words that
    occur twice included."""
    made = bags(30, 50, 9)
    words = torch.randint(30, (4, count))
    weight = torch.randn(50, features).to(dtype)
    grad = torch.randn(4, count, features).to(dtype)

    def plain(weight):
        lists = [made.rows[made.offsets[w] : made.offsets[w + 1]] for w in words.flatten()]
        starts = torch.tensor([0, *map(len, lists)]).cumsum(0)[:-1]
        found = F.embedding_bag(
            torch.cat(lists).long(), weight, starts, mode="mean" if mean else "sum"
        )
        return found.view(4, count, features)

    exact, peer = (
        weight.detach().to(d, copy=True).requires_grad_() for d in (torch.float64, dtype)
    )
    reference = [plain(exact), torch.autograd.grad(plain(exact), exact, grad.double())[0]]
    theirs = [plain(peer), torch.autograd.grad(plain(peer), peer, grad)[0]]
    for sparse in (False, True):
        own = weight.detach().clone().requires_grad_()
        found = ops.bag_sum(own, *made, words, mean=mean, sparse=sparse)
        (mine,) = torch.autograd.grad(found, own, grad)
        assert mine.is_sparse == sparse
        assert_all_parity([found, mine.to_dense()], theirs, reference, ("vectors", "weight"))


def test_expanded_gradients_and_no_words():
    made = bags(5, 9, 4)
    weight = torch.randn(9, 6, requires_grad=True)
    ops.bag_sum(weight, *made, torch.arange(5)).sum().backward()
    first = weight.grad.clone()
    ops.bag_sum(weight, *made, torch.arange(5)).backward(torch.ones(5, 6))
    torch.testing.assert_close(weight.grad, 2 * first)
    none = ops.bag_sum(weight, *made, torch.zeros(0, 3, dtype=torch.int64))
    assert none.shape == (0, 3, 6)
    for sparse in (False, True):
        empty = ops.bag_sum(weight, *made, torch.zeros(0, dtype=torch.int64), sparse=sparse)
        (grad,) = torch.autograd.grad(empty.sum(), weight)
        assert not grad.to_dense().any()


def test_vectors_of_strings():
    words = ["cat", "cats", "dog", "a"]
    made = SubwordEmbedding.from_words(words, 6, Letters())
    assert made.weight.shape == (4 + 11, 6)
    assert float(made.weight.abs().max()) <= 1 / 6
    weight = made.weight.detach()
    rows = Letters().rows
    for number, word in enumerate(words):
        own = torch.stack([weight[number], *(weight[4 + r] for r in rows(word))]).mean(0)
        torch.testing.assert_close(made(torch.tensor(number)), own)
    known_and_not = made.vectors(["dog", "catsup", "", "dog"])
    unseen = torch.stack([weight[4 + r] for r in rows("catsup")]).mean(0)
    torch.testing.assert_close(known_and_not[1], unseen)
    torch.testing.assert_close(known_and_not[0], made(torch.tensor(2)))
    assert rows("") == [] and not known_and_not[2].any()
    assert made.vectors([]).shape == (0, 6)
    summed = SubwordEmbedding.from_words(words, 6, Letters(), mean=False, sparse=True)
    summed.load_state_dict(made.state_dict())
    torch.testing.assert_close(summed(torch.tensor(2)), 4 * made(torch.tensor(2)))
    summed(torch.tensor([2, 2])).sum().backward()
    assert summed.weight.grad.is_sparse
    touched = summed.weight.grad._indices()[0].tolist()
    assert touched == sorted(set(touched))


def test_state():
    made = SubwordEmbedding.from_words(["ab", "cd"], 4, Letters())
    assert list(made.state_dict()) == ["weight"]
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other.vectors(["ab", "xy"]), made.vectors(["ab", "xy"]))
    assert "2 words, 4, num_rows=13" in repr(made)
    assert seqkern.explain(made, torch.tensor(0)).backend == "cpu"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_errors(backend):
    right = bags(5, 9, 4)
    made = SubwordEmbedding(right, 6, num_rows=9)
    with seqkern.use_backend(backend):
        with pytest.raises(IndexError, match=r"words\[1\] is 5, it should be in \[0, 5\)"):
            made(torch.tensor([0, 5]))
        with pytest.raises(IndexError, match=r"words is -1, it should be in \[0, 5\)"):
            made(torch.tensor(-1))
        with pytest.raises(RuntimeError, match="words must be int64 or int32, got torch.float32"):
            made(torch.tensor(0.0))
    with pytest.raises(RuntimeError, match="need the module to be made with subwords and words"):
        made.vectors(["x"])
    with pytest.raises(TypeError, match="not one string"):
        SubwordEmbedding.from_words(["ab"], 4, Letters()).vectors("ab")
    for offsets, rows in (
        (right.offsets.int(), right.rows),
        (right.offsets, right.rows.long()),
        (right.offsets + 1, right.rows),
        (right.offsets.flip(0), right.rows),
        (right.offsets, right.rows + 9),
        (right.offsets, right.rows - 9),
    ):
        with pytest.raises(RuntimeError, match=r"bags\."):
            SubwordEmbedding(Bags(offsets, rows), 6, num_rows=9)
        if backend == "cpu" and len(rows):
            with pytest.raises(RuntimeError):
                ops.bag_sum(made.weight, offsets, rows, torch.arange(5))
    with pytest.raises(ValueError, match="words must be as many as the bags, 5, got 1"):
        SubwordEmbedding(right, 6, words=["x"])
    with pytest.raises(ValueError, match="embedding_dim must be 1 or more, got 0"):
        SubwordEmbedding(right, 0)
