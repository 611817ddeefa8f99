"""Derivatives of any order, function transforms and forward mode."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import seqkern
from seqkern.embedding import ops, reference
from seqkern.embedding.huffman import huffman_paths
from seqkern.nn import functional as SF
from tests.embedding.cases import Case, data, loss

CASES = [
    Case(words=6, features=3, examples=4, negatives=2, padding_idx=1),
    Case(words=6, features=3, examples=4, negatives=None),
    Case("cbow", words=6, features=3, examples=4, window=3, negatives=2, padding_idx=1),
    Case("cbow", words=6, features=3, examples=4, window=3, negatives=None, mean=False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradcheck(case):
    d = data(case, torch.float64)
    tables = d.tables(torch.float64)

    def run(*tables):
        return loss(case, d, tables)

    assert torch.autograd.gradcheck(run, tables)
    assert torch.autograd.gradgradcheck(run, tables)
    half = (tables[0].detach(), tables[1])
    assert torch.autograd.gradcheck(lambda u: run(half[0], u), half[1:])
    assert torch.autograd.gradcheck(lambda v: run(v, tables[1].detach()), tables[:1])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_transforms(case):
    """Under torch.func and with tangents the reference runs; nothing else can."""
    d = data(case, torch.float64)
    tables = tuple(t.detach() for t in d.tables(torch.float64))

    def run(*tables):
        return loss(case, d, tables)

    leaves = d.tables(torch.float64)
    expected = torch.autograd.grad(run(*leaves), leaves)
    for mine, other in zip(torch.func.grad(run, argnums=(0, 1))(*tables), expected, strict=True):
        torch.testing.assert_close(mine, other)

    tangents = tuple(torch.randn_like(t) for t in tables)
    _, by_transform = torch.func.jvp(run, tables, tangents)
    slope = sum((g * t).sum() for g, t in zip(expected, tangents, strict=True))
    torch.testing.assert_close(by_transform, slope)
    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(*pair) for pair in zip(tables, tangents, strict=True)]
        torch.testing.assert_close(forward_ad.unpack_dual(run(*dual)).tangent, slope)

    many = tuple(torch.stack([t, 2 * t]) for t in tables)
    torch.testing.assert_close(
        torch.func.vmap(run)(*many), torch.stack([run(*tables), run(*(2 * t for t in tables))])
    )
    hessian = torch.func.hessian(lambda u: run(tables[0], u))(tables[1])
    again = torch.autograd.functional.hessian(lambda u: run(tables[0], u), tables[1])
    torch.testing.assert_close(hessian, again)


def test_bags():
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    offsets, rows = torch.tensor([0, 2, 2, 6]), torch.tensor([0, 5, 6, 1, 6, 6]).int()
    words = torch.tensor([[2, 0], [2, 1]])
    for mean in (True, False):

        def run(weight, mean=mean):
            return ops.bag_sum(weight, offsets, rows, words, mean=mean)

        assert torch.autograd.gradcheck(run, (weight,))
        assert torch.autograd.gradgradcheck(run, (weight,))
        tangent = torch.randn_like(weight)
        _, slope = torch.func.jvp(run, (weight.detach(),), (tangent,))
        torch.testing.assert_close(slope, run(tangent))  # linear


def test_a_graph_can_be_walked_twice():
    v, u = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    ids = torch.tensor([0, 2])
    found = SF.skipgram_loss(v, u, ids, ids, ids[:, None])
    first = torch.autograd.grad(found, (v, u), retain_graph=True)
    second = torch.autograd.grad(found, (v, u), retain_graph=True)
    assert all(map(torch.equal, first, second))


def test_a_second_derivative_notices_changes_of_a_table():
    """The first does not need the tables any more (tests/test_in_place.py)."""
    v, u = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    ids = torch.tensor([0, 2])
    found = SF.skipgram_loss(v, u, ids, ids, ids[:, None])
    with torch.no_grad():
        v.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(found, (v, u), create_graph=True)


def test_one_table_in_both_places():
    w = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    ids, negatives = torch.randint(6, (2, 9)), torch.randint(6, (9, 3))
    assert torch.autograd.gradcheck(
        lambda w: SF.skipgram_loss(w, w, ids[0], ids[1], negatives), (w,)
    )
    found = torch.autograd.grad(SF.skipgram_loss(w, w, *ids, negatives, sparse=True), w)[0]
    dense = torch.autograd.grad(SF.skipgram_loss(w, w, *ids, negatives), w)[0]
    torch.testing.assert_close(found.to_dense(), dense)


def test_paths_of_the_reference_by_hand():
    """The tree of the counts 5, 2, 1: word2vec.c's numbers, and the loss written out."""
    paths = huffman_paths(torch.tensor([5, 2, 1]))
    assert paths.offsets.tolist() == [0, 1, 3, 5]
    assert paths.nodes.tolist() == [1, 1, 0, 1, 0]
    assert paths.codes.tolist() == [1, 0, 1, 0, 0]
    v, u = torch.randn(3, 4).double(), torch.randn(2, 4).double()

    def log_sigma(x):
        return torch.log(1 / (1 + torch.exp(-x)))

    s = u @ v[2]
    found = reference.objective(v, u, torch.tensor([[2]]), torch.tensor([1]), paths=paths)
    torch.testing.assert_close(found, -log_sigma(s[1]) - log_sigma(-s[0]))
    with seqkern.use_backend("cpu"):
        torch.testing.assert_close(
            SF.skipgram_loss(v, u, torch.tensor(2), torch.tensor(1), paths=paths), found
        )
