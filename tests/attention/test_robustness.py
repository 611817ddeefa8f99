"""NaN and infinity, extreme numbers, memory that was never written, threads, processes, shapes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from tests.attention.cases import KERNEL_DTYPES, Case, check
from tests.forks import results_around_a_fork

BACKENDS = ("cpu", "reference")
M_PERTURB = -6  # mallopt's name for "fill memory on allocation and release"; glibc only


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
            Case(2, 3, 17, 33, 20),
            Case(1, 2, 70, 70, 40, is_causal=True, layout="positions"),
            Case(2, 4, 5, 66, 8, Hkv=2, mask="padding", lse=True),
            Case(1, 2, 20, 130, 9, Dv=5, mask="+keys", sinks=True, alibi=1, dropout=0.2),
            Case(1, 2, 70, 20, 16, causal="bottom_right", window=(9, 0)),
            Case(1, 2, 1, 700, 64),
        ):
            check(case, dtype)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True


def random(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


# With 16-bit inputs the kernels' exponential is within 9e-5, far below the error of rounding a
# probability to 16 bits.
LSE_OF_16_BITS = 1e-4

PADDING = torch.arange(70) < 40
EXCLUSIONS = {
    "key padding": {"attn_mask": PADDING},
    "additive padding": {"attn_mask": torch.zeros(70).masked_fill(~PADDING, -torch.inf)},
    "padding of each query": {"attn_mask": PADDING.expand(2, 1, 50, 70).contiguous()},
    "padding and causal": {"attn_mask": PADDING, "is_causal": True},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("how", EXCLUSIONS)
def test_keys_that_no_query_attends_to_may_hold_anything(how, dtype, value, backend):
    """As if they were 0: output, lse and every gradient, to the bit."""
    options = EXCLUSIONS[how]
    q, k, v = random(dtype, 2, 2, 50, 16), random(dtype, 2, 2, 70, 16), random(dtype, 2, 2, 70, 8)
    results = []
    for fill in (value, 0.0):
        key, holder = k.clone(), v.clone()
        key[:, :, 40:] = fill
        holder[:, :, 45:] = fill
        leaves = [t.requires_grad_() for t in (q.clone(), key, holder)]
        with seqkern.use_backend(backend):
            found = sdpa(*leaves, return_lse=True, **options)
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in found]
        results.append([*found, *torch.autograd.grad(found, leaves, weights)])
    for with_poison, without in zip(*results, strict=True):
        assert with_poison.isfinite().all()
        assert torch.equal(with_poison, without)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["key", "value"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("how", ["causal", "bottom right", "mask", "bias", "window"])
def test_a_query_gets_no_nan_from_a_key_that_it_does_not_attend_to(how, dtype, where, backend):
    """Other queries attend to the same key and do get its NaN."""
    bad = 30
    q, k, v = (random(dtype, 1, 2, 70, 16) for _ in range(3))
    attends = torch.ones(70, 70, dtype=torch.bool).tril()
    options = {
        "causal": {"is_causal": True},
        "bottom right": {"causal": "bottom_right"},
        "mask": {"attn_mask": attends},
        "bias": {"attn_mask": torch.zeros(70, 70).masked_fill(~attends, -torch.inf)},
        "window": {"window": (7, 0)},
    }[how]
    if how == "window":
        attends &= ~torch.ones(70, 70, dtype=torch.bool).tril(-8)
    (k if where == "key" else v)[:, :, bad, 3] = torch.nan
    leaves = [t.requires_grad_() for t in (q, k, v)]
    with seqkern.use_backend(backend):
        output, lse = sdpa(*leaves, return_lse=True, **options)
    touched = attends[:, bad]
    assert output[:, :, ~touched].isfinite().all() and lse[:, :, ~touched].isfinite().all()
    assert output[:, :, touched, 3].isnan().all()
    assert lse[:, :, touched].isnan().all() == (where == "key")
    # Queries that do not attend to it have gradients; so have keys that only they attend to.
    d_q, d_k, d_v = torch.autograd.grad(output, leaves, torch.ones_like(output))
    assert d_q[:, :, ~touched].isfinite().all()
    assert d_q[:, :, touched].isnan().all()
    clean = ~attends[touched].any(0)
    assert d_k[:, :, clean].isfinite().all()
    if where == "value":  # with a NaN in its scores a row of PyTorch's softmax is NaN everywhere
        assert d_v.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("where", ["query", "key", "value", "attn_mask"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_nan_and_infinity_propagate_as_in_the_reference(dtype, value, where, backend):
    """At one position that all attend to; nothing of them is lost and the rest stays finite."""
    tensors = {
        "query": random(dtype, 2, 2, 20, 16),
        "key": random(dtype, 2, 2, 40, 16),
        "value": random(dtype, 2, 2, 40, 16),
        "attn_mask": random(dtype, 2, 1, 20, 40),
    }
    tensors[where][1, 0, 3, 5] = value
    with seqkern.use_backend(backend):
        found = sdpa(**tensors)
    expected = torch._scaled_dot_product_attention_math(*(t.double() for t in tensors.values()))[0]
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())
    finite = expected.isfinite()
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(
        found[finite].double(), expected[finite], rtol=tolerance, atol=tolerance
    )
    assert found[0].isfinite().all()


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_nan_in_the_gradient_goes_to_what_it_belongs_to(dtype):
    q, k, v = (random(dtype, 2, 2, 40, 16).requires_grad_() for _ in range(3))
    output = sdpa(q, k, v)
    weight = torch.ones_like(output)
    weight[1, 0, 7, 2] = torch.nan
    d_q, d_k, d_v = torch.autograd.grad(output, (q, k, v), weight)
    assert d_q[1, 0, 7].isnan().all() and d_k[1, 0].isnan().all()
    assert d_v[1, 0, :, 2].isnan().all()
    for gradient in (d_q, d_k, d_v):
        assert gradient[0].isfinite().all() and gradient[1, 1].isfinite().all()
    assert d_q[1, 0, :7].isfinite().all() and d_v[1, 0, :, 3:].isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 30.0, 1e4, 1e15, -1e4])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_extreme_scores(isa, dtype, scale):
    """No overflow: a score of 1e15 is the maximum of its row before it is exponentiated."""
    q, k, v = (random(dtype, 1, 2, 20, 16).requires_grad_() for _ in range(3))
    output, lse = sdpa(q, k, v, scale=scale, return_lse=True)
    assert output.isfinite().all() and lse.isfinite().all()
    exact = [t.detach().double() for t in (q, k, v)]
    with seqkern.use_backend("reference"):
        expected, total = sdpa(*exact, scale=scale, return_lse=True)
    atol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: LSE_OF_16_BITS}[dtype]
    torch.testing.assert_close(lse.double(), total, rtol=atol, atol=atol)
    near = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 1e-2}[dtype]
    if abs(scale) < 1e4:
        torch.testing.assert_close(output.double(), expected, rtol=near, atol=near)
    else:  # one key wins, unless two are as near as rounding
        won = (output.double() - expected).abs().amax(-1) < 1e-2
        assert won.double().mean() > 0.9
    for gradient in torch.autograd.grad([output, lse], (q, k, v), [output, lse * 0 + 1]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_large_values_and_large_masks(dtype):
    q, k, v = (random(dtype, 1, 2, 20, 16) for _ in range(3))
    # The largest numbers do not overflow in sums that stay within the type.
    large = torch.full_like(v, 2.0**100)
    torch.testing.assert_close(sdpa(q, k, large), large, rtol=1e-2, atol=0)
    # The practice of adding the least finite number instead of -inf.
    least = torch.zeros(20, 20).masked_fill(
        torch.rand(20, 20) < 0.5, torch.finfo(torch.float32).min
    )
    least.fill_diagonal_(0)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(
        sdpa(q, k, v, least), sdpa(q, k, v, least == 0), rtol=tolerance, atol=tolerance
    )
    # Where all have it, they are equal again, and nothing is empty.
    row = torch.full((1, 20), torch.finfo(torch.float32).min)
    output, lse = sdpa(q, k, v, row, return_lse=True)
    assert output.isfinite().all() and lse.isfinite().all()


@pytest.mark.parametrize("order", ["rising", "falling", "spike"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("queries", [3, 20], ids=["decoded", "tiled"])
def test_the_running_maximum(isa, queries, dtype, order):
    """Scores that rise from tile to tile make every tile rescale what came before."""
    keys = 400
    ramp = torch.linspace(-60, 60, keys)
    ramp = {"rising": ramp, "falling": ramp.flip(0), "spike": torch.zeros(keys)}[order]
    if order == "spike":
        ramp[333] = 80.0
    q = torch.ones(1, 1, queries, 1).to(dtype)
    k, v = ramp.view(1, 1, keys, 1).to(dtype), random(dtype, 1, 1, keys, 8)
    found, lse = sdpa(q, k, v, scale=1.0, return_lse=True)
    weights = torch.softmax(k.double()[0, 0, :, 0], 0)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(
        found.double(), (weights @ v.double()).expand_as(found), rtol=tolerance, atol=tolerance
    )
    total = torch.logsumexp(k.double()[0, 0, :, 0], 0)
    atol = LSE_OF_16_BITS if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(lse.double(), total.expand_as(lse), rtol=atol, atol=atol)


def run_once(seed: int, dtype: torch.dtype = torch.float32, queries: int = 90) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, 4, queries, 32), (1, 2, 150, 32), (1, 2, 150, 24))
    tensors = [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]
    slopes = torch.rand(4, generator=generator).requires_grad_()
    bias = torch.randn(1, 1, queries, 150, generator=generator).to(dtype).requires_grad_()
    output, lse = sdpa(*tensors, bias, enable_gqa=True, alibi_slopes=slopes, return_lse=True,
                       window=(100, 20))  # fmt: skip
    total = output.float().sin().sum() + lse.sum()
    gradients = torch.autograd.grad(total, [*tensors, slopes, bias])
    return torch.cat([t.detach().float().flatten() for t in (output, lse, *gradients)])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("queries", [1, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_same_bits_every_time(dtype, queries, threads):
    torch.set_num_threads(threads)
    first = run_once(2, dtype, queries)
    for _ in range(5):
        assert torch.equal(first, run_once(2, dtype, queries))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_does_not_matter(dtype):
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run_once(4, dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=tolerance, atol=tolerance)


def test_several_python_threads_at_once():
    """Each with its own OpenMP threads."""
    torch.set_num_threads(2)
    jobs = list(range(12))
    expected = [run_once(seed) for seed in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(run_once, jobs))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def summed() -> float:
    return run_once(1).sum().item()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_process_forked_after_use():
    before, in_child, after = results_around_a_fork(summed)
    assert in_child == pytest.approx(before, rel=1e-4)
    assert after == before


@st.composite
def cases(draw) -> Case:
    queries, keys = draw(st.integers(1, 80)), draw(st.integers(1, 140))
    shared, kv_heads = draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(1, 3))
    is_causal = draw(st.booleans())
    return Case(
        draw(st.integers(1, 3)),
        shared * kv_heads,
        queries,
        keys,
        draw(st.integers(1, 70)),
        Dv=draw(st.sampled_from([0, 1, 20])),
        Hkv=kv_heads if shared > 1 else 0,
        mask=draw(
            st.sampled_from(["", "", "padding", "pairs", "full", "+pairs", "+keys", "+full"])
        ),
        layout=draw(st.sampled_from(["heads", "positions", "strided"])),
        is_causal=is_causal,
        causal=None if is_causal else draw(st.sampled_from([None, "bottom_right"])),
        window=draw(st.sampled_from([None, None, (-1, 5), (30, -1), (40, 10)])),
        softcap=draw(st.sampled_from([None, None, 2.0])),
        alibi=draw(st.integers(0, 2)),
        sinks=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.0, 0.3])),
    )


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=cases(), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_any_shape(case, dtype):
    check(case, dtype, pooled=True)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_strides(data):
    """Queries, keys, values, masks and gradients that are permuted, sliced or expanded views."""

    def view(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        order = data.draw(st.permutations(range(len(shape))))
        step = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
        start = data.draw(st.lists(st.integers(0, 2), min_size=len(shape), max_size=len(shape)))
        large = torch.randn([s * k + o for s, k, o in zip(shape, step, start, strict=True)])
        large = large.to(dtype) if dtype != torch.bool else large > -1
        large = large.permute(*order).contiguous()
        tensor = large.permute(*[order.index(d) for d in range(len(shape))])
        index = [slice(o, o + s * k, k) for s, k, o in zip(shape, step, start, strict=True)]
        tensor = tensor[tuple(index)]
        return tensor[:1].expand(shape) if data.draw(st.booleans()) else tensor

    queries, keys = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    dtype = data.draw(st.sampled_from([torch.float64, torch.bfloat16]))
    shapes = ((2, 4, queries, 8), (2, 2, keys, 8), (2, 2, keys, 5))
    tensors = [view(*shape, dtype=dtype) for shape in shapes]
    kind = data.draw(st.sampled_from([torch.bool, dtype]))
    mask = view(data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([1, 4])),
                data.draw(st.sampled_from([1, queries])), keys, dtype=kind)  # fmt: skip
    grads = [view(2, 4, queries, 5, dtype=dtype), view(2, 4, queries, dtype=torch.float32)]
    grads[1] = grads[1].double() if dtype == torch.float64 else grads[1]

    def run(tensors, mask, grads):
        leaves = [t.detach().requires_grad_() for t in tensors]
        if mask.dtype != torch.bool:
            mask = mask.detach().requires_grad_()
        results = sdpa(*leaves, mask, enable_gqa=True, return_lse=True)
        leaves += [mask] if mask.requires_grad else []
        empty = results[1] == -torch.inf
        results = (results[0], results[1].masked_fill(empty, 0))
        return [*results, *torch.autograd.grad(results, leaves, grads)]

    found = run(tensors, mask, grads)
    expected = run(
        [t.contiguous() for t in tensors], mask.contiguous(), [g.contiguous() for g in grads]
    )
    tolerance = 1e-13 if dtype == torch.float64 else 0
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_memory_of_the_output_follows_that_of_the_query(dtype):
    """Heads inside positions in, heads inside positions out: the projection that follows needs no
    copy. PyTorch's kernel does the same."""
    upright, k = torch.randn(2, 3, 5, 8).to(dtype), torch.randn(2, 3, 7, 8).to(dtype)
    assert sdpa(upright, k, k).is_contiguous()
    inside = torch.randn(2, 5, 3, 8).to(dtype).transpose(1, 2)
    assert sdpa(inside, k, k).transpose(1, 2).is_contiguous()
    theirs = F.scaled_dot_product_attention(inside, k, k)
    assert theirs.stride() == sdpa(inside, k, k).stride()
    leaf = inside.detach().requires_grad_()
    assert torch.autograd.grad(sdpa(leaf, k, k).sum(), leaf)[0].transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("how", ["mask", "causal"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_an_excluded_nan_does_not_come_through_softcap(isa, dtype, how):
    q, k, v = (random(dtype, 1, 1, 40, 16) for _ in range(3))
    k[0, 0, 30] = torch.nan
    q.requires_grad_()
    everything_but_it = torch.arange(40) != 30
    options = {"is_causal": True} if how == "causal" else {"attn_mask": everything_but_it}
    sdpa(q, k, v, softcap=5.0, **options).sum().backward()
    assert q.grad[0, 0, :30].isfinite().all()
    assert q.grad[0, 0, 30:].isfinite().all() == (how == "mask")


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_a_nan_query_leaves_the_values_alone_that_it_may_not_see(isa, dtype):
    q, k, v = (random(dtype, 1, 1, 40, 16) for _ in range(3))
    q[0, 0, 2] = torch.nan
    v.requires_grad_()
    sdpa(q, k, v, is_causal=True).sum().backward()
    assert v.grad[0, 0, :3].isnan().all()
    assert v.grad[0, 0, 3:].isfinite().all()


@pytest.mark.parametrize("sink, sees", [(20000.0, True), (-1e9, False)])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_a_huge_sink_is_the_log_sum_exp(isa, dtype, sink, sees):
    q, k, v = (random(dtype, 1, 1, 40, 16) for _ in range(3))
    sinks = torch.tensor([sink], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    mask = torch.full((40, 40), sees)
    _, lse = sdpa(q, k, v, mask, sinks=sinks, return_lse=True)
    assert torch.equal(lse, torch.full_like(lse, sink))


@pytest.mark.parametrize("window", [(2**63 - 1, 2**63 - 1), (2**50, 3), (3, 2**50)])
def test_windows_beyond_every_key(isa, window):
    """By the operator itself: the public function takes such windows for unlimited."""
    q, k, v = (random(torch.float32, 1, 1, 40, 16) for _ in range(3))
    none = (None,) * 7
    run = torch.ops.seqkern.attention_forward
    found = run(q, k, v, *none, 0.25, 0.0, 0.0, False, *window)
    unlimited = [-1 if side > 40 else side for side in window]
    for mine, other in zip(
        found, run(q, k, v, *none, 0.25, 0.0, 0.0, False, *unlimited), strict=True
    ):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("queries", [4, 40])
def test_an_infinite_key_of_no_weight_reaches_those_that_see_it(isa, queries):
    """A score of minus infinity has the weight 0, and 0 times infinity is NaN in dQ; not so where
    the key is masked out."""
    query = torch.rand(1, 1, queries, 16, requires_grad=True)
    key, value = torch.randn(1, 1, 9, 16), torch.randn(1, 1, 9, 16)
    key[..., 3, 5] = -torch.inf
    mask = torch.ones(queries, 9, dtype=torch.bool)
    mask[0, 3] = False
    output = sdpa(query, key, value, mask)
    assert output.isfinite().all()
    (grad,) = torch.autograd.grad(output.square().sum(), query)
    expected = torch.zeros(queries, 16, dtype=torch.bool)
    expected[1:, 5] = True
    assert torch.equal(grad[0, 0].isnan(), expected)


@pytest.mark.parametrize("queries", [25, 41])
def test_what_lies_beyond_the_queries_decides_nothing(queries):
    """A bias ends within a vector of queries; the numbers behind it in the scratch memory, here
    left by another call, must not choose how the vector is rounded."""
    q, k, v = (random(torch.float32, 1, 1, queries, 16) for _ in range(3))
    bias = random(torch.float32, queries, queries)
    big = [random(torch.float32, 1, 1, 64, 16) for _ in range(3)]
    results = []
    for height in (0.0, 1e9):
        sdpa(*big, torch.full((64, 64), height))
        results.append(sdpa(q, k, v, bias))
    assert torch.equal(*results)
