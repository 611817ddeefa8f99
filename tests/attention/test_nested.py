"""Nested tensors: jagged, jagged with holes, and strided; the result is nested as query is."""

from __future__ import annotations

import pytest
import torch
from torch import nested
from torch.nn import functional as F

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention as sdpa

BACKENDS = ("cpu", "reference")
HEADS, WIDTH = 4, 8


def jagged(lengths: list[int], heads: int = HEADS, width: int = WIDTH, grad: bool = True):
    """The leaf (B, j, heads * width), and (B, heads, j, width) as PyTorch's users make it."""
    rows = [torch.randn(n, heads * width, dtype=torch.float64) for n in lengths]
    leaf = nested.nested_tensor(rows, layout=torch.jagged, requires_grad=grad)
    return leaf, leaf.unflatten(-1, [heads, width]).transpose(1, 2)


def rows_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    return list(tensor.unbind())


def one_by_one(q, k, v, **options):
    return [sdpa(*(t[None] for t in row), **options)[0] for row in zip(q, k, v, strict=True)]


def compare(found, expected) -> None:
    found = rows_of(found)
    assert len(found) == len(expected)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"window": (2, 0), "softcap": 2.0}], ids=str
)
def test_self_attention(options, backend):
    leaf, x = jagged([3, 70, 1, 5])
    with seqkern.use_backend(backend):
        found = sdpa(x, x, x, **options)
    assert found.is_nested and found.layout == torch.jagged and found.shape == x.shape
    compare(found, one_by_one(*[rows_of(x)] * 3, **options))
    assert (found + x).shape == x.shape  # PyTorch knows that the ragged sizes are the same
    if not options:
        compare(found, rows_of(F.scaled_dot_product_attention(x, x, x)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_flow_to_the_leaf(backend):
    leaf, x = jagged([3, 20, 1])
    results = []
    for function in (sdpa, F.scaled_dot_product_attention):
        with seqkern.use_backend(backend):
            output = function(x, x, x).transpose(1, 2).flatten(2)
            (gradient,) = torch.autograd.grad(output.values().sin().sum(), leaf, retain_graph=True)
        assert gradient.is_nested and gradient.shape == leaf.shape
        results.append(gradient.values())
    torch.testing.assert_close(*results, rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_of_other_lengths_fewer_heads_other_widths(backend):
    (_, q), (_, k) = jagged([3, 5, 2]), jagged([4, 1, 30], heads=2)
    offsets = k.transpose(1, 2).offsets()
    values = torch.randn(35, 2, 3, dtype=torch.float64)
    v = nested.nested_tensor_from_jagged(values, offsets).transpose(1, 2)
    with seqkern.use_backend(backend):
        found, lse = sdpa(q, k, v, enable_gqa=True, return_lse=True)
    rows = [rows_of(t) for t in (q, k, v)]
    pairs = one_by_one(*rows, enable_gqa=True)
    compare(found, pairs)
    assert found.shape[3] == 3 and lse.is_nested and lse.dim() == 3
    totals = [
        sdpa(*(t[None] for t in row), enable_gqa=True, return_lse=True)[1][0]
        for row in zip(*rows, strict=True)
    ]
    compare(lse, totals)


def test_equal_lengths_from_different_tensors():
    (_, q), (_, k) = jagged([3, 5]), jagged([3, 5])
    compare(sdpa(q, k, k), one_by_one(rows_of(q), rows_of(k), rows_of(k)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_with_holes_between_them(backend):
    dense = torch.randn(3, 6, HEADS * WIDTH, dtype=torch.float64)
    starts, lengths = torch.tensor([0, 1, 0]), torch.tensor([3, 5, 2])
    holes = nested.narrow(dense, 1, starts, lengths, layout=torch.jagged)
    x = holes.unflatten(-1, [HEADS, WIDTH]).transpose(1, 2)
    with seqkern.use_backend(backend):
        found = sdpa(x, x, x, is_causal=True)
    rows = [
        dense[b, s : s + n].unflatten(-1, [HEADS, WIDTH]).transpose(0, 1)
        for b, (s, n) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))
    ]
    compare(found, one_by_one(rows, rows, rows, is_causal=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_strided_layout(backend):
    rows = [torch.randn(HEADS, n, WIDTH, dtype=torch.float64) for n in (3, 17)]
    x = nested.nested_tensor(rows, requires_grad=True)
    with seqkern.use_backend(backend):
        found = sdpa(x, x, x)
    assert found.is_nested and found.layout == torch.strided
    compare(found, one_by_one(rows, rows, rows))
    compare(found, rows_of(F.scaled_dot_product_attention(x, x, x)))
    (mine,) = torch.autograd.grad(found.to_padded_tensor(0).sin().sum(), x)
    theirs = F.scaled_dot_product_attention(x, x, x).to_padded_tensor(0)
    compare(mine, rows_of(torch.autograd.grad(theirs.sin().sum(), x)[0]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_without_heads(backend):
    leaf, _ = jagged([3, 9])
    with seqkern.use_backend(backend):
        found = sdpa(leaf, leaf, leaf)
    assert found.shape == leaf.shape
    rows = [t[None] for t in rows_of(leaf)]
    compare(found, [t[0] for t in one_by_one(rows, rows, rows)])


def test_a_ragged_batch():
    """(B, j, N, D), as PyTorch takes it: not the sequences are ragged, but how many there are."""
    _, x = jagged([3, 9])
    x = x.transpose(1, 2)
    found, lse = sdpa(x, x, x, return_lse=True)
    theirs = F.scaled_dot_product_attention(x, x, x)
    assert found.shape == theirs.shape == x.shape and lse.dim() == 3
    compare(found, rows_of(theirs))


def test_dropout_is_reproducible():
    _, x = jagged([3, 9])
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(sdpa(x, x, x, dropout_p=0.5))
    compare(results[0], rows_of(results[1]))
    assert not torch.equal(results[0].values(), sdpa(x, x, x, dropout_p=0.5).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes(dtype):
    _, x = jagged([3, 9], grad=False)
    low = x.to(dtype)
    found = sdpa(low, low, low)
    assert found.dtype == dtype
    exact = low.to(torch.float64)
    for mine, right in zip(rows_of(found), rows_of(sdpa(exact, exact, exact)), strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=2e-2, atol=2e-2)


def test_autocast():
    _, x = jagged([3, 9], grad=False)
    x = x.to(torch.float32)
    with torch.autocast("cpu"):
        assert sdpa(x, x, x).dtype == torch.bfloat16


def test_compiled():
    torch._dynamo.reset()
    _, x = jagged([3, 9, 4], grad=False)
    compiled = torch.compile(lambda x: sdpa(x, x, x, is_causal=True), backend="aot_eager")
    compare(compiled(x), rows_of(sdpa(x, x, x, is_causal=True)))


def test_errors():
    (_, q), (_, k) = jagged([3, 5]), jagged([3, 5], heads=2)
    dense = torch.randn(2, HEADS, 5, WIDTH, dtype=torch.float64)
    mask = torch.ones(5, 5, dtype=torch.bool)
    for call, options in (
        ((q, dense, dense), {}),
        ((dense, q, q), {}),
        ((q, q.float(), q), {}),
        ((q, q, q), {"attn_mask": mask}),
        ((q, q.transpose(1, 2), q), {}),
    ):
        with pytest.raises(ValueError) as theirs:
            F.scaled_dot_product_attention(*call, **options)
        with pytest.raises(ValueError) as ours:
            sdpa(*call, **options)
        assert str(ours.value).startswith(str(theirs.value))
    for call, message in (
        ((q, k, k), "must have the same number of heads unless enable_gqa"),
        ((q, jagged([3, 5, 1])[1], jagged([3, 5, 1])[1]), "the same number of sequences"),
        ((q, q, jagged([5, 3])[1]), "the sequences of key and value must have the same lengths"),
    ):
        with pytest.raises(RuntimeError, match=message):
            sdpa(*call)
    leaf = q.transpose(1, 2).flatten(2).transpose(1, 2)  # ragged in the features
    with pytest.raises(ValueError, match="query to be ragged in dimension 1, its lengths, but it"):
        sdpa(leaf, leaf, leaf)
