"""PyTorch's own sample inputs for scaled_dot_product_attention, run against ours, and a list of
calls of every kind, valid and not, whose outcome in PyTorch is ours too.

The samples are part of the torch wheel (torch.testing._internal.common_methods_invocations). It has
no error inputs for this function, so the list below stands for them: PyTorch itself is asked each
time what it says.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch.nn import functional as F
from torch.testing._internal.common_methods_invocations import op_db

import seqkern
import tests.parity
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from tests.triton_device import DEVICE

# The samples' numbers reach 9 and their scores 200, which saturates the softmax. PyTorch in float64
# stands for the reference; ours in float64 can only be as near to it as two computations are.
TINY = {**tests.parity.TINY, torch.float64: 1e-10}

(INFO,) = (op for op in op_db if op.name == "nn.functional.scaled_dot_product_attention")


def results(function, arguments, options, exact: bool = False) -> list[torch.Tensor]:
    """The output and the gradients of a random function of it, `exact` in float64."""

    def leaf(value):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        value = value.detach().double() if exact else value.detach()
        return value.clone().requires_grad_()

    tensors = [leaf(t) for t in arguments]
    options = {name: leaf(t) for name, t in options.items()}
    output = function(*tensors, **options)
    sources = [t for t in (*tensors, *options.values()) if isinstance(t, torch.Tensor)]
    sources = [t for t in sources if t.requires_grad]
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return [output, *torch.autograd.grad(output, sources, weight)]


def assert_near(found, expected, reference) -> None:
    """The rule of `tests.parity`, with room for gradients that are 0 but for rounding. A float32
    mask beside 16-bit queries has a gradient as exact as those 16 bits let it be."""
    tiny = TINY[found[0].dtype]
    for mine, theirs, exact in zip(found, expected, reference, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        distance, allowed = (torch.linalg.vector_norm(t - exact) for t in (mine, theirs))
        size = torch.linalg.vector_norm(exact).clamp(min=1)
        assert distance <= 2 * allowed + max(tiny, TINY[mine.dtype]) * size


def hold_every_sample(dtype: torch.dtype, backend: str) -> None:
    count = dropped = 0
    for sample in INFO.sample_inputs(DEVICE, dtype, requires_grad=True):
        call = ([sample.input, *sample.args], sample.kwargs)
        expected = results(F.scaled_dot_product_attention, *call)
        with seqkern.use_backend(backend):
            found = results(sdpa, *call)
        if sample.kwargs["dropout_p"] > 0:
            # Another generator draws other weights; what they are is tested in test_dropout.
            dropped += 1
            for mine, theirs in zip(found, expected, strict=True):
                assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
                assert mine.isfinite().all()
            continue
        reference = results(F.scaled_dot_product_attention, *call, exact=True)
        assert_near(found, expected, reference)
        count += 1
    assert count > 10 and dropped > 5


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", sorted(INFO.dtypes, key=str), ids=str)
def test_every_sample_input(isa, dtype, backend):
    hold_every_sample(dtype, backend)


@pytest.mark.triton
def test_every_sample_input_by_triton():
    hold_every_sample(torch.bfloat16, "triton")


GENERATOR = torch.Generator().manual_seed(0)  # the tensors below are made at import


def of(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR).to(dtype)


Q, K, V = of(2, 3, 4, 8), of(2, 3, 5, 8), of(2, 3, 5, 8)


def cast(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return tuple(t.to(dtype) for t in (Q, K, V))


def boolean(*shape: int) -> torch.Tensor:
    mask = torch.rand(shape, generator=GENERATOR) < 0.7
    return mask.index_fill(-1, torch.tensor(0), True)


GQA = {"enable_gqa": True}
VALID = {
    "2-D": ((of(4, 8), of(5, 8), of(5, 8)), {}),
    "3-D": ((Q[0], K[0], V[0]), {}),
    "5-D": ((Q[None], K[None], V[None]), {"is_causal": True}),
    "6-D": ((Q[None, None], K[None, None], V[None, None]), {}),
    "2-D against 3-D": ((of(4, 8), K[0], V[0]), {}),
    "3-D against 4-D": ((Q[0], K, V), {}),
    "one batch of keys": ((Q, K[:1], V[:1]), {}),
    "one head of queries": ((Q[:1, :1], K, V), {}),
    "one head of values": ((Q, K, V[:1, :1]), {}),
    "5-D against 4-D": ((of(2, 1, 3, 4, 8), K, V), {}),
    "other width of values": ((Q, K, of(2, 3, 5, 9)), {}),
    "grouped heads": ((of(2, 6, 4, 8), K, V), GQA),
    "one head of keys for all": ((Q, K[:, :1], V[:, :1]), GQA),
    "grouped heads in 3-D": ((of(6, 4, 8), K[0], V[0]), GQA),
    "grouped heads in 5-D": ((of(2, 2, 6, 4, 8), of(2, 2, 3, 5, 8), of(2, 2, 3, 5, 8)), GQA),
    "other groups of keys and values": ((of(2, 6, 4, 8), K, of(2, 2, 5, 8)), GQA),
    "grouped heads, one batch of keys": ((of(2, 6, 4, 8), K[:1], V[:1]), GQA),
    "grouped heads where there are none": ((Q, K, V), GQA),
    "no batch": ((Q[:0], K[:0], V[:0]), {}),
    "no heads": ((Q[:, :0], K[:, :0], V[:, :0]), {}),
    "no queries": ((Q[:, :, :0], K, V), {"is_causal": True}),
    "no keys": ((Q, K[:, :, :0], V[:, :, :0]), {}),
    "no keys, causal": ((Q, K[:, :, :0], V[:, :, :0]), {"is_causal": True}),
    "no features": ((Q[..., :0], K[..., :0], V), {}),
    "no features at all": ((Q[..., :0], K[..., :0], V[..., :0]), {}),
    "no width of values": ((Q, K, V[..., :0]), {}),
    "scale 0": ((Q, K, V), {"scale": 0.0}),
    "a negative scale": ((Q, K, V), {"scale": -1.5}),
    "an integer as scale": ((Q, K, V), {"scale": 2}),
    "dropout of everything": ((Q, K, V), {"dropout_p": 1.0}),
    "a float32 mask for bfloat16": (cast(torch.bfloat16), {"attn_mask": of(4, 5)}),
    "a float32 mask for float16": (cast(torch.float16), {"attn_mask": of(4, 5)}),
    "a float32 mask for float64": (cast(torch.float64), {"attn_mask": of(4, 5)}),
    "positional": ((Q, K, V, boolean(4, 5), 0.0, False), {}),
    **{
        f"mask {shape}": ((Q, K, V), {"attn_mask": boolean(*shape)})
        for shape in ((4, 5), (1, 5), (4, 1), (2, 1, 4, 5), (2, 3, 4, 5), (3, 4, 5), (1, 1, 1, 5))
    },
    **{
        f"additive mask {shape}": ((Q, K, V), {"attn_mask": of(*shape)})
        for shape in ((4, 5), (1, 5), (4, 1), (2, 1, 4, 5), (2, 3, 4, 5), (3, 4, 5), (2, 3, 1, 1))
    },
    "mask (2, 1, 3, 4, 5) of 5-D": (
        (of(2, 2, 3, 4, 8), of(2, 2, 3, 5, 8), of(2, 2, 3, 5, 8)),
        {"attn_mask": boolean(2, 1, 3, 4, 5)},
    ),
}


def with_a_feature_of_zeros(query, key, value):
    return F.scaled_dot_product_attention(F.pad(query, (0, 1)), F.pad(key, (0, 1)), value)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", VALID)
def test_every_valid_call_gives_what_pytorch_gives(name, backend):
    """The output and every gradient."""
    if name == "no heads" and torch.__version__.startswith("2.11"):
        pytest.skip("PyTorch 2.11 divides by zero, which ends the process")
    call, theirs = VALID[name], F.scaled_dot_product_attention
    if name == "no features" and torch.__version__.startswith("2.12"):
        theirs = with_a_feature_of_zeros  # PyTorch 2.12 gives zeros in place of the values' mean
    expected = results(theirs, *call)
    reference = results(theirs, *call, exact=True)
    with seqkern.use_backend(backend):
        found = results(sdpa, *call)
    assert_near(found, expected, reference)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_mask_and_is_causal_hold_together(backend):
    """As PyTorch took them up to 2.13; later ones refuse the two."""
    mask = boolean(4, 5)
    both = ((Q, K, V), {"attn_mask": mask & torch.ones(4, 5, dtype=torch.bool).tril()})
    expected = results(F.scaled_dot_product_attention, *both)
    reference = results(F.scaled_dot_product_attention, *both, exact=True)
    with seqkern.use_backend(backend):
        found = results(sdpa, (Q, K, V), {"attn_mask": mask, "is_causal": True})
    assert_near(found, expected, reference)


INVALID = {
    "a number as query": ((1.0, K, V), {}),
    "no value": ((Q, K, None), {}),
    "a list as mask": ((Q, K, V), {"attn_mask": [1]}),
    "rank 1": ((of(8), K, V), {}),
    "rank 0": ((of(), K, V), {}),
    "dtype of key": ((Q, K.double(), V), {}),
    "dtype of value": ((Q, K, V.bfloat16()), {}),
    "integers among them": ((Q, K.long(), V), {}),
    "device of key": ((Q, K.to("meta"), V), {}),
    "device of value": ((Q, K, V.to("meta")), {}),
    "width of key": ((Q, of(2, 3, 5, 9), V), {}),
    "batches": ((Q, of(4, 3, 5, 8), of(4, 3, 5, 8)), {}),
    "heads": ((Q, of(2, 2, 5, 8), of(2, 2, 5, 8)), {}),
    "heads of value": ((Q, K, of(2, 2, 5, 8)), {}),
    "heads that do not divide": ((of(2, 5, 4, 8), K, V), GQA),
    "more heads of key": ((Q, of(2, 6, 5, 8), of(2, 6, 5, 8)), GQA),
    "grouped heads in 2-D": ((of(4, 8), of(5, 8), of(5, 8)), GQA),
    "width of mask": ((Q, K, V), {"attn_mask": boolean(4, 6)}),
    "heads of mask": ((Q, K, V), {"attn_mask": boolean(2, 4, 5)}),
    "rank of mask": ((Q, K, V), {"attn_mask": boolean(2, 2, 3, 4, 5)}),
    "float64 mask": ((Q, K, V), {"attn_mask": of(4, 5, dtype=torch.float64)}),
    "bfloat16 mask": ((Q, K, V), {"attn_mask": of(4, 5, dtype=torch.bfloat16)}),
    "integer mask": ((Q, K, V), {"attn_mask": torch.ones(4, 5, dtype=torch.int64)}),
    "float16 mask for bfloat16": (cast(torch.bfloat16), {"attn_mask": of(4, 5).half()}),
    "dropout above 1": ((Q, K, V), {"dropout_p": 1.5}),
    "integers": (cast(torch.int64), {}),
    "booleans": (cast(torch.bool), {}),
    "complex": (cast(torch.complex64), {}),
    "8 bits": (cast(torch.float8_e4m3fn), {}),
}


def head(error: BaseException) -> str:
    """The sentence of an error, without what PyTorch appends to it."""
    return str(error).split("\nException raised")[0].split("\n")[0]


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("name", INVALID)
def test_every_invalid_call_raises_what_pytorch_raises(name, backend):
    """The same class, and PyTorch's sentence, which ours may go on from to name the argument."""
    arguments, options = INVALID[name]
    if backend != "auto" and name in ("integers", "booleans", "complex", "8 bits"):
        with seqkern.use_backend(backend), pytest.raises(RuntimeError, match="cannot run this"):
            sdpa(*arguments, **options)
        return
    with pytest.raises(Exception) as theirs:  # noqa: B017
        F.scaled_dot_product_attention(*arguments, **options)
    with seqkern.use_backend(backend), pytest.raises(type(theirs.value)) as ours:
        sdpa(*arguments, **options)
    assert re.match(re.escape(head(theirs.value)), str(ours.value)), ours.value
