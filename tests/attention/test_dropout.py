"""Dropout: the same bits in reference and kernel, replayed in the backward, seeded by torch."""

from __future__ import annotations

import pytest
import torch

import seqkern
from seqkern.attention import ops
from seqkern.attention.philox import kept
from seqkern.attention.seeds import draw_seed
from seqkern.core import library
from seqkern.nn.functional import scaled_dot_product_attention as sdpa

BACKENDS = ("cpu", "reference")


def weights_of(queries: int, keys: int, heads: int, p: float, seed: int, **options) -> torch.Tensor:
    """The attention weights after dropout, (2, heads, queries, keys), read from the output: the
    values are one-hot and the scores 0."""
    dtype = options.pop("dtype", torch.float64)
    q = torch.zeros(2, heads, queries, 8, dtype=dtype)
    k = torch.zeros(2, heads, keys, 8, dtype=dtype)
    v = torch.eye(keys, dtype=dtype).expand(2, heads, keys, keys)
    output, _ = ops.attention(q, k, v, dropout_p=p, seed=torch.tensor(seed), **options)
    return output


# Keys that are no multiple of the four words of a counter, nor of a tile.
@pytest.mark.parametrize("queries, keys", [(1, 3), (5, 16), (17, 65), (66, 130), (1, 515)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_the_kernel_drops_what_the_reference_drops(isa, queries, keys, p):
    seed = 2**41 + 12345
    expected = kept(torch.tensor(seed), p, 2, 3, queries, keys)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        found = weights_of(queries, keys, 3, p, seed, dtype=dtype)
        assert torch.equal(found != 0, expected)
    scale = weights_of(queries, keys, 3, p, seed)[expected]
    torch.testing.assert_close(scale, torch.full_like(scale, 1 / (keys * (1 - p))))


@pytest.mark.parametrize("shape", [(2, 3, 1, 3), (1, 2, 65, 130), (2, 1, 130, 63), (1, 1, 0, 5)])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.93, 1.0])
def test_the_mask_operator(isa, shape, p):
    seed = torch.tensor(2**41 + 12345)
    found = torch.ops.seqkern.attention_dropout_mask(seed, p, *shape)
    assert torch.equal(found, kept(seed, p, *shape))


def test_the_mask_operator_by_opcheck_and_with_bad_arguments():
    operator = torch.ops.seqkern.attention_dropout_mask
    torch.library.opcheck(operator, (torch.tensor(5), 0.5, 1, 2, 3, 4))
    with pytest.raises(RuntimeError, match="dropout_p should be between 0 and 1, but it is 1.5"):
        operator(torch.tensor(5), 1.5, 1, 2, 3, 4)
    with pytest.raises(RuntimeError, match="seed should be one int64 number"):
        operator(torch.tensor(5.0), 0.5, 1, 2, 3, 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_under_masks_and_windows(threads):
    """Tiles that are skipped take nothing from the others, and threads do not matter."""
    torch.set_num_threads(threads)
    seed, queries, keys = 77, 140, 150
    expected = kept(torch.tensor(seed), 0.3, 2, 2, queries, keys)
    causal = torch.ones(queries, keys, dtype=torch.bool).tril()
    found = weights_of(queries, keys, 2, 0.3, seed, is_causal=True)
    assert torch.equal(found != 0, expected & causal)
    padding = (torch.arange(keys) < torch.tensor([3, 149])[:, None])[:, None, None]
    found = weights_of(queries, keys, 2, 0.3, seed, mask=padding)
    assert torch.equal(found != 0, expected & padding)
    at = torch.arange(queries)[:, None] + keys - queries
    band = (torch.arange(keys) >= at - 20) & (torch.arange(keys) <= at + 3)
    found = weights_of(queries, keys, 2, 0.3, seed, window=(20, 3))
    assert torch.equal(found != 0, expected & band)


def test_grouped_heads_count_the_heads_of_query():
    v = torch.eye(9, dtype=torch.float64).expand(1, 2, 9, 9)
    q, k = torch.zeros(1, 4, 5, 8).double(), torch.zeros(1, 2, 9, 8).double()
    found, _ = ops.attention(q, k, v, dropout_p=0.5, seed=torch.tensor(5))
    assert torch.equal(found != 0, kept(torch.tensor(5), 0.5, 1, 4, 5, 9))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**63 - 1])
