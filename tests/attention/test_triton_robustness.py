"""Triton's attention: NaN and infinity, empty dimensions, bits, compiled functions, refusals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import seqkern
from seqkern.attention import autograd, philox
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from tests.attention.cases import OPTIONS_OF_THE_REFERENCE, some_tensors
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def _on_the_device() -> Iterator[None]:
    with torch.device(DEVICE), seqkern.use_backend("triton"):
        yield


def random(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


@pytest.mark.parametrize("queries", [40, 2])  # 2: decoding
@pytest.mark.parametrize("where", ["key", "value"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("how", ["padding", "mask", "bias"])
def test_keys_that_nobody_looks_at_may_hold_anything(how, value, where, queries):
    keys = 270 if queries == 2 else 50
    attends = torch.arange(keys) < keys - 15
    mask = {
        "padding": attends,
        "mask": attends.expand(queries, keys).contiguous(),
        "bias": torch.zeros(queries, keys).masked_fill(~attends, -torch.inf),
    }[how]
    q, k, v = (random(torch.float32, 1, 1, n, 16) for n in (queries, keys, keys))
    results = []
    for fill in (value, 0.0):
        key, holder = k.clone(), v.clone()
        (key if where == "key" else holder)[:, :, keys - 15 :] = fill
        leaves = [t.requires_grad_() for t in (q.clone(), key, holder)]
        found = sdpa(*leaves, mask, return_lse=True)
        generator = torch.Generator(DEVICE).manual_seed(1)
        weights = [torch.randn(r.shape, generator=generator) for r in found]
        results.append([*found, *torch.autograd.grad(found, leaves, weights)])
    for with_poison, without in zip(*results, strict=True):
        torch.testing.assert_close(with_poison, without, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("where", ["key", "value"])
@pytest.mark.parametrize("how", ["causal", "mask", "bias", "window"])
def test_a_query_gets_no_nan_from_a_key_that_it_does_not_look_at(how, where):
    """The same key is attended to by other queries, which do get its NaN."""
    bad = 30
    q, k, v = (random(torch.bfloat16, 1, 1, 50, 16) for _ in range(3))
    attends = torch.ones(50, 50, dtype=torch.bool).tril()
    options = {
        "causal": {"is_causal": True},
        "mask": {"attn_mask": attends},
        "bias": {"attn_mask": torch.zeros(50, 50).masked_fill(~attends, -torch.inf)},
        "window": {"window": (7, 0)},
    }[how]
    if how == "window":
        attends = attends & ~torch.ones(50, 50, dtype=torch.bool).tril(-8)
    (k if where == "key" else v)[:, :, bad, 3] = torch.nan
    leaves = [t.requires_grad_() for t in (q, k, v)]
    output, lse = sdpa(*leaves, return_lse=True, softcap=20.0, **options)
    touched = attends[:, bad]
    assert output[:, :, ~touched].isfinite().all() and lse[:, :, ~touched].isfinite().all()
    assert output[:, :, touched, 3].isnan().all()
    assert lse[:, :, touched].isnan().all() == (where == "key")
    d_q, d_k, d_v = torch.autograd.grad(output, leaves, torch.ones_like(output))
    assert d_q[:, :, ~touched].isfinite().all()
    assert d_q[:, :, touched].isnan().all()
    clean = ~attends[touched].any(0)
    assert d_k[:, :, clean].isfinite().all()
    if where == "value":
        assert d_v.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("queries", [1, 20])
def test_a_nan_that_no_query_attends_to_does_not_come_through_softcap(dtype, queries):
    q, k, v = (random(dtype, 1, 1, n, 16) for n in (queries, 20, 20))
    k[:, :, 2] = v[:, :, 2] = torch.nan
    leaves = [t.requires_grad_() for t in (q, k, v)]
    output = sdpa(*leaves, attn_mask=torch.arange(20) != 2, softcap=3.0)
    assert output.isfinite().all()
    d_q, d_k, d_v = torch.autograd.grad(output, leaves, torch.ones_like(output))
    assert d_q.isfinite().all() and d_k.isfinite().all() and d_v.isfinite().all()
    assert not d_k[:, :, 2].any() and not d_v[:, :, 2].any()


@pytest.mark.parametrize("where", ["query", "key", "value", "attn_mask"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_go_where_the_reference_lets_them_go(value, where):
    tensors = {
        "query": random(torch.float32, 1, 1, 20, 16),
        "key": random(torch.float32, 1, 1, 40, 16),
        "value": random(torch.float32, 1, 1, 40, 16),
        "attn_mask": random(torch.float32, 20, 40),
    }
    (tensors[where] if where == "attn_mask" else tensors[where][0, 0])[3, 5] = value
    found = sdpa(**tensors)
    exact = (t.double() for t in tensors.values())
    expected = torch._scaled_dot_product_attention_math(*exact)[0]
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())
    finite = expected.isfinite()
    torch.testing.assert_close(found[finite].double(), expected[finite], rtol=1e-5, atol=1e-5)


def test_a_query_that_looks_at_nothing():
    q, k, v = (random(torch.float32, 1, 2, n, 16).requires_grad_() for n in (40, 35, 35))
    mask = torch.rand(40, 35) < 0.5
    mask[3] = False
    output, lse = sdpa(q, k, v, mask, return_lse=True)
    assert (output[:, :, 3] == 0).all() and (lse[:, :, 3] == -torch.inf).all()
    output.sum().backward()
    assert (q.grad[:, :, 3] == 0).all()
    assert all(t.grad.isfinite().all() for t in (q, k, v))


@pytest.mark.parametrize("B, H, N, M", [(0, 2, 3, 4), (2, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)])
def test_empty_dimensions(B, H, N, M):
    q, k, v = (random(torch.float32, B, H, n, 8).requires_grad_() for n in (N, M, M))
    bias = random(torch.float32, 1, 1, 1, M).requires_grad_()
    slopes = torch.rand(H).requires_grad_()
    output, lse = sdpa(q, k, v, bias, return_lse=True, alibi_slopes=slopes)
    leaves = (q, k, v, bias, slopes)
    for leaf, grad in zip(leaves, torch.autograd.grad(output.sum(), leaves), strict=True):
        assert grad.shape == leaf.shape and (grad == 0).all()
    assert output.shape == (B, H, N, 8) and (output == 0).all() and (lse == -torch.inf).all()


def test_the_random_numbers_are_those_of_the_specification():
    """With one key a weight is 1: what comes out says what was kept. To the bit, in both kernels,
    for a seed that needs all of its bits."""
    seed = torch.tensor(0x9E3779B97F4A7C1 * 8 + 5)
    assert seed & 2**31  # a low word with its sign set
    for queries, keys in ((37, 41), (2, 270)):
        eye = torch.eye(keys)[None, None, :, :][..., :256]
        q = torch.zeros(2, 3, queries, 16)
        k = torch.zeros(2, 3, keys, 16)
        output, _ = autograd._forward["triton"](
            q, k, eye.expand(2, 3, -1, -1).contiguous(), *[None] * 6, seed,
            1.0, 0.0, 0.3, False, -1, -1,
        )  # fmt: skip
        expected = philox.kept(seed, 0.3, 2, 3, queries, keys)
        assert torch.equal(output != 0, expected[..., :256])


def test_dropout_of_everything():
    q, k, v = (random(torch.float32, 1, 1, 5, 16) for _ in range(3))
    assert (sdpa(q, k, v, dropout_p=1.0) == 0).all()


def test_the_same_bits_every_time():
    q, k, v = (random(torch.bfloat16, 1, 2, 40, 16).requires_grad_() for _ in range(3))
    slopes = torch.rand(2).requires_grad_()
    leaves = (q, k, v, slopes)
    results = []
    for _ in range(2):
        output = sdpa(q, k, v, is_causal=True, alibi_slopes=slopes)
        results.append([output, *torch.autograd.grad(output.sum(), leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradients_of_gradients_are_those_of_the_reference():
    q, k, v = (random(torch.float32, 1, 1, 5, 8).requires_grad_() for _ in range(3))
    found = []
    for backend in ("triton", "reference"):
        with seqkern.use_backend(backend):
            (first,) = torch.autograd.grad(sdpa(q, k, v).square().sum(), q, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (q, k, v)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("widths", [(24, 24), (33, 20), (40, 5), (64, 64)], ids=str)
def test_rows_may_start_anywhere_and_have_any_width(widths):
    """A kernel reads whole groups of 8 features at multiples of 16 bytes; others are copied."""

    def of(count: int, width: int, odd: bool) -> torch.Tensor:
        generator = torch.Generator(DEVICE).manual_seed(count)
        memory = torch.full((1, 2, count, width + 2 * odd + 1), torch.nan)
        rows = memory[..., odd : odd + width]
        rows.copy_(torch.randn(rows.shape, generator=generator))
        return rows if odd else rows.contiguous()

    width, value_width = widths
    results = []
    for odd in (False, True):
        q, k, v = of(40, width, odd), of(50, width, odd), of(50, value_width, odd)
        leaves = [t.requires_grad_() for t in (q, k, v)]
        found = sdpa(*leaves, is_causal=True)
        grads = torch.autograd.grad(found, leaves, of(40, value_width, odd))
        few = sdpa(q[:, :, :2], k.repeat(1, 1, 6, 1), v.repeat(1, 1, 6, 1))  # decoding
        results.append([found, few, *grads])
    for odd, even in zip(*results, strict=True):
        assert torch.equal(odd, even) and not odd.isnan().any()


@pytest.mark.parametrize("form", ["expanded", "transposed"])
def test_gradients_of_any_strides(form):
    q, k, v = (random(torch.float32, 1, 2, 20, 16).requires_grad_() for _ in range(3))
    weight = torch.randn(1, 2, 1, 16).expand(1, 2, 20, 16)
    if form == "transposed":
        weight = torch.randn(1, 2, 16, 20).transpose(2, 3)
    found = torch.autograd.grad(sdpa(q, k, v), (q, k, v), weight)
    plain = torch.autograd.grad(sdpa(q, k, v), (q, k, v), weight.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_operators_keep_the_rules_of_torch(name):
    tensors, options = some_tensors(name, torch.float32)
    assert name in OPTIONS_OF_THE_REFERENCE
    given = {k: t.to(DEVICE) if k != "seed" else t for k, t in tensors.items() if t is not None}
    names = ("mask", "bias", "alibi_slopes", "sinks", "cu_seqlens_q", "cu_seqlens_k")
    numbers = (
        options.get("scale", 0.5), options.get("softcap", 0.0), options.get("dropout_p", 0.0),
        options.get("is_causal", False), *options.get("window", (-1, -1)),
    )  # fmt: skip
    q, k, v = given["query"], given["key"], given["value"]
    seed = options.get("seed")
    tests = ("test_schema", "test_faketensor")
    forward = (q, k, v, *(given.get(n) for n in names), seed, *numbers)
    torch.library.opcheck(autograd._forward["triton"], forward, test_utils=tests)
    output, lse = autograd._forward["triton"](*forward)
    rest = (*(given.get(n) for n in names[:4]), None, None, seed, *numbers)
    needs = 7 + 24 * (name == "everything")
    backward = (torch.ones_like(output), None, q, k, v, output, lse, *rest, needs)
    torch.library.opcheck(autograd._backward["triton"], backward, test_utils=tests)


def test_compiled_as_one_graph():
    q, k, v = (random(torch.float32, 1, 2, 20, 16).requires_grad_() for _ in range(3))

    def call(q, k, v):
        return sdpa(q * 1, k, v, is_causal=True, window=(5, 2))

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(q, k, v).sum(), (q, k, v))
    plain = torch.autograd.grad(call(q, k, v).sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_what_it_refuses_it_explains():
    for x, says in (
        (random(torch.float64, 1, 1, 3, 8), "no kernel for torch.float64: bfloat16, float16, fl"),
        (random(torch.float32, 1, 1, 3, 300), "heads of 1 to 256 features, this call has 300"),
    ):
        assert says in seqkern.explain(sdpa, x, x, x).reasons["triton"]
        with pytest.raises(RuntimeError, match=says):
            sdpa(x, x, x)
    q, k = random(torch.float32, 1, 4, 3, 8), random(torch.float32, 1, 3, 3, 8)
    run = autograd._forward["triton"]
    numbers = (1.0, 0.0, 0.0, False, -1, -1)
    with pytest.raises(RuntimeError, match="heads of key must divide those of query, got 3 and 4"):
        run(q, k, k, *[None] * 7, *numbers)
    with pytest.raises(RuntimeError, match=r"mask must have the shape \[1, 4, 3, 3\]"):
        run(q, q, q, torch.ones(1, 1, 2, 3, dtype=torch.bool), *[None] * 6, *numbers)
    with pytest.raises(RuntimeError, match="alibi_slopes must be float32 of shape"):
        run(q, q, q, None, None, torch.ones(3), *[None] * 4, *numbers)
    with pytest.raises(RuntimeError, match="key must have query's dtype torch.float32"):
        run(q, q.half(), q, *[None] * 7, *numbers)
    with pytest.raises(RuntimeError, match="seed must be an int64 number"):
        run(q, q, q, *[None] * 7, 1.0, 0.0, 0.5, False, -1, -1)


def test_explained():
    x = random(torch.float16, 1, 1, 3, 8)
    answer = seqkern.explain(sdpa, x, x, x)
    assert answer.backend == "triton" and "asked for by name" in answer.reasons["triton"]
    sdpa(x, x, x)


def test_the_default_device_has_no_say():
    """Small sequences are known by their sizes, which are asked on the host."""
    x = random(torch.bfloat16, 1, 2, 4, 16).requires_grad_()
    (expected,) = torch.autograd.grad(sdpa(x, x, x).float().square().sum(), x)
    with torch.device("meta"):
        (found,) = torch.autograd.grad(sdpa(x, x, x).float().square().sum(), x)
    assert torch.equal(found, expected)
