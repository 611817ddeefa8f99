"""What our own arguments refuse, and what the 4-D form refuses. PyTorch's own errors are in
test_sdpa_torch_cases, those of varlen_attention in test_varlen."""

from __future__ import annotations

import sys

import pytest
import torch

import seqkern
from seqkern.attention import ops
from seqkern.nn.functional import scaled_dot_product_attention as sdpa

BACKENDS = ("cpu", "reference")
Q, K = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
GQA = {"enable_gqa": True}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"causal": "left"}, ValueError, "causal must be None, 'top_left' or 'bottom_right', got"),
        ({"causal": "bottom_right", "is_causal": True}, ValueError, "give one of them"),
        ({"window": (1, 2, 3)}, ValueError, "window must be \\(left, right\\), two integers"),
        ({"window": (-2, 0)}, ValueError, "of which -1 is unlimited; got \\(-2, 0\\)"),
        ({"window": (1.5, 0)}, ValueError, "got \\(1.5, 0\\)"),
        ({"window": 5}, ValueError, "window must be \\(left, right\\), .* got 5"),
        ({"window": (None, 0)}, ValueError, "got \\(None, 0\\)"),
        ({"window": (float("nan"), 0)}, ValueError, "got \\(nan, 0\\)"),
        ({"softcap": -1.0}, ValueError, "softcap must be a positive number, .* got -1.0"),
        ({"softcap": float("nan")}, ValueError, "softcap must be a positive number"),
        ({"softcap": float("inf")}, ValueError, "softcap must be a positive number"),
        ({"dropout_p": -0.5}, RuntimeError, "between 0 and 1, but got -0.5"),
        ({"dropout_p": float("nan")}, RuntimeError, "between 0 and 1, but got nan"),
        (
            {"alibi_slopes": torch.ones(3)},
            RuntimeError,
            "alibi_slopes must have shape \\[4\\] or \\[2, 4\\], one .* head of query, got \\[3\\]",
        ),
        ({"alibi_slopes": torch.ones(4, 2)}, RuntimeError, "got \\[4, 2\\]"),
        ({"alibi_slopes": torch.ones(4).long()}, RuntimeError, "got torch.int64"),
        ({"alibi_slopes": [0.5] * 4}, TypeError, "alibi_slopes must be a Tensor or None, not list"),
        ({"sinks": torch.ones(2, 4)}, RuntimeError, "sinks must have shape \\[4\\], one"),
        ({"sinks": torch.ones(4, device="meta")}, RuntimeError, "sinks.device: meta"),
        (
            {"attn_mask": torch.ones(5, 7, device="meta")},
            RuntimeError,
            "query.device: cpu and attn_mask.device: meta",
        ),
    ],
    ids=str,
)
def test_options(options, error, message, backend):
    with seqkern.use_backend(backend), pytest.raises(error, match=message):
        sdpa(Q, K, K, **GQA, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("queries", [4, 7, 9])
def test_windows_without_an_end(queries, backend):
    """sys.maxsize is a way to say so; added to a position it would wrap around."""
    q = torch.randn(1, 2, queries, 8)
    with seqkern.use_backend(backend):
        for wide, same in (
            ((sys.maxsize, sys.maxsize), (-1, -1)),
            ((sys.maxsize, 0), (-1, 0)),
            ((1, 2**70), (1, -1)),
        ):
            k = K[:1]
            assert torch.equal(sdpa(q, k, k, window=wide), sdpa(q, k, k, window=same))


def test_values_of_another_rank():
    """Leading dimensions broadcast, of values, too."""
    q, v = torch.randn(2, 2, 2, 8), torch.randn(2, 2, 3)
    torch.testing.assert_close(sdpa(q, q, v), sdpa(q, q, v.expand(2, 2, 2, 3)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_of_key_and_value(backend):
    """PyTorch's fused CPU kernel reads past the end of the shorter one here."""
    with seqkern.use_backend(backend), pytest.raises(RuntimeError, match="key.shape .2, 2, 7, 8"):
        sdpa(Q, K, K[:, :, :6], **GQA)


PYTORCH_DIVIDES_BY_ZERO = torch.__version__.startswith("2.11")  # and the process ends
NOTHING = [
    ((2, 4, 5, 8), (2, 0, 7, 8), True),
    ((2, 4, 5, 8), (2, 0, 7, 8), False),
    ((2, 1, 5, 8), (2, 0, 7, 8), False),
    ((2, 0, 5, 8), (2, 2, 7, 8), True),
    ((2, 0, 5, 8), (2, 0, 7, 8), True),
    ((2, 4, 5, 8), (0, 4, 7, 8), False),
    ((1, 4, 5, 8), (0, 4, 7, 8), False),
    ((0, 4, 5, 8), (0, 3, 7, 8), True),
    ((4, 5, 8), (0, 7, 8), True),
    ((4, 5, 8), (0, 7, 8), False),
    ((3, 2, 4, 5, 8), (3, 2, 0, 7, 8), True),
]


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"dropout_p": 0.5}], ids=str)
@pytest.mark.parametrize(("query", "key", "grouped"), NOTHING, ids=str)
def test_no_heads_or_no_batch(query, key, grouped, options, backend):
    """Key and value without heads, or without a batch: zeros in query's shape, as PyTorch gives."""
    value = (*key[:-1], 6)
    results = []
    functions = [sdpa, torch.nn.functional.scaled_dot_product_attention]
    for function in functions[: 1 if PYTORCH_DIVIDES_BY_ZERO else 2]:
        inputs = [torch.randn(shape, requires_grad=True) for shape in (query, key, value)]
        mask = {} if options else {"attn_mask": torch.ones(5, 7, dtype=torch.bool)}
        with seqkern.use_backend(backend):
            output = function(*inputs, enable_gqa=grouped, **options, **mask)
        output.sum().backward()
        results.append([output, *(t.grad for t in inputs)])
    assert not any(mine.any() for mine in results[0])
    for mine, theirs in zip(results[0], results[-1], strict=True):
        assert mine.shape == theirs.shape and torch.equal(mine, theirs)
    with seqkern.use_backend(backend):
        _, lse = sdpa(*inputs, enable_gqa=grouped, return_lse=True, **options)
    assert lse.shape == query[:-1] and bool((lse == -torch.inf).all())


