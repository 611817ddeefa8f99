"""The operator between the projections of multi-head attention: outputs, weights and gradients
against the reference, in sizes of several tiles, blocks of queries and groups of heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.attention import multi_head, reference
from seqkern.attention.multi_head import MEAN, NO_WEIGHTS, OF_EACH_HEAD, Call
from seqkern.attention.seeds import draw_seed
from seqkern.attention.weights import attention_weights
from tests.parity import assert_parity

SIZES = {  # batch, heads, queries, keys, features of a head
    "tiny": (2, 3, 4, 5, 6),
    "one tile": (2, 4, 50, 64, 16),
    "one tile of keys": (1, 2, 70, 90, 32),
    "tiles": (2, 3, 130, 200, 16),
    "blocks": (1, 2, 300, 700, 8),
    "one sequence": (1, 8, 40, 300, 64),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def masks(
    kind: str, sizes: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor | None, bool, Tensor | None]:
    """mask, mask_excludes and bias."""
    batch, heads, queries, keys, _ = sizes
    if kind == "padding":
        mask = torch.arange(keys) >= torch.randint(1, keys + 1, (batch, 1))
        return mask, True, None
    if kind == "boolean":
        return torch.rand(batch, 1, queries, keys) < 0.5, False, None
    if kind == "bias":
        bias = torch.randn(batch, heads, queries, keys)
        bias[torch.rand(bias.shape) < 0.3] = -torch.inf
        bias[:, :, 1] = -torch.inf  # a query that attends to nothing
        return None, False, bias.to(dtype)
    return None, False, None


def by_reference(
    parts: list[Tensor], bias: Tensor | None, call: Call, mask: Tensor | None
) -> list[Tensor]:
    """Output and weights."""
    q, k, v = (x.unflatten(-1, (call.heads, -1)).transpose(1, 2) for x in parts)
    options = {"mask": mask, "bias": bias, "seed": call.seed, "dropout_p": call.dropout_p}
    output, lse = reference.attention(q, k, v, **options)
    result = [output.transpose(1, 2).flatten(2)]
    if call.weights != NO_WEIGHTS:
        average = call.weights == MEAN
        result.append(attention_weights(q, k, lse, mask, bias, call.dropout_p, call.seed, average))
    return result


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("weights", [NO_WEIGHTS, MEAN, OF_EACH_HEAD], ids=["none", "mean", "each"])
@pytest.mark.parametrize("kind", ["dense", "padding", "boolean", "bias", "dropout", "causal"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_reference(dtype, size, kind, weights, threads):
    torch.set_num_threads(threads)
    sizes = SIZES[size]
    batch, heads, queries, keys, width = sizes
    mask, excludes, bias = masks(kind, sizes, dtype)
    dropout_p = 0.3 if kind == "dropout" else 0.0
    seed = draw_seed(torch.device("cpu")) if dropout_p else None
    causal = kind == "causal"
    call = Call(heads, True, mask, excludes, seed, dropout_p, causal, weights)
    full = mask
    if excludes:
        full = ~mask[:, None, None]
    if causal:
        full = torch.ones(1, 1, queries, keys, dtype=torch.bool).tril_()
    parts = [torch.randn(batch, n, heads * width).to(dtype) for n in (queries, keys, keys)]
    shapes: dict[torch.dtype, list[Tensor]] = {}
    grad = torch.randn(batch, queries, heads * width)
    for wide in (dtype, torch.float64):
        leaves = [t.to(wide).requires_grad_() for t in parts]
        b = None if bias is None else bias.to(wide).requires_grad_()
        found = by_reference(leaves, b, call, full)
        inputs = leaves if b is None else [*leaves, b]
        grads = torch.autograd.grad(found[0], inputs, grad.to(dtype).to(wide))
        shapes[wide] = [*found, *grads]

    leaves = [t.clone().requires_grad_() for t in parts]
    b = None if bias is None else bias.clone().requires_grad_()
    q, k, v = leaves
    found = [x for x in multi_head.attend(q, torch.cat([k, v], -1), None, b, call) if x is not None]
    inputs = leaves if b is None else [*leaves, b]
    ours = [*found, *torch.autograd.grad(found[0], inputs, grad.to(dtype))]
    with torch.no_grad():
        again = multi_head.attend(q, k, v, b, call)
    for with_graph, without in zip(found, again, strict=False):
        assert torch.equal(with_graph, without)
    assert len(ours) == len(shapes[dtype])
    for mine, plain, exact in zip(ours, shapes[dtype], shapes[torch.float64], strict=True):
        assert_parity(mine, plain, exact)


@pytest.mark.parametrize("packing", [1, 2, 3])
@pytest.mark.parametrize("layout", ["batch first", "batch second", "no batch"])
def test_layouts(layout, packing):
    """However the projections lie, to the bit."""
    batch, length, heads, width = (1 if layout == "no batch" else 2), 7, 2, 8
    parts = [torch.randn(batch, length, heads * width) for _ in range(3)]
    grad = torch.randn(batch, length, heads * width)
    expected: list[Tensor] = []
    for first in (True, layout == "batch first"):
        bare = bool(expected) and layout == "no batch"

        def laid_out(x: Tensor, first: bool = first, bare: bool = bare) -> Tensor:
            if bare:
                return x[0]
            return x if first else x.transpose(0, 1).contiguous()

        leaves = [laid_out(x).requires_grad_() for x in parts]
        q, k, v = leaves
        packed = {
            1: (torch.cat(leaves, -1), None, None),
            2: (q, torch.cat([k, v], -1), None),
            3: (q, k, v),
        }
        call = Call(heads, first, None, False, None, 0.0, True, OF_EACH_HEAD)
        output, weights = multi_head.attend(*packed[packing if expected else 3], None, call)
        grads = torch.autograd.grad(output, leaves, laid_out(grad))
        if not expected:
            expected = [output, *grads, weights]
            continue
        for x, y in zip([output, *grads], expected[:-1], strict=True):
            assert torch.equal(x, laid_out(y))
        assert torch.equal(weights, expected[-1])


@pytest.mark.parametrize("weights", [MEAN, OF_EACH_HEAD])
@pytest.mark.parametrize("kind", ["dense", "padding", "bias", "dropout"])
def test_gradients_through_the_weights(kind, weights):
    """First and second derivatives of what is made of output and weights."""
    sizes = (2, 2, 3, 4, 3)
    batch, heads, queries, keys, width = sizes
    mask, excludes, bias = masks(kind, sizes, torch.float64)
    if bias is not None:
        bias = torch.randn(bias.shape, dtype=torch.float64)
    dropout_p = 0.3 if kind == "dropout" else 0.0
    seed = draw_seed(torch.device("cpu")) if dropout_p else None
    call = Call(heads, True, mask, excludes, seed, dropout_p, False, weights)
    leaves = [
        torch.randn(batch, n, heads * width * parts, dtype=torch.float64, requires_grad=True)
        for n, parts in ((queries, 1), (keys, 2))
    ]
    leaves += [] if bias is None else [bias.requires_grad_()]

    def run(q: Tensor, kv: Tensor, b: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(multi_head.attend(q, kv, None, b, call))  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def test_weights_are_the_probabilities_of_the_output():
    """With values that are unit vectors the output is the weights."""
    heads, keys = 2, 16
    q, k = torch.randn(1, 70, heads * keys), torch.randn(1, keys, heads * keys)
    v = torch.eye(keys).repeat(1, heads)[None]
    output, weights = multi_head.attend(
        q, k, v, None, Call(heads, True, None, False, None, 0.0, False, OF_EACH_HEAD)
    )
    assert weights is not None
    assert torch.equal(output.unflatten(-1, (heads, keys)).transpose(1, 2), weights)


@pytest.mark.parametrize("weights", [MEAN, OF_EACH_HEAD])
@pytest.mark.parametrize("slope", [0.2, -0.2])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_of_maxima_that_grow_and_fall(isa, dtype, slope, weights):
    """The running maximum moves in every chunk of keys, or never: what was made with an earlier one
    is scaled by a factor of its own."""
    heads, queries, keys, width = 2, 70, 700, 32
    scores = (slope * torch.arange(keys)).to(dtype)
    key = (scores / width)[None, :, None].expand(1, keys, heads * width).contiguous()
    query = torch.ones(1, queries, heads * width, dtype=dtype) * width**0.5
    value = torch.randn(1, keys, heads * width).to(dtype)
    call = Call(heads, True, None, False, None, 0.0, False, weights)
    _, found = multi_head.attend(query, key, value, None, call)
    assert found is not None
    parts = (query, key)
    q, k = (x.double().unflatten(-1, (heads, width)).transpose(1, 2) for x in parts)
    expected = (q @ k.transpose(2, 3) * width**-0.5).softmax(-1)
    expected = expected.mean(1) if weights == MEAN else expected
    error = (found.double() - expected).abs().max() / expected.max()
    rounding = torch.finfo(torch.promote_types(dtype, torch.float32)).eps * scores.abs().max()
    assert error <= 2 * torch.finfo(dtype).eps + 2 * rounding


def test_a_padding_mask_may_change_before_the_backward():
    """As with PyTorch's module, which adds a copy of it to the scores."""
    module = seqkern.nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8, requires_grad=True)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    grads = []
    for changes in (False, True):
        mask = padding.clone()
        output, _ = module(x, x, x, key_padding_mask=mask)
        if changes:
            mask.fill_(True)
        grads += torch.autograd.grad(output.sum(), x)
    assert torch.equal(*grads)


