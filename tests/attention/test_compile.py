"""torch.compile without graph breaks, torch.export, and the operators' fake kernels."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from seqkern.nn.functional import varlen_attention
from tests.attention.cases import Case, inputs, options, some_tensors


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


CASES = [
    Case(2, 2, 5, 7, 8),
    Case(2, 4, 5, 7, 8, Hkv=2, mask="padding", layout="positions", is_causal=True),
    Case(2, 2, 5, 7, 8, mask="+pairs", lse=True, sinks=True, alibi=2),
    Case(1, 2, 6, 6, 8, causal="bottom_right", window=(3, 5), softcap=2.0, dropout=0.4),
]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_full_graph(case, backend):
    tensors = inputs(case, torch.float32)

    def run(tensors):
        result = sdpa(**tensors, **options(case))
        return result if isinstance(result, tuple) else (result,)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    sources = [t for t in tensors.values() if t.requires_grad]
    results = []
    with seqkern.use_backend(backend):
        for function in (run, compiled):
            torch.manual_seed(3)  # the seed of dropout is drawn in the graph
            found = function(tensors)
            total = sum(r.sin().sum() for r in found)
            results.append([*found, *torch.autograd.grad(total, sources)])
    for mine, right in zip(*results, strict=True):
        torch.testing.assert_close(mine, right)


def test_inductor():
    q, k, v = (torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3))

    def run(q, k, v):  # nothing else, for which a C++ compiler would run
        return sdpa(q, k, v, is_causal=True).transpose(1, 2)

    compiled = torch.compile(run, fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), run(q, k, v))
    for mine, right in zip(
        torch.autograd.grad(compiled(q, k, v).sin().sum(), (q, k, v)),
        torch.autograd.grad(run(q, k, v).sin().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, right)


def test_dropout_differs_from_call_to_call():
    x = torch.randn(1, 1, 8, 8)
    compiled = torch.compile(
        lambda x: sdpa(x, x, x, dropout_p=0.5), fullgraph=True, backend="aot_eager"
    )
    assert not torch.equal(compiled(x), compiled(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.complex64], ids=str)
def test_other_dtypes(dtype):
    if dtype == torch.complex64:
        with pytest.raises(NotImplementedError):
            sdpa(*[torch.randn(1, 2, 4, 8, dtype=dtype)] * 3)
        return
    x = torch.randn(1, 2, 4, 8).to(dtype)
    compiled = torch.compile(lambda x: sdpa(x, x, x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), sdpa(x, x, x))


def test_dynamic_shapes():
    compiled = torch.compile(
        lambda q, k, m: sdpa(q, k, k, m), fullgraph=True, backend="aot_eager", dynamic=True
    )
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, queries, keys in ((2, 3, 5), (4, 7, 9), (3, 12, 33)):
            q, k = torch.randn(batch, 6, queries, 8), torch.randn(batch, 6, keys, 8)
            mask = torch.rand(batch, 1, 1, keys) < 0.8
            torch.testing.assert_close(compiled(q, k, mask), sdpa(q, k, k, mask))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_one_tensor_in_three_places(requires_grad):
    x = torch.randn(1, 2, 4, 8, requires_grad=requires_grad)
    compiled = torch.compile(lambda x: sdpa(x, x, x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), sdpa(x, x, x))
    if requires_grad:
        found, expected = (
            torch.autograd.grad(function(x).sin().sum(), x)[0]
            for function in (compiled, lambda x: sdpa(x, x, x))
        )
        torch.testing.assert_close(found, expected)


def test_any_rank_and_mask():
    compiled = torch.compile(lambda q, k, m: sdpa(q, k, k, m), fullgraph=True, backend="aot_eager")
    q, k = torch.randn(2, 1, 3, 5, 8), torch.randn(2, 3, 7, 8)
    for mask in (torch.randn(7), torch.randn(5, 7), torch.rand(2, 1, 1, 1, 7) < 0.8):
        torch.testing.assert_close(compiled(q, k, mask), sdpa(q, k, k, mask))


def test_varlen():
    x = torch.randn(12, 2, 8, requires_grad=True)
    compiled = torch.compile(
        lambda x, cu: varlen_attention(x, x, x, cu, cu, is_causal=True),
        fullgraph=True,
        backend="aot_eager",
    )
    for starts in ([0, 5, 12], [0, 11, 12]):
        cu = torch.tensor(starts)
        expected = varlen_attention(x, x, x, cu, cu, is_causal=True)
        torch.testing.assert_close(compiled(x, cu), expected)
        (mine,) = torch.autograd.grad(compiled(x, cu).sin().sum(), x)
        torch.testing.assert_close(mine, torch.autograd.grad(expected.sin().sum(), x)[0])
    with torch.no_grad(), pytest.raises(RuntimeError, match="cu_seqlens"):
        compiled(x, torch.tensor([0, 5, 13]))


def test_autocast_inside():
    def run(x):
        with torch.autocast("cpu"):
            return sdpa(x, x, x)

    x = torch.randn(1, 2, 4, 8)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert compiled(x).dtype == torch.bfloat16
    torch.testing.assert_close(compiled(x), run(x))


def test_another_backend_means_another_graph():
    compiled = torch.compile(lambda x: sdpa(x, x, x), fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 2, 4, 8)
    expected = compiled(x)
    for backend in ("reference", "torch", "cpu"):
        with seqkern.use_backend(backend):
            torch.testing.assert_close(compiled(x), expected)
    with seqkern.use_backend("triton"), pytest.raises(Exception, match="triton"):
        compiled(x)


class Attends(torch.nn.Module):
    def forward(self, q, k):
        return sdpa(q, k, k, is_causal=True, window=(3, 3))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    shapes = ({2: torch.export.Dim("queries", min=2)}, {2: torch.export.Dim("keys", min=2)})
    program = torch.export.export(Attends(), (q, k), dynamic_shapes=shapes, strict=strict)
    longer = torch.randn(2, 3, 21, 8), torch.randn(2, 3, 40, 8)
    torch.testing.assert_close(program.module()(*longer), Attends()(*longer))
    targets = [str(node.target) for node in program.graph.nodes]
    assert sum("seqkern.attention_forward" in target for target in targets) == 1


def operator_arguments(name: str, dtype: torch.dtype, positions: bool) -> tuple[list, list]:
    """The tensors and the other options of attention_forward, for an entry of the table."""
    tensors, chosen = some_tensors(name, dtype)
    if positions:
        for key in ("query", "key", "value"):
            tensors[key] = tensors[key].transpose(1, 2).contiguous().transpose(1, 2)
    optional = [tensors.get(key) for key in ("mask", "bias", "alibi_slopes", "sinks")]
    qkv = [tensors[key] for key in ("query", "key", "value")]
    left, right = chosen.get("window", (-1, -1))
    rest = [
        chosen.get("scale", 0.4),
        chosen.get("softcap", 0.0),
        chosen.get("dropout_p", 0.0),
        chosen.get("is_causal", False),
        left,
        right,
    ]
    return [*qkv, *optional, None, None, chosen.get("seed")], rest


# opcheck's two quick tests: no aliasing and no writing of arguments, and the fake kernels' shapes,
# dtypes and strides. The other ones trace the operator, which test_full_graph does too.
QUICK = ("test_schema", "test_faketensor")
ALL = (*QUICK, "test_autograd_registration", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("positions", [False, True], ids=["heads", "positions"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["plain", "mask", "everything"])
def test_operators(name, dtype, positions):
    """torch.library.opcheck: schemas, fake kernels, no aliasing, strides."""
    ops = torch.ops.seqkern
    tensors, rest = operator_arguments(name, dtype, positions)
    full = dtype == torch.float32 and name == "everything"
    every_test = ALL if full else QUICK
    opcheck(ops.attention_forward.default, (*tensors, *rest), test_utils=every_test)
    output, lse = ops.attention_forward(*tensors, *rest)
    query, key, value, *others = tensors
    bias, slopes = others[1:3]
    fixed = [query, key, value, output, lse, *others, *rest]
    every = 7 | (8 if bias is not None else 0) | (16 if slopes is not None else 0)
    grads = torch.randn_like(output), torch.randn_like(lse)
    backward = ops.attention_backward.default
    for needs in (every, 1, 2, 4, every & ~1):
        for grad_lse in (grads[1], None):
            opcheck(backward, (grads[0], grad_lse, *fixed, needs), test_utils=QUICK)
    expanded = torch.ones((), dtype=dtype).expand(output.shape)
    opcheck(backward, (expanded, None, *fixed, every), test_utils=every_test)


@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 1, 3, 2), (2, 3, 1, 0)], ids=str)
def test_operators_on_rows_that_are_not_contiguous(order):
    """The kernels copy them, and the results are laid out as the copies are."""
    ops = torch.ops.seqkern
    shape = (2, 3, 5, 8)
    sizes = [0] * 4
    for place, size in zip(order, shape, strict=True):
        sizes[place] = size
    q, k, v = (torch.randn(sizes).permute(order) for _ in range(3))
    assert q.stride(3) != 1
    fixed = [None] * 7, [0.4, 0.0, 0.0, True, -1, -1]
    opcheck(ops.attention_forward.default, (q, k, v, *fixed[0], *fixed[1]), test_utils=QUICK)
    output, lse = ops.attention_forward(q, k, v, *fixed[0], *fixed[1])
    saved = (torch.ones_like(output), None, q, k, v, output, lse, *[None] * 7, *fixed[1], 7)
    opcheck(ops.attention_backward.default, saved, test_utils=QUICK)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_varlen_operators(dtype):
    ops = torch.ops.seqkern
    q, k, v = (torch.randn(9, h, 8).to(dtype) for h in (4, 2, 2))
    slopes, cu = torch.rand(2, 4), torch.tensor([0, 2, 9], dtype=torch.int32)
    rest = [0.3, 0.0, 0.0, True, -1, -1]
    forward = (q, k, v, None, None, slopes, None, cu, cu, None, *rest)
    opcheck(ops.attention_forward.default, forward, test_utils=QUICK)
    output, lse = ops.attention_forward(*forward)
    grads = torch.randn_like(output), torch.randn_like(lse)
    for needs in (7 | 16, 1, 6):
        fixed = (q, k, v, output, lse, None, None, slopes, None, cu, cu, None, *rest, needs)
        opcheck(ops.attention_backward.default, (*grads, *fixed), test_utils=QUICK)