def test_slopes_of_folded_heads():
    """A mask of five dimensions may turn a batch dimension into heads: each head keeps its own."""
    q, k = torch.randn(2, 3, 4, 5, 8), torch.randn(2, 3, 4, 7, 8)
    mask = torch.rand(2, 1, 4, 5, 7) < 0.8
    mask[..., 0] = True
    for slopes in (torch.rand(4), torch.rand(2, 3, 4)):
        sinks = torch.randn(4)
        found = sdpa(q, k, k, mask, alibi_slopes=slopes, sinks=sinks)
        for a in range(2):
            for b in range(3):
                one = slopes if slopes.dim() == 1 else slopes[a, b]
                row = sdpa(q[a, b], k[a, b], k[a, b], mask[a, 0], alibi_slopes=one, sinks=sinks)
                torch.testing.assert_close(found[a, b], row)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"query": Q[0]}, "query must have 4 dimensions, got query.shape \\[4, 5, 8\\]"),
        ({"key": K[:1]}, "must have the same batch size"),
        ({"value": K[:, :1]}, "key and value the same heads"),
        ({"key": K[:, :, :, :3]}, "query and key must have the same last dimension"),
        ({"key": torch.randn(2, 3, 7, 8)}, "must divide the number of heads in query"),
        ({"key": K.double()}, "the same dtype, but got query.dtype: float key.dtype: double"),
        ({"mask": torch.ones(5, 7, dtype=torch.bool)}, "mask must have 4 dimensions"),
        ({"mask": torch.ones(1, 1, 5, 7)}, "mask must be boolean, got torch.float32"),
        (
            {"mask": torch.ones(1, 1, 5, 6, dtype=torch.bool)},
            "mask must broadcast to the attention",
        ),
        ({"bias": torch.ones(1, 1, 5, 7, dtype=torch.bool)}, "bias must be floating-point numbers"),
        ({"bias": torch.ones(1, 1, 5, 7, dtype=torch.float16)}, "to match query dtype"),
        (
            {"bias": torch.ones(2, 3, 5, 7)},
            "bias must broadcast .* got bias.shape \\[2, 3, 5, 7\\]",
        ),
        ({"alibi_slopes": torch.ones(5)}, "alibi_slopes must have shape"),
        ({"sinks": torch.ones(5)}, "sinks must have shape"),
    ],
    ids=str,
)
def test_the_four_dimensional_form(changes, message, backend):
    arguments = {"query": Q, "key": K, "value": K, **changes}
    positional = [arguments.pop(name) for name in ("query", "key", "value")]
    with seqkern.use_backend(backend), pytest.raises(RuntimeError, match=message):
        ops.attention(*positional, **arguments)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_needs_a_seed(backend):
    with seqkern.use_backend(backend), pytest.raises(RuntimeError, match="seed"):
        ops.attention(Q, K, K, dropout_p=0.5)