@pytest.mark.parametrize(
    "shapes, heads, message",
    [
        (((2, 3, 13), None, None), 2, "does not fit 2 heads"),
        (((2, 3, 8), (2, 5, 12), None), 2, "key has the shape"),
        (((2, 3, 8), (1, 5, 8), (2, 5, 8)), 2, "key has the shape"),
        (((2, 3, 8), None, (2, 5, 8)), 2, "value is given without key"),
        (((2, 2, 3, 8), None, None), 2, "2 or 3 dimensions"),
    ],
)
def test_refuses_what_does_not_fit(shapes, heads, message):
    tensors = [None if shape is None else torch.randn(shape) for shape in shapes]
    with pytest.raises(RuntimeError, match=message):
        multi_head.attend(*tensors, None, Call(heads, True, None, False, None, 0.0, False, MEAN))


@pytest.mark.parametrize("which", ["key", "value", "key_padding_mask", "attn_mask"])
def test_a_tensor_on_another_device_is_an_error(which):
    module = seqkern.nn.MultiheadAttention(8, 2, batch_first=True)
    tensors = {name: torch.randn(2, 5, 8) for name in ("query", "key", "value")}
    tensors["key_padding_mask"] = torch.zeros(2, 5, dtype=torch.bool)
    tensors["attn_mask"] = torch.zeros(5, 5, dtype=torch.bool)
    tensors[which] = tensors[which].to("meta")
    with pytest.raises(RuntimeError):
        module(**tensors)
