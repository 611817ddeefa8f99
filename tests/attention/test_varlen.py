"""Packed sequences: each one is a dense call by itself."""

from __future__ import annotations

import itertools

import pytest
import torch

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from seqkern.nn.functional import varlen_attention
from tests.attention.cases import tiny_for
from tests.parity import assert_all_parity

LENGTHS = {
    "one": ([9], [9]),
    "several": ([3, 70, 1, 17], [3, 70, 1, 17]),
    "cross": ([3, 20, 5], [66, 1, 40]),
    "with empty ones": ([0, 4, 0, 7, 3], [2, 4, 0, 0, 9]),
    "none": ([], []),
    "decoding": ([1, 1, 1], [130, 5, 64]),
}
OPTIONS = {
    "plain": {},
    "causal": {"is_causal": True},
    "bottom right": {"causal": "bottom_right"},
    "window": {"window": (5, 2)},
    "softcap": {"softcap": 2.0, "scale": 0.4},
    "alibi": {"alibi_slopes": 1},
    "alibi of each sequence": {"alibi_slopes": 2, "is_causal": True},
    "sinks": {"sinks": True},
    "everything": {
        "causal": "bottom_right",
        "window": (20, 5),
        "softcap": 3.0,
        "alibi_slopes": 2,
        "sinks": True,
    },
}


def starts(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)])


