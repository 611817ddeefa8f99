"""Errors name the argument, what it was and what it should be, in torch.nn.Embedding's classes."""

from __future__ import annotations

import re

import pytest
import torch

import seqkern
from seqkern.embedding.huffman import huffman_paths
from seqkern.embedding.reference import Paths
from seqkern.nn import CBOW, SkipGram
from seqkern.nn import functional as SF

V, U = torch.randn(10, 4), torch.randn(8, 4)
ONE = torch.tensor([1])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("bad", [-1, 8, 9, 10, 2**40])
def test_out_of_range(backend, bad):
    """center has 10 rows, context and negatives 8."""
    wrong = torch.tensor([[0, 1], [bad, 2]])
    right = torch.zeros(2, 2, dtype=torch.int64)
    with seqkern.use_backend(backend):
        if not 0 <= bad < 10:
            with pytest.raises(
                IndexError,
                match=rf"center\[1, 0\] is {bad}, it should be in \[0, 10\), the rows of in_weight",
            ):
                SF.skipgram_loss(V, U, wrong, right, right[..., None])
            with pytest.raises(IndexError, match=rf"context\[.*\] is {bad}, .* \[0, 10\)"):
                SF.cbow_loss(V, U, right[:, 0], wrong, right)
        with pytest.raises(IndexError, match=rf"context\[.*\] is {bad}, .* \[0, 8\)"):
            SF.skipgram_loss(V, U, right, wrong, right[..., None])
        with pytest.raises(IndexError, match=rf"center\[.*\] is {bad}, .* \[0, 8\)"):
            SF.cbow_loss(V, U, wrong[:, 0], right, right)
        with pytest.raises(IndexError, match=rf"negatives\[.*\] is {bad}, .* \[0, 8\)"):
            SF.skipgram_loss(V, U, right[:, 0], right[:, 0], wrong)
        paths = huffman_paths(torch.rand(8))
        with pytest.raises(IndexError, match=rf"context\[.*\] is {bad}, .* \[0, 8\), the words"):
            SF.skipgram_loss(V, U, right, wrong, paths=paths)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_shapes_and_dtypes(backend):
    call = SF.skipgram_loss
    cases = [
        (RuntimeError, "context must have the shape of center, here [1], or (*center.shape, C), "
         "here [1, any], got [2]", (V, U, ONE, ONE.repeat(2), ONE[None])),
        (RuntimeError, "negatives must have the shape (*context.shape, K), here [1, any], got [1]",
         (V, U, ONE, ONE, ONE)),
        (RuntimeError, "center must be int64 or int32, got torch.float32",
         (V, U, ONE.float(), ONE)),
        (TypeError, "context must be a Tensor of indices, not list", (V, U, ONE, [1])),
        (TypeError, "in_weight must be a Tensor, not int", (3, U, ONE, ONE)),
        (RuntimeError, "in_weight must be floating-point numbers of shape (rows, features), got "
         "torch.float32 of shape [4]", (V[0], U, ONE, ONE)),
        (RuntimeError, "same number of features, got shapes [10, 4] and [8, 3]",
         (V, U[:, :3], ONE, ONE)),
        (RuntimeError, "same dtype and device, got torch.float32 on cpu and torch.float64 on cpu",
         (V, U.double(), ONE, ONE)),
        (ValueError, "one of negatives (negative sampling) and paths (hierarchical softmax) must "
         "be given, got neither", (V, U, ONE, ONE)),
    ]  # fmt: skip
    with seqkern.use_backend(backend):
        for error, message, arguments in cases:
            with pytest.raises(error, match=re.escape(message)):
                call(*arguments)
        with pytest.raises(ValueError, match="got both"):
            call(V, U, ONE, ONE, ONE[None], paths=huffman_paths(torch.rand(8)))
        with pytest.raises(ValueError, match=r"padding_idx must be in \[-10, 10\), got 10"):
            call(V, U, ONE, ONE, ONE[None], padding_idx=10)
        with pytest.raises(
            RuntimeError, match=r"context must have the shape \(\*center.shape, C\)"
        ):
            SF.cbow_loss(V, U, ONE, ONE, ONE[None])


def test_a_tree_that_does_not_fit():
    """The kernels check what they read; the module all of it."""
    right = huffman_paths(torch.rand(8))
    broken = [
        right._replace(nodes=right.nodes + 100),
        right._replace(nodes=-right.nodes - 1),
        right._replace(offsets=right.offsets.flip(0)),
        right._replace(offsets=right.offsets + 5),
    ]
    every = torch.arange(8)
    for paths in broken:
        with pytest.raises(RuntimeError, match=r"paths\."):
            SF.skipgram_loss(V, U, every, every, paths=paths)
        with pytest.raises(RuntimeError, match=r"paths\."):
            SkipGram(8, 4, hierarchical_softmax=paths)
    with pytest.raises(RuntimeError, match=r"paths.codes must be 0 or 1, got 7"):
        SkipGram(8, 4, hierarchical_softmax=right._replace(codes=right.codes * 0 + 7))
    with pytest.raises(RuntimeError, match=r"paths.nodes must be a Tensor of torch.int32"):
        SkipGram(8, 4, hierarchical_softmax=Paths(right.offsets, right.nodes.long(), right.codes))
    with pytest.raises(ValueError, match=r"offsets must have the shape \[10\]"):
        SkipGram(9, 4, hierarchical_softmax=right)


@pytest.mark.parametrize("cls", [SkipGram, CBOW])
def test_constructors(cls):
    with pytest.raises(ValueError, match="num_embeddings must be an integer from 1 up, got 0"):
        cls(0, 4)
    with pytest.raises(ValueError, match="embedding_dim must be an integer from 1 up, got 2.5"):
        cls(3, 2.5)
    with pytest.raises(ValueError, match="negatives must be an integer from 0 up, got -1"):
        cls(3, 4, negatives=-1)
    with pytest.raises(ValueError, match=r"noise_counts must have the shape \[3\].*got \[2\]"):
        cls(3, 4, noise_counts=torch.ones(2))
    with pytest.raises(ValueError, match="noise_counts must be finite numbers from 0 up"):
        cls(3, 4, noise_counts=torch.tensor([1.0, -1, 2]))
    with pytest.raises(ValueError, match="noise_counts must be positive for some word"):
        cls(3, 4, noise_counts=torch.tensor([0, 0, 2]), padding_idx=2)
    with pytest.raises(ValueError, match="hierarchical_softmax=True needs noise_counts"):
        cls(3, 4, hierarchical_softmax=True)
    with pytest.raises(ValueError, match="needs num_embeddings of 2 or more, got 1"):
        cls(1, 4, hierarchical_softmax=True, noise_counts=torch.ones(1))
    with pytest.raises(TypeError, match="True, False, or paths: an object .* got str"):
        cls(3, 4, hierarchical_softmax="yes")
    made = cls(3, 4, hierarchical_softmax=True, noise_counts=torch.ones(3))
    with pytest.raises(ValueError, match="negatives must be None with hierarchical_softmax"):
        made(ONE, ONE[None], ONE[None])
    with pytest.raises(RuntimeError, match="has no noise distribution"):
        made.draw_negatives(3)