def test_both_halves_of_the_seed_count(seed):
    assert torch.equal(
        weights_of(5, 9, 2, 0.5, seed) != 0, kept(torch.tensor(seed), 0.5, 2, 2, 5, 9)
    )
    other = kept(torch.tensor(seed ^ 1 << 40), 0.5, 2, 2, 5, 9)
    assert not torch.equal(weights_of(5, 9, 2, 0.5, seed) != 0, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_manual_seed_reproduces_it(backend):
    q, k, v = (torch.randn(2, 2, 20, 8) for _ in range(3))
    with seqkern.use_backend(backend):
        torch.manual_seed(1)
        first, second = sdpa(q, k, v, dropout_p=0.5), sdpa(q, k, v, dropout_p=0.5)
        torch.manual_seed(1)
        again = sdpa(q, k, v, dropout_p=0.5)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    draw_seed(q.device)
    assert not torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(state)
    sdpa(q, k, v)  # without dropout the generator stays
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_backward_replays_the_mask(isa, dtype):
    """What was dropped gets no gradient, and what was kept gets one."""
    p, keys = 0.5, 70
    q = torch.zeros(1, 2, 1, 8, dtype=dtype, requires_grad=True)
    k = torch.randn(1, 2, keys, 8).to(dtype).requires_grad_()
    v = torch.randn(1, 2, keys, 4).to(dtype).requires_grad_()
    seed = torch.tensor(99)
    output, _ = ops.attention(q, k, v, dropout_p=p, seed=seed)
    (gradient,) = torch.autograd.grad(output, v, torch.ones_like(output), retain_graph=True)
    expected = kept(seed, p, 1, 2, 1, keys)[:, :, 0, :, None].expand_as(gradient)
    assert torch.equal(gradient != 0, expected)
    torch.testing.assert_close(gradient[expected], torch.full_like(gradient[expected], 2 / keys))
    (again,) = torch.autograd.grad(output, v, torch.ones_like(output))
    assert torch.equal(gradient, again)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_as_much_is_kept_as_should_be(p):
    """Within four standard deviations of a million draws, in all and along every dimension."""
    queries, keys = 500, 500
    found = (weights_of(queries, keys, 2, p, 3, dtype=torch.float32) != 0).double()
    for dimensions in ((0, 1, 2, 3), (1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):
        count = found.numel() / found.mean(dimensions).numel()
        deviation = (p * (1 - p) / count) ** 0.5
        # Of 500 rows the furthest lies at four deviations now and then; none at five and a half.
        assert ((found.mean(dimensions) - (1 - p)).abs() < 5.5 * deviation).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_its_expectation_is_the_call_without_it(backend):
    q, k, v = (torch.randn(1, 2, 6, 8, dtype=torch.float64) for _ in range(3))
    big = [t.expand(3000, -1, -1, -1) for t in (q, k, v)]
    with seqkern.use_backend(backend):
        mean = sdpa(*big, dropout_p=0.3).mean(0, keepdim=True)
        expected = sdpa(q, k, v)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_left_at_one(backend):
    q, k, v = (torch.randn(1, 2, 6, 8, requires_grad=True) for _ in range(3))
    with seqkern.use_backend(backend):
        output, lse = sdpa(q, k, v, dropout_p=1.0, return_lse=True)
        _, expected = sdpa(q, k, v, return_lse=True)
    assert not output.any()
    torch.testing.assert_close(lse, expected)  # the normalizer is that without dropout
    for gradient in torch.autograd.grad(output.sum(), (q, k, v)):
        assert not gradient.any()


def test_the_levels_agree():
    before, found = library.isa(), []
    try:
        for level in library.isa_levels():
            library.set_isa(level)
            found.append(weights_of(33, 70, 2, 0.4, 8) != 0)
    finally:
        library.set_isa(before)
    assert all(torch.equal(found[0], other) for other in found)


def test_two_calls_in_one_step_draw_two_masks():
    x = torch.zeros(1, 1, 4, 64)
    eye = torch.eye(64)[None, None]
    first, second = (sdpa(x, torch.zeros(1, 1, 64, 64), eye, dropout_p=0.5) for _ in range(2))
    assert not torch.equal(first, second)


def test_the_seed_is_on_the_device_of_the_call():
    """Whatever device new tensors are meant to be on."""
    with torch.device("meta"):
        assert draw_seed(torch.device("cpu")).device.type == "cpu"
    x = torch.randn(1, 1, 4, 8)
    with torch.device("meta"):
        assert sdpa(x, x, x, dropout_p=0.5).device.type == "cpu"