def tensors(lengths, heads: int, shared: int, dtype: torch.dtype) -> list[torch.Tensor]:
    rows, keys = sum(lengths[0]), sum(lengths[1])
    shapes = ((rows, heads, 16), (keys, heads // shared, 16), (keys, heads // shared, 8))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def one_by_one(q, k, v, lengths, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """The dense function for each sequence."""
    slopes = options.pop("alibi_slopes", None)
    outputs, lses = [q[:0, :, :1].expand(0, q.shape[1], v.shape[2])], [q[:0, :, 0].transpose(0, 1)]
    parts = (t.split(n) for t, n in ((q, lengths[0]), (k, lengths[1]), (v, lengths[1])))
    for b, sequence in enumerate(zip(*parts, strict=True)):
        if slopes is not None:
            options["alibi_slopes"] = slopes if slopes.dim() == 1 else slopes[b]
        rows = [t.transpose(0, 1)[None] for t in sequence]
        output, lse = sdpa(*rows, enable_gqa=True, return_lse=True, **options)
        outputs.append(output[0].transpose(0, 1))
        lses.append(lse[0])
    return torch.cat(outputs), torch.cat([t.to(lses[-1].dtype) for t in lses], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_every_sequence_by_itself(lengths, options, dtype):
    """By the rule of parity: the reference is dense attention in float64, for PyTorch stands the
    reference in the same dtype."""
    lengths, options = LENGTHS[lengths], dict(OPTIONS[options])
    q, k, v = tensors(lengths, 4, 2, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    extras = {}
    if dimensions := options.pop("alibi_slopes", 0):
        shape = (len(lengths[0]), 4) if dimensions == 2 else (4,)
        # Small enough that the log-sum-exp, which is saved in float32, has bits left for its sum.
        extras["alibi_slopes"] = (0.1 * torch.rand(shape)).to(wide).requires_grad_()
    if options.pop("sinks", False):
        extras["sinks"] = torch.randn(4).to(wide).requires_grad_()
    everything = [q, k, v, *extras.values()]
    exact = [t.detach().double().requires_grad_() for t in everything]
    with seqkern.use_backend("reference"):
        named = dict(zip(extras, exact[3:], strict=True))
        reference = list(one_by_one(*exact[:3], lengths, **options, **named))
    empty = reference[1] == -torch.inf
    weights = [torch.randn(r.shape).to(dtype) for r in reference]
    cu = [starts(n) for n in lengths]

    def with_gradients(results, sources):
        output, lse = results
        assert output.shape == reference[0].shape and lse.shape == reference[1].shape
        assert torch.equal(lse == -torch.inf, empty)
        results = [output, lse.masked_fill(empty, 0)]
        wanted = [w.to(r.dtype) for w, r in zip(weights, results, strict=True)]
        found = torch.autograd.grad(results, sources, wanted, allow_unused=True)
        zeros = (torch.zeros_like(s) if f is None else f
                 for f, s in zip(found, sources, strict=True))  # fmt: skip
        return [*results, *zeros]

    reference = with_gradients(reference, exact)
    results = []
    for backend in ("cpu", "reference"):
        with seqkern.use_backend(backend):
            found = varlen_attention(q, k, v, *cu, return_lse=True, **options, **extras)
            results.append(with_gradients(found, everything))
    names = ["output", "lse", "query", "key", "value", *extras]
    assert_all_parity(
        *results,
        reference,
        names,
        [tiny_for(name, t.dtype, dtype) for name, t in zip(names, results[0], strict=True)],
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_dropout_replays_and_is_that_of_each_sequence(backend):
    lengths = ([5, 9], [7, 9])
    q, k, v = tensors(lengths, 2, 1, torch.float64)
    cu = [starts(n) for n in lengths]

    def run(q, k, v):
        torch.manual_seed(4)
        return varlen_attention(q, k, v, *cu, dropout_p=0.5)

    with seqkern.use_backend("reference"):
        expected = run(q, k, v)
    with seqkern.use_backend(backend):
        found = run(q, k, v)
        assert torch.autograd.gradcheck(run, (q, k, v), fast_mode=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert not torch.allclose(found, varlen_attention(q, k, v, *cu))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradients_of_gradients(backend):
    lengths = ([2, 3], [4, 0])
    q, k, v = tensors(lengths, 2, 2, torch.float64)
    cu = [starts(n) for n in lengths]
    with seqkern.use_backend(backend):
        run = lambda q, k, v: varlen_attention(q, k, v, *cu, is_causal=True)  # noqa: E731
        assert torch.autograd.gradcheck(run, (q, k, v))
        assert torch.autograd.gradgradcheck(run, (q, k, v), fast_mode=True)


def test_views_and_both_integer_types():
    q, k, v = tensors(([4, 6], [4, 6]), 3, 1, torch.float32)
    packed = torch.randn(10, 3, 3, 16)
    views = packed.unbind(1)
    cu = starts([4, 6])
    expected = varlen_attention(*(t.contiguous() for t in views), cu, cu)
    assert torch.equal(varlen_attention(*views, cu, cu), expected)
    assert torch.equal(varlen_attention(*views, cu.int(), cu.int(), 6, 6), expected)
    assert torch.equal(varlen_attention(*views, cu.int(), cu), expected)
    flipped = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in views]
    assert torch.equal(varlen_attention(*flipped, cu, cu), expected)


def test_nan_stays_in_its_sequence():
    q, k, v = tensors(([40, 50], [40, 50]), 2, 1, torch.float32)
    poison = [t.detach().clone() for t in (q, k, v)]
    for tensor in poison:
        tensor[45] = torch.nan
        tensor.requires_grad_()
    cu = starts([40, 50])
    output = varlen_attention(*poison, cu, cu)
    assert output[:40].isfinite().all() and output[40:].isnan().any()
    found = torch.autograd.grad(output, poison, torch.ones_like(output))
    assert all(g[:40].isfinite().all() for g in found)


BAD = {
    "decreasing": ([0, 5, 4, 6], "cu_seqlens_q must not decrease, got \\[0, 5, 4, 6\\]"),
    "negative": ([0, -1, 6], "cu_seqlens_q must not be negative, got \\[0, -1, 6\\]"),
    "wrong end": ([0, 4, 5], "cu_seqlens_q must start with 0 and end with 6, the rows of query"),
    "wrong start": ([1, 4, 6], "cu_seqlens_q must start with 0 and end with 6"),
    "float": ([0.0, 6.0], "cu_seqlens_q must have dtype int32 or int64, got torch.float32"),
    "rank": ([[0, 6]], "cu_seqlens_q must have 1 dimension .* got shape \\[1, 2\\]"),
    "empty": (torch.zeros(0, dtype=torch.int64), "cu_seqlens_q must have 1 dimension"),
    "other number": ([0, 3, 6], "of the same length, the number of sequences \\+ 1, got 3 and 2"),
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", BAD)
def test_bad_cumulative_lengths(name, backend):
    starts_q, message = BAD[name]
    x = torch.randn(6, 2, 4)
    with seqkern.use_backend(backend), pytest.raises(RuntimeError, match=message):
        varlen_attention(x, x, x, torch.as_tensor(starts_q), torch.tensor([0, 6]))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_bad_tensors(backend):
    x, cu = torch.randn(6, 2, 4), torch.tensor([0, 2, 6])
    with seqkern.use_backend(backend):
        for call, message in (
            ((x[None], x, x), "query must have 3 dimensions, .* got query.shape \\[1, 6, 2, 4\\]"),
            ((x, x.double(), x), "Expected query, key, and value to have the same dtype"),
            ((x, x[..., :3], x), "query and key must have the same last dimension"),
            ((x, x, x[:5]), "key and value must have the same length"),
            ((torch.randn(6, 3, 4), x, x), "must divide the number of heads in query"),
            ((x, x, x[:, :1]), "key and value must have the same heads"),
        ):
            with pytest.raises(RuntimeError, match=message):
                varlen_attention(*call, cu, cu)
        for options, message in (
            ({"alibi_slopes": torch.ones(3)}, "alibi_slopes must have shape \\[2\\] or \\[2, 2\\]"),
            ({"alibi_slopes": torch.ones(2).long()}, "alibi_slopes must be floating-point numbers"),
            ({"sinks": torch.ones(2, 2)}, "sinks must have shape \\[2\\].* got \\[2, 2\\]"),
            ({"max_seqlen_k": 3}, "max_seqlen_k must be at least the longest sequence, 4, got 3"),
            ({"dropout_p": 2.0}, "dropout probability has to be between 0 and 1, but got 2.0"),
        ):
            with pytest.raises(RuntimeError, match=message):
                varlen_attention(x, x, x, cu, cu, **options)
        with pytest.raises(TypeError, match="argument 'cu_seqlens_k' must be Tensor, not list"):
            varlen_attention(x, x, x, cu, [0, 2, 6])


def test_pytorch_has_no_such_operator():
    x, cu = torch.randn(6, 2, 4), torch.tensor([0, 6])
    with seqkern.use_backend("torch"), pytest.raises(RuntimeError, match="no cu_seqlens"):
        varlen_attention(x, x, x, cu, cu)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("lengths", [[1, 200, 40], [40, 900, 3, 0, 7, 1], [90, 700, 80, 600, 100]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads(dtype, lengths, threads):
    """Sequences longer than a thread's part are shared by all threads, whole ones follow, and teams
    share the rest."""
    both = (lengths, lengths)
    q, k, v = tensors(both, 2, 1, dtype)
    cu = starts(lengths)
    torch.set_num_threads(threads)
    found = varlen_attention(q, k, v, cu, cu, is_causal=True)
    found = [found, *torch.autograd.grad(found.sum(), (q, k, v))]
    torch.set_num_threads(1)
    expected, _ = one_by_one(q, k, v, both, is_causal=True)
    expected = [expected, *torch.autograd.grad(expected.sum(), (q, k, v))]
    names = ("output", "query", "key", "value")
    assert_all_parity(found, expected, expected, names)
