"""Decoding: few queries against many keys, which has kernels of its own.

They split the keys over threads in pieces, read each piece in chunks, and treat up to four rows
(queries of the heads that share keys) as one tile, sixteen with AMX: the shapes are around those.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkern.nn.functional import scaled_dot_product_attention, varlen_attention
from tests.attention.cases import KERNEL_DTYPES, Case, check
from tests.parity import TINY, relative_error

ROWS = [Case(1, rows, 1, 70, 64, Hkv=1, lse=True) for rows in (*range(1, 18), 32, 37)]
QUERIES = [
    Case(2, 2, 2, 70, 64, lse=True),
    Case(1, 1, 8, 70, 32, lse=True),
    Case(2, 6, 3, 70, 96, Hkv=2, lse=True),
    Case(1, 4, 5, 70, 64, Hkv=1, lse=True),
    Case(1, 5, 7, 70, 40, Hkv=1, lse=True),
]
KEYS = [
    Case(2, 4, 1, keys, 64, Hkv=2, lse=True)
    for keys in (1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 127, 128, 129, 161, 1000, 4097)
] + [Case(1, 1, 1, 20000, 8, lse=True), Case(1, 3, 1, 257, 64, Hkv=1), Case(1, 8, 1, 600, 128)]
DIMENSIONS = [
    Case(1, 6, 1, 83, dim, Dv=value_dim, Hkv=2)
    for dim in (1, 40, 64, 72, 128, 256)
    for value_dim in (dim, 1, 33, 64, 160)
]
OPTIONS = [
    Case(2, 4, 1, 150, 64, Hkv=2, mask="padding"),
    Case(2, 4, 1, 150, 64, Hkv=2, mask="keys"),
    Case(2, 4, 3, 150, 64, Hkv=2, mask="pairs"),
    Case(2, 4, 3, 150, 64, mask="full"),
    Case(2, 4, 3, 150, 64, Hkv=2, mask="rows"),
    Case(2, 4, 1, 150, 64, Hkv=2, mask="+padding"),
    Case(2, 4, 2, 150, 64, Hkv=2, mask="+keys"),
    Case(2, 4, 4, 150, 40, Hkv=2, mask="+full"),
    Case(2, 4, 4, 150, 40, Hkv=2, mask="+rows"),
    Case(1, 4, 4, 150, 64, Hkv=2, is_causal=True),
    Case(1, 4, 4, 150, 64, Hkv=2, causal="bottom_right", lse=True),
    Case(1, 4, 5, 3, 64, Hkv=2, causal="bottom_right"),
    Case(1, 4, 3, 150, 64, Hkv=2, window=(40, 0), lse=True),
    Case(1, 4, 3, 150, 64, Hkv=2, window=(0, 0), lse=True),
    Case(1, 4, 3, 150, 64, Hkv=2, window=(-1, 1), is_causal=True, lse=True),
    Case(1, 4, 8, 150, 64, Hkv=2, window=(7, -1), lse=True),
    Case(1, 4, 3, 150, 64, Hkv=2, scale=-0.2),
    Case(1, 4, 3, 150, 64, Hkv=2, scale=0.0),
    Case(1, 4, 2, 150, 64, Hkv=2, softcap=2.0, lse=True),
    Case(2, 4, 2, 150, 64, Hkv=2, alibi=1, lse=True),
    Case(2, 4, 2, 150, 64, Hkv=2, alibi=2, mask="keys", lse=True),
    Case(2, 4, 2, 150, 64, Hkv=2, sinks=True, lse=True),
    Case(2, 4, 2, 1000, 64, Hkv=2, sinks=True, lse=True, softcap=1.5, alibi=2, mask="+pairs"),
    Case(2, 4, 2, 150, 64, Hkv=2, layout="positions"),
    Case(2, 4, 2, 150, 64, Hkv=2, layout="strided", mask="padding"),
]


def _id(value: Any) -> str:
    return str(value)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("case", ROWS + QUERIES + KEYS + DIMENSIONS + OPTIONS, ids=_id)
def test_as_near_to_the_truth_as_pytorch(isa, case, dtype):
    check(case, dtype, training=False)


def _tensors(
    dtype: torch.dtype = torch.float32,
    *,
    queries: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    keys: int = 150,
    dim: int = 64,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(1, heads, queries, dim).to(dtype),
        torch.randn(1, kv_heads, keys, dim).to(dtype),
        torch.randn(1, kv_heads, keys, dim).to(dtype),
    )


def _attention(*tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    output, lse = scaled_dot_product_attention(
        *tensors, **options, enable_gqa=True, return_lse=True
    )
    return output, lse


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_no_keys(isa, dtype):
    query, key, value = _tensors(dtype, keys=0)
    output, lse = _attention(query, key, value)
    assert output.shape == query.shape and not output.any()
    assert (lse == -math.inf).all()
    sinks = torch.randn(4).to(lse.dtype)
    output, lse = _attention(query, key, value, sinks=sinks)
    assert not output.any()
    torch.testing.assert_close(lse, sinks[None, :, None].expand_as(lse))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("keys", [5, 150, 1000])
def test_rows_that_see_nothing(isa, dtype, keys):
    query, key, value = _tensors(dtype, keys=keys)
    mask = torch.ones(1, 4, 2, keys, dtype=torch.bool)
    mask[0, 1, 0] = False
    bias = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)
    sinks = torch.randn(4).to(torch.float64 if dtype == torch.float64 else torch.float32)
    whole, _ = _attention(query, key, value)
    for excluding in (mask, bias):
        output, lse = _attention(query, key, value, attn_mask=excluding)
        assert not output[0, 1, 0].any() and lse[0, 1, 0] == -math.inf
        output[0, 1, 0] = whole[0, 1, 0]
        torch.testing.assert_close(output, whole)
        output, lse = _attention(query, key, value, attn_mask=excluding, sinks=sinks)
        assert not output[0, 1, 0].any()
        torch.testing.assert_close(lse[0, 1, 0], sinks[1])


def _excluding(kind: str, keys: int) -> tuple[dict[str, Any], Tensor]:
    """Options that exclude some keys, and which keys (heads, queries, keys) still take part."""
    allowed = torch.ones(4, 2, keys, dtype=torch.bool)
    if kind in ("mask", "bias"):
        allowed = torch.rand(4, 2, keys) < 0.6
        allowed[..., 0] = True
        bias = torch.randn(4, 2, keys).masked_fill(~allowed, -math.inf)
        return {"attn_mask": allowed[None] if kind == "mask" else bias[None]}, allowed
    if kind == "padding":
        allowed[..., keys // 2 :] = False
        return {"attn_mask": allowed[None, :1, :1]}, allowed
    if kind == "window":
        place = torch.arange(2)[:, None] + keys - 2 - torch.arange(keys)
        return {"window": (20, 0)}, allowed & (place >= 0) & (place <= 20)
    return {"is_causal": True}, allowed & (torch.arange(keys) <= torch.arange(2)[:, None])


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["mask", "bias", "padding", "window", "causal"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_excluded_keys_may_hold_anything(isa, dtype, kind, bad):
    """Whether they are excluded for all rows or only for some: those see NaN, the others not."""
    keys = 150
    query, key, value = _tensors(dtype, keys=keys)
    options, allowed = _excluding(kind, keys)
    clean, clean_lse = _attention(query, key, value, **options)
    for tensor in (key, value):
        kept = tensor.clone()
        poisoned = torch.zeros(2, keys, dtype=torch.bool)
        poisoned[0] = ~allowed[:2].flatten(0, 1).any(0)  # no query's
        poisoned[1] = ~allowed[2:, 0].any(0)  # not the first query's
        poisoned[1] |= ~allowed[2:].flatten(0, 1).any(0)
        tensor[0][poisoned] = bad
        output, lse = _attention(query, key, value, **options)
        reached = (allowed & poisoned.repeat_interleave(2, 0)[:, None]).any(-1)
        assert not reached[:, 0].any()
        torch.testing.assert_close(output[0][~reached], clean[0][~reached])
        torch.testing.assert_close(lse[0][~reached], clean_lse[0][~reached])
        if math.isnan(bad):
            assert output[0][reached].isnan().all()
        else:
            assert not output[0][reached].isfinite().all(-1).any()
        tensor.copy_(kept)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("place", [0, 77, 149])
def test_keys_that_take_part_propagate(isa, dtype, place):
    query, key, value = _tensors(dtype)
    spoiled = key.clone()
    spoiled[0, 1, place, 5] = math.nan
    output, lse = _attention(query, spoiled, value)
    assert output[0, 2:].isnan().all() and lse[0, 2:].isnan().all()
    assert output[0, :2].isfinite().all() and lse[0, :2].isfinite().all()
    spoiled = value.clone()
    spoiled[0, 1, place, 5] = math.inf
    output, lse = _attention(query, key, spoiled)
    assert (output[0, 2:, :, 5] == math.inf).all() and lse.isfinite().all()
    output[0, 2:, :, 5] = 0
    assert output.isfinite().all()
    spoiled = query.clone()
    spoiled[0, 0, 1, 3] = math.nan
    output, _ = _attention(spoiled, key, value)
    assert output[0, 0, 1].isnan().all()
    output[0, 0, 1] = 0
    assert output.isfinite().all()


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("dim", [64, 40])
@pytest.mark.parametrize("keys", [1, 17, 100, 150])
def test_layouts_do_not_matter(isa, dtype, dim, keys):
    """A slice of a cache, keys inside positions, and every other key give the same bits; nothing
    outside of the slice is read."""
    query, key, value = _tensors(dtype, keys=keys, dim=dim)
    expected = _attention(query, key, value)

    def cached(t: Tensor) -> Tensor:
        cache = torch.full((1, 2, 200, dim), math.nan, dtype=dtype)
        cache[:, :, :keys] = t
        return cache[:, :, :keys]

    def inside(t: Tensor) -> Tensor:
        return t.transpose(1, 2).contiguous().transpose(1, 2)

    def every_other(t: Tensor) -> Tensor:
        return torch.stack([t, torch.full_like(t, math.nan)], dim=3).flatten(2, 3)[:, :, ::2]

    for layout in (cached, inside, every_other):
        found = _attention(query, layout(key), layout(value))
        assert all(map(torch.equal, found, expected)), layout.__name__


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 1, "kv_heads": 1, "keys": 4097},
        {"heads": 3, "kv_heads": 3, "keys": 3000, "queries": 1},
        {"heads": 8, "kv_heads": 2, "keys": 1500, "dim": 128},
    ],
    ids=_id,
)
def test_the_number_of_threads_does_not_matter(isa, dtype, shape):
    tensors = _tensors(dtype, **shape)
    expected = _attention(*tensors, causal="bottom_right")
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        for _ in range(2):
            found = _attention(*tensors, causal="bottom_right")
            assert all(map(torch.equal, found, expected)), threads


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_packed_sequences(isa, dtype, threads):
    """Each as if it were alone: with one query, with several, without queries, without keys."""
    torch.set_num_threads(threads)
    queries, keys = [1, 8, 0, 3, 1, 2], [1000, 20, 33, 0, 1, 300]
    query = torch.randn(sum(queries), 4, 64).to(dtype)
    key, value = torch.randn(2, sum(keys), 2, 64).to(dtype)
    starts = [
        torch.tensor([0, *torch.tensor(n).cumsum(0)], dtype=torch.int32) for n in (queries, keys)
    ]
    output, lse = varlen_attention(query, key, value, *starts, window=(500, 0), return_lse=True)
    for i, (n, m) in enumerate(zip(queries, keys, strict=True)):
        q = query[starts[0][i] :][:n].transpose(0, 1)[None]
        k, v = (t[starts[1][i] :][:m].transpose(0, 1)[None] for t in (key, value))
        alone, alone_lse = _attention(q, k, v, window=(500, 0))
        rows = slice(int(starts[0][i]), int(starts[0][i]) + n)
        torch.testing.assert_close(output[rows], alone[0].transpose(0, 1))
        torch.testing.assert_close(lse[:, rows], alone_lse[0])


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_maxima_that_grow_and_fall(isa, dtype):
    """The running maximum moves in every chunk, or never; far apart scores underflow to 0."""
    for slope in (0.5, -0.5):
        query = torch.ones(1, 1, 1, 32).to(dtype)
        scores = (slope * torch.arange(512)).to(dtype)
        key = (scores / 32)[None, None, :, None].expand(1, 1, 512, 32).contiguous()
        value = torch.randn(1, 1, 512, 32).to(dtype)
        output, lse = _attention(query, key, value, scale=1.0)
        exact = torch.einsum("d,md->m", query[0, 0, 0].double(), key[0, 0].double())
        reference = exact.softmax(0) @ value[0, 0].double()
        rounding = 512 * torch.finfo(lse.dtype).eps  # of scores up to 256
        assert relative_error(output[0, 0, 0], reference) <= 2 * TINY[dtype] + rounding
        torch.testing.assert_close(lse[0, 0, 0], exact.logsumexp(0).to(lse.dtype))
