"""torch.compile without graph breaks."""

from __future__ import annotations

import pytest
import torch

import seqkern
from seqkern.nn import CBOW, SkipGram, SubwordEmbedding
from seqkern.nn import functional as SF
from tests.embedding.cases import Case, data, loss
from tests.embedding.test_bags import Letters


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


CASES = [
    Case(padding_idx=2),
    Case(negatives=None),
    Case("cbow", padding_idx=2),
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_full_graph(case, backend):
    d = data(case)
    if case.negatives is None:
        made = SkipGram(case.words, case.features, hierarchical_softmax=d.paths)
        torch.nn.init.normal_(made.out_embed.weight)

        def run(center, context):
            return made(center, context)

        arguments, sources = (d.center, d.context), list(made.parameters())
    else:
        sources = d.tables(torch.float32)

        def run(*tables):
            return loss(case, d, tables)

        arguments = sources
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    with seqkern.use_backend(backend):
        results = [
            [value, *torch.autograd.grad(value, sources)]
            for value in (run(*arguments), compiled(*arguments))
        ]
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("cls", [SkipGram, CBOW])
def test_modules_that_draw(cls):
    made = cls(20, 6, noise_counts=torch.arange(1, 21))
    torch.nn.init.normal_(made.out_embed.weight)
    context = torch.randint(20, (5, 3))
    center = torch.randint(20, (5,))
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    for function in (made, compiled):
        torch.manual_seed(2)
        value = function(center, context)
        if function is made:
            right = value
    torch.testing.assert_close(value, right)


def test_inductor():
    v, u = torch.randn(20, 6, requires_grad=True), torch.randn(20, 6, requires_grad=True)
    ids, negatives = torch.randint(20, (2, 9)), torch.randint(20, (9, 5))

    def run(v, u):
        return SF.skipgram_loss(v, u, ids[0], ids[1], negatives)

    compiled = torch.compile(run, fullgraph=True)
    for mine, right in zip(
        torch.autograd.grad(compiled(v, u), (v, u)),
        torch.autograd.grad(run(v, u), (v, u)),
        strict=True,
    ):
        torch.testing.assert_close(mine, right)


def test_subwords():
    made = SubwordEmbedding.from_words(["cat", "dogs", "a"], 5, Letters())
    words = torch.tensor([[0, 2], [1, 1]])
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    results = []
    for function in (made, compiled):
        made.zero_grad()
        value = function(words)
        value.sin().sum().backward()
        results.append((value.detach(), made.weight.grad.clone()))
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right)


def test_the_update():
    """In a compiled function too the tables are changed in place."""
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        made = SkipGram(10, 4)
        torch.nn.init.normal_(made.out_embed.weight)
        ids, negatives = torch.randint(10, (2, 6)), torch.randint(10, (6, 3))

        def run(made=made, ids=ids, negatives=negatives):
            return made.update_(ids[0], ids[1], negatives, lr=0.3)

        function = torch.compile(run, fullgraph=True, backend="aot_eager") if compiled else run
        results.append([function(), *made.parameters()])
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right)


def test_dynamic_batches():
    v, u = torch.randn(20, 6), torch.randn(20, 6)

    def run(center, context, negatives):
        return SF.skipgram_loss(v, u, center, context, negatives)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in (3, 7, 12):
            center, context = torch.randint(20, (2, size))
            negatives = torch.randint(20, (size, 4))
            torch.testing.assert_close(
                compiled(center, context, negatives), run(center, context, negatives)
            )
