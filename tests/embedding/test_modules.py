"""SkipGram and CBOW as modules: arguments, state, noise, trees."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import seqkern
from seqkern.embedding.huffman import huffman_paths
from seqkern.embedding.noise import alias_table, draw
from seqkern.nn import CBOW, SkipGram, functional

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("cls", [SkipGram, CBOW])
@pytest.mark.parametrize("tree", [False, True])
def test_state(cls, tree):
    options = {"noise_counts": torch.arange(1, 11), "hierarchical_softmax": tree}
    first, second = cls(10, 4, **options), cls(10, 4, **options)
    assert list(first.state_dict()) == ["in_embed.weight", "out_embed.weight"]
    assert first.out_embed.weight.shape == (9 if tree else 10, 4)
    torch.nn.init.normal_(first.out_embed.weight)
    second.load_state_dict(first.state_dict())
    center = IDS[:, 0] if cls is CBOW else IDS
    buffer = io.BytesIO()
    torch.save(first, buffer)
    buffer.seek(0)
    copies = (
        second,
        copy.deepcopy(first),
        pickle.loads(pickle.dumps(first)),
        torch.load(buffer, weights_only=False),
    )
    torch.manual_seed(5)
    right = first(center, IDS)
    for other in copies:
        torch.manual_seed(5)
        assert torch.equal(other(center, IDS), right)
    assert repr(first).startswith(f"{cls.__name__}(\n  10, 4, ")


def test_the_start_is_that_of_word2vec():
    made = SkipGram(1000, 50, padding_idx=-1)
    weight = made.in_embed.weight
    assert float(weight.abs().max()) <= 0.01 and float(weight[:-1].std()) == pytest.approx(
        0.02 / 12**0.5, rel=0.02
    )
    assert not made.out_embed.weight.any() and not weight[999].any()
    assert made.padding_idx == 999


@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_have_the_layout_asked_for(sparse):
    made = SkipGram(10, 4, sparse=sparse)
    made(IDS, IDS).backward()
    for weight in made.parameters():
        assert weight.grad.is_sparse == sparse


def test_optimizers_of_torch():
    """Dense or sparse, SGD takes the same step."""
    steps = []
    for sparse in (False, True):
        torch.manual_seed(0)
        made = SkipGram(10, 4, sparse=sparse)
        optimizer = torch.optim.SGD(made.parameters(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            made(IDS, IDS).backward()
            optimizer.step()
        steps.append([p.detach() for p in made.parameters()])
    for dense, sparse in zip(*steps, strict=True):
        torch.testing.assert_close(dense, sparse)
    made = SkipGram(10, 4, sparse=True)
    for optimizer in (torch.optim.SparseAdam, torch.optim.Adagrad):
        made.zero_grad()
        made(IDS, IDS).backward()
        optimizer(made.parameters(), lr=0.1).step()


@pytest.mark.parametrize("cls", [SkipGram, CBOW])
def test_negatives_are_drawn_by_the_generator(cls):
    made = cls(10, 4, negatives=7, noise_counts=torch.arange(10))
    torch.nn.init.normal_(made.out_embed.weight)
    center = IDS[:, 0] if cls is CBOW else IDS
    torch.manual_seed(3)
    first = made(center, IDS)
    torch.manual_seed(3)
    shape = center.shape if cls is CBOW else IDS.shape
    drawn = made.draw_negatives(*shape, 7)
    assert torch.equal(made(center, IDS, drawn), first)
    assert drawn.dtype == torch.int64 and drawn.min() >= 1  # word 0 has the count 0
    assert not torch.equal(made(center, IDS), first)


def test_the_noise_distribution():
    counts = torch.tensor([0.0, 1, 10, 100, 1000, 3, 3, 3])
    made = SkipGram(8, 4, noise_counts=counts, padding_idx=5)
    torch.manual_seed(0)
    n = 400_000
    found = torch.bincount(made.draw_negatives(n), minlength=8) / n
    weights = counts.double() ** 0.75
    weights[5] = 0
    expected = weights / weights.sum()
    assert found[0] == found[5] == 0
    # Five standard deviations of a binomial share.
    assert bool(((found - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all())


@pytest.mark.parametrize("words", [1, 2, 3, 10, 1000, 30_000])
@pytest.mark.parametrize("shape", ["zipf", "equal", "one", "random", "steps"])
def test_the_alias_table_holds_the_distribution(words, shape):
    """What the table gives to each word, added up, against the weights."""
    weights = {
        "zipf": 1 / torch.arange(1, words + 1).double() ** 0.75,
        "equal": torch.ones(words),
        "one": torch.nn.functional.one_hot(torch.tensor(words // 2), words),
        "random": torch.rand(words, dtype=torch.float64) ** 5,
        "steps": 1.0 * (torch.arange(words) % 3 == 0),
    }[shape].double()
    table = alias_table(weights)
    own = table.thresholds.double() / 2**32
    assert bool(((own >= 0) & (own <= 1)).all())
    found = own.clone().index_add_(0, table.aliases, 1 - own) / words
    right = weights / weights.sum()
    givers = torch.bincount(table.aliases, minlength=words)
    # 2^-33 / V for each threshold, and float64's rounding of the running sums.
    assert bool(((found - right).abs() <= (givers + 1) * 2**-33 / words + 1e-12 / words).all())
    assert bool((weights[draw(table, (1000,))] > 0).all())


def word2vec_tree(counts: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    """The paths (root first) and codes by a heap-free search for the two least: counts fall."""
    words = len(counts)
    alive = {i: count for i, count in enumerate(counts)}
    parent, code = {}, {}
    for new in range(words, 2 * words - 1):
        taken = []
        for _ in range(2):
            # The least count; among equals inner nodes before leaves, then the older inner node
            # or the later leaf: the heads of word2vec.c's two queues.
            best = min(alive, key=lambda i: (alive[i], i < words, i if i >= words else -i))
            taken.append((best, alive.pop(best)))
        for bit, (child, _) in enumerate(taken):
            parent[child], code[child] = new, bit
        alive[new] = taken[0][1] + taken[1][1]
    paths, codes = [], []
    for word in range(words):
        at, nodes, bits = word, [], []
        while at in parent:
            bits.append(code[at])
            at = parent[at]
            nodes.append(at - words)
        paths.append(nodes[::-1])
        codes.append(bits[::-1])
    return paths, codes


@pytest.mark.parametrize("words", [2, 3, 4, 17, 200])
def test_the_huffman_tree(words):
    counts = torch.randint(1, 30, (words,)).sort(descending=True).values
    paths = huffman_paths(counts)
    nodes, codes = word2vec_tree(counts.tolist())
    assert paths.offsets.tolist() == torch.tensor([0, *map(len, nodes)]).cumsum(0).tolist()
    assert paths.nodes.tolist() == sum(nodes, []) and paths.codes.tolist() == sum(codes, [])
    assert all(path[0] == words - 2 for path in nodes)
    # The loss is that of a distribution: the probabilities of all words add up to 1.
    made = SkipGram(words, 8, noise_counts=counts, hierarchical_softmax=True, dtype=torch.float64)
    torch.nn.init.normal_(made.out_embed.weight)
    one = torch.zeros(1, dtype=torch.int64)
    total = sum(torch.exp(-made(one, torch.tensor([w]))) for w in range(words))
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_tree_of_counts_in_any_order():
    counts = torch.tensor([3, 9, 1, 7])
    order = torch.argsort(counts, descending=True)
    mine, sorted_ = huffman_paths(counts), huffman_paths(counts[order])
    for place, word in enumerate(order.tolist()):
        for field in ("nodes", "codes"):
            of_word = getattr(mine, field)[mine.offsets[word] : mine.offsets[word + 1]]
            at = slice(int(sorted_.offsets[place]), int(sorted_.offsets[place + 1]))
            assert torch.equal(of_word, getattr(sorted_, field)[at])


def test_given_paths():
    counts = torch.arange(10, 0, -1)
    paths = huffman_paths(counts)
    by_counts = SkipGram(10, 4, noise_counts=counts, hierarchical_softmax=True)
    by_paths = SkipGram(10, 4, hierarchical_softmax=paths)
    by_paths.load_state_dict(by_counts.state_dict())
    torch.nn.init.normal_(by_counts.out_embed.weight)
    by_paths.load_state_dict(by_counts.state_dict())
    assert torch.equal(by_counts(IDS, IDS), by_paths(IDS, IDS))


def test_autocast():
    made = SkipGram(10, 4)
    torch.nn.init.normal_(made.out_embed.weight)
    negatives = torch.randint(10, (2, 3, 5))
    right = made(IDS, IDS, negatives)
    with torch.autocast("cpu", torch.bfloat16):
        found = made(IDS, IDS, negatives)
        with seqkern.use_backend("reference"):
            by_reference = made(IDS, IDS, negatives)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, right)
    torch.testing.assert_close(by_reference, right)


@pytest.mark.parametrize("cls", [SkipGram, CBOW])
def test_explain(cls):
    made = cls(10, 4)
    assert seqkern.explain(made, IDS, IDS).backend == "cpu"
    answer = seqkern.explain(made.half(), IDS, IDS)
    assert answer.backend == "reference" and "no kernel for torch.float16" in answer.reasons["cpu"]
    assert "no operator" in answer.reasons["torch"]
    name = "cbow_loss" if cls is CBOW else "skipgram_loss"
    tables = torch.randn(2, 4), torch.randn(2, 4)
    for function in (name, getattr(functional, name)):
        assert seqkern.explain(function, *tables, IDS, IDS).backend == "cpu"
    with torch.device("meta"):
        on_meta = cls(10, 4)
    assert seqkern.explain(on_meta, IDS, IDS).backend == "reference"
    with seqkern.use_backend("cpu"), pytest.raises(RuntimeError, match="no kernel for .*float16"):
        made(IDS[:, 0], IDS)
    with seqkern.use_backend("cuda"), pytest.raises(RuntimeError, match="no embedding kernel"):
        cls(10, 4)(IDS[:, 0], IDS)


def test_functional_is_exported():
    assert {"skipgram_loss", "cbow_loss"} <= set(functional.__all__)
    assert {"SkipGram", "CBOW", "SubwordEmbedding"} <= set(seqkern.nn.__all__)
