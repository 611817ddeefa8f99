"""First, second and forward-mode derivatives, and which of them are computed at all."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad

import seqkern
from seqkern.attention import ops
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from tests.attention.cases import OPTIONS_OF_THE_REFERENCE, some_tensors
from tests.parity import assert_all_parity

BACKENDS = ("cpu", "reference")


def function_of(name: str, queries: int = 5, keys: int = 7):
    """A case as a function of its floating tensors: (function, tensors)."""
    tensors, options = some_tensors(name, queries=queries, keys=keys)
    mask = tensors.pop("mask", None)
    leaves = {n: t.clone().requires_grad_() for n, t in tensors.items()}

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        named = dict(zip(leaves, values, strict=True))
        output, lse = ops.attention(**named, mask=mask, **options)
        return output, lse.masked_fill(lse == -torch.inf, 0)  # no difference quotient at -inf

    return run, leaves


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPTIONS_OF_THE_REFERENCE)
def test_gradcheck(name, backend):
    run, leaves = function_of(name)
    with seqkern.use_backend(backend):
        assert torch.autograd.gradcheck(run, tuple(leaves.values()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", OPTIONS_OF_THE_REFERENCE)
def test_gradgradcheck(name, backend):
    run, leaves = function_of(name, queries=3, keys=4)
    with seqkern.use_backend(backend):
        assert torch.autograd.gradgradcheck(run, tuple(leaves.values()), fast_mode=True)


@pytest.mark.parametrize("name", ["plain", "everything", "mask and bias"])
def test_each_gradient_alone_is_that_of_all_together(name):
    run, leaves = function_of(name)
    weights = [torch.randn_like(r) for r in run(*leaves.values())]
    together = torch.autograd.grad(run(*leaves.values()), leaves.values(), weights)
    for wanted, expected in zip(leaves, together, strict=True):
        alone = {n: t.detach().requires_grad_(n == wanted) for n, t in leaves.items()}
        (found,) = torch.autograd.grad(run(*alone.values()), alone[wanted], weights)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14, msg=wanted)


@pytest.mark.parametrize("which", [0, 1], ids=["output", "lse"])
@pytest.mark.parametrize("name", ["plain", "everything", "sinks"])
def test_only_one_result_is_used(name, which):
    run, leaves = function_of(name)
    weight = torch.randn_like(run(*leaves.values())[which])
    results = []
    for backend in BACKENDS:
        with seqkern.use_backend(backend):
            results.append(
                torch.autograd.grad(
                    run(*leaves.values())[which], leaves.values(), weight, allow_unused=True
                )
            )
    for leaf, mine, expected in zip(leaves, *results, strict=True):
        if which == 1 and leaf == "value":
            assert mine is None or not mine.any()  # lse knows nothing of the values
        else:
            torch.testing.assert_close(mine, expected, rtol=0, atol=1e-13, msg=leaf)


def test_a_graph_walked_twice():
    run, leaves = function_of("everything")
    total = sum(r.sum() for r in run(*leaves.values()))
    first = torch.autograd.grad(total, leaves.values(), retain_graph=True)
    second = torch.autograd.grad(total, leaves.values())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, leaves.values())


def test_a_saved_tensor_changed_in_place_is_noticed():
    q, k, v = (torch.randn(1, 2, 5, 8, requires_grad=True) for _ in range(3))
    scaled = k * 1
    output = sdpa(q, scaled, v)
    with torch.no_grad():
        scaled.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_that_are_no_plain_tensors(dtype):
    """Expanded by sum(), transposed, strided, and with a lse gradient of the same kinds."""
    q, k, v = (torch.randn(2, 3, 9, 8).to(dtype).requires_grad_() for _ in range(3))
    output, lse = sdpa(q, k, v, is_causal=True, return_lse=True)
    weight = torch.randn(2, 3, 9, 8).to(dtype)
    for grad in (
        torch.ones((), dtype=dtype).expand(2, 3, 9, 8),
        weight[:, :, :1].expand(2, 3, 9, 8),
        weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        torch.stack([weight, weight * torch.nan], -1)[..., 0],
        weight.flip(-1).flip(-1),
    ):
        for grad_lse in (
            torch.ones(()).expand(2, 3, 9),
            torch.randn(9, 3, 2).permute(2, 1, 0),
        ):
            both = ([output, lse], [q, k, v])
            found = torch.autograd.grad(*both, [grad, grad_lse], retain_graph=True)
            plain = [grad.clone(memory_format=torch.contiguous_format), grad_lse.contiguous()]
            expected = torch.autograd.grad(*both, plain, retain_graph=True)
            for mine, right in zip(found, expected, strict=True):
                assert torch.equal(mine, right)


def test_one_tensor_in_three_places():
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sdpa(x, x, x, is_causal=True), x)
    assert torch.autograd.gradgradcheck(lambda x: sdpa(x, x, x, is_causal=True), x, fast_mode=True)


def test_broadcast_arguments_get_summed_gradients():
    q = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    k = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    v = torch.randn(1, 1, 6, 4, dtype=torch.float64, requires_grad=True)
    for shape in ((6,), (5, 1), (1, 1, 1, 1), (2, 1, 1, 6), (3, 5, 6)):
        mask = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda q, k, v, m: sdpa(q, k, v, m), (q, k, v, mask))


@pytest.mark.parametrize("right", [False, True])
def test_every_width_of_a_window(isa, right):
    """The last query or key that a tile sees is at every place of a tile once."""
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v, weight = (torch.randn(1, 1, 200, 8).to(dtype) for _ in range(4))
        for width in range(1, 66):  # of a single key no gradient is left
            window = (0, width) if right else (width, 0)

            def run(backend, dtype, tensors=(q, k, v), weight=weight, window=window):
                inputs = [t.to(dtype).requires_grad_() for t in tensors]
                with seqkern.use_backend(backend):
                    output = sdpa(*inputs, window=window)
                return [output, *torch.autograd.grad(output, inputs, weight.to(dtype))]

            names = [f"{name}, window {window}" for name in ("output", "query", "key", "value")]
            ours, theirs = run("cpu", dtype), run("reference", dtype)
            assert_all_parity(ours, theirs, run("reference", torch.float64), names)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(150, 1), (1, 300), (1, 1), (2, 150, 1), (2, 150, 300)], ids=str)
def test_a_mask_broadcast_over_many_tiles(shape, dtype, threads):
    q, k, v = (torch.randn(1, h, n, 16).to(dtype) for h, n in ((2, 150), (1, 300), (1, 300)))
    tensors = (q, k, v, torch.randn(shape).to(dtype))
    # A mask that is the same for all keys changes nothing but the log-sum-exp.
    weights = torch.randn(1, 2, 150, 16).to(dtype), torch.randn(1, 2, 150)

    def run(backend, dtype):
        inputs = [t.to(dtype).requires_grad_() for t in tensors]
        with seqkern.use_backend(backend):
            results = sdpa(*inputs, enable_gqa=True, return_lse=True)
        loss = sum((r * w.to(r.dtype)).sum() for r, w in zip(results, weights, strict=True))
        return torch.autograd.grad(loss, inputs)

    torch.set_num_threads(threads)
    names = ("query", "key", "value", "mask")
    reference = run("reference", torch.float64)
    assert_all_parity(run("cpu", dtype), run("reference", dtype), reference, names)


@pytest.mark.parametrize(
    ("heads", "causal", "threads"), [(1, False, 1), (1, False, 2), (2, True, 1), (2, True, 3)]
)
def test_several_blocks_of_queries(isa, heads, causal, threads):
    """The backward takes few tiles of queries at a time where the heads are large."""
    for dtype in (torch.float32, torch.bfloat16):
        q = torch.randn(1, heads, 500, 1024).to(dtype).requires_grad_()
        k, v = (torch.randn(1, 1, 140, 1024).to(dtype).requires_grad_() for _ in range(2))
        weight = torch.randn_like(q)

        def run(dtype, function=sdpa, inputs=(q, k, v), weight=weight):
            inputs = [t.detach().to(dtype).requires_grad_() for t in inputs]
            output = function(*inputs, is_causal=causal, enable_gqa=True)
            return torch.autograd.grad(output, inputs, weight.to(dtype))

        theirs = torch.nn.functional.scaled_dot_product_attention
        torch.set_num_threads(threads)
        assert_all_parity(
            run(dtype), run(dtype, theirs), run(torch.float64, theirs), ("query", "key", "value")
        )


@pytest.mark.parametrize(
    "shape", [(4, 1, 1, 5, 6), (4, 1, 3, 1, 6), (1, 2, 1, 5, 6), (4, 2, 3, 5, 6)]
)
def test_masks_of_five_dimensions(shape):
    q = torch.randn(4, 2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(4, 2, 3, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (sdpa, torch.nn.functional.scaled_dot_product_attention):
        output = function(q, k, v, mask)
        results.append([output, *torch.autograd.grad(output.sin().sum(), (q, k, v, mask))])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-13)
    boolean = mask.detach() > -0.5
    torch.testing.assert_close(
        sdpa(q, k, v, boolean),
        torch.nn.functional.scaled_dot_product_attention(q, k, v, boolean),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["mask", "padding", "bias", "window", "causal", "no keys"])
def test_queries_that_attend_to_nothing(how, dtype, backend):
    """Output 0, lse -inf, and no contribution to any gradient."""
    keys = 0 if how == "no keys" else 6
    q = torch.randn(2, 2, 8, 16).to(dtype).requires_grad_()
    k, v = (torch.randn(2, 2, keys, 16).to(dtype).requires_grad_() for _ in range(2))
    mask = None
    options: dict = {}
    empty = torch.zeros(2, 2, 8, dtype=torch.bool)
    if how == "mask":
        mask = torch.ones(8, 6, dtype=torch.bool)
        mask[3] = False
        empty[:, :, 3] = True
    elif how == "padding":
        mask = torch.ones(2, 1, 1, 6, dtype=torch.bool)
        mask[1] = False
        empty[1] = True
    elif how == "bias":
        mask = torch.zeros(8, 6)
        mask[0] = -torch.inf
        mask.requires_grad_()
        empty[:, :, 0] = True
    elif how == "window":
        options["window"] = (-1, -1)
        options["causal"] = "bottom_right"  # the first two queries stand before the first key
        empty[:, :, :2] = True
    elif how == "causal":
        options |= {"is_causal": True, "window": (0, 0)}  # query i attends to key i - 2 at most
        empty[:, :, :2] = True
    else:
        empty[:] = True
    with seqkern.use_backend(backend):
        output, lse = sdpa(q, k, v, mask, return_lse=True, **options)
    assert torch.equal(lse == -torch.inf, empty)
    assert not output[empty].any() and output[~empty].any(-1).all()
    sources = [t for t in (q, k, v, mask) if t is not None and t.requires_grad]
    weights = torch.randn_like(output), torch.randn_like(lse)
    found = torch.autograd.grad([output, lse], sources, weights)
    assert all(g.isfinite().all() for g in found)
    assert not found[0][empty].any()
    # What comes back to these queries does not matter.
    weights[0][empty] *= 1e4
    weights[1][empty] *= 1e4
    with seqkern.use_backend(backend):
        results = sdpa(q, k, v, mask, return_lse=True, **options)
    again = torch.autograd.grad(results, sources, weights)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sink_of_a_query_that_looks_at_nothing(backend):
    q, k, v = (torch.randn(1, 2, 4, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    sinks = torch.tensor([0.5, -torch.inf], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    with seqkern.use_backend(backend):
        output, lse = sdpa(q, k, v, mask, sinks=sinks, return_lse=True)
        plain, total = sdpa(q[:, 1:], k[:, 1:], v[:, 1:], mask, return_lse=True)
    assert not output[:, :, 1].any()
    assert lse[0, :, 1].tolist() == [0.5, -torch.inf]
    torch.testing.assert_close(output[:, 1:], plain, rtol=0, atol=1e-15)  # a sink of -inf is none
    torch.testing.assert_close(lse[:, 1:], total, rtol=0, atol=1e-15)
    weights = torch.randn_like(output), torch.randn_like(lse)
    found = torch.autograd.grad([output, lse], (q, k, v, sinks), weights)
    assert all(g.isfinite().all() for g in found)
    assert found[3][1] == 0 and found[3][0] != 0


def test_no_gradient_is_recorded_where_none_is_wanted():
    q, k, v = (torch.randn(1, 2, 4, 8, requires_grad=True) for _ in range(3))
    with torch.no_grad():
        assert not sdpa(q, k, v).requires_grad
    with torch.inference_mode():
        assert sdpa(q, k, v).is_inference()
    assert not sdpa(q.detach(), k.detach(), v.detach()).requires_grad
    assert sdpa(q.detach(), k.detach(), v).requires_grad


def three(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(2, 2, 5, 4, dtype=dtype) for _ in range(3))


def loss(q, k, v):
    return sdpa(q, k, v, is_causal=True, softcap=3.0).sin().sum()


def test_func_grad_and_hessian():
    q, k, v = three()
    for argument in range(3):
        found = torch.func.grad(loss, argnums=argument)(q, k, v)
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        (expected,) = torch.autograd.grad(loss(*leaves), leaves[argument])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    hessian = torch.func.hessian(loss)(q[:1, :1], k[:1, :1], v[:1, :1])
    by_autograd = torch.autograd.functional.hessian(
        lambda q: loss(q, k[:1, :1], v[:1, :1]), q[:1, :1]
    )
    torch.testing.assert_close(hessian, by_autograd, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dims", [(0, 0, 0), (0, None, None), (1, 0, 0)])
def test_func_vmap(dims):
    q, k, v = (torch.randn(3, 3, 2, 5, 4, dtype=torch.float64) for _ in range(3))
    run = torch.func.vmap(lambda q, k, v: sdpa(q, k, v, is_causal=True), dims)
    found = run(q, k, v)
    rows = [
        sdpa(*(t if d is None else t.select(d, i) for t, d in zip((q, k, v), dims, strict=True)),
             is_causal=True)
        for i in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(found, torch.stack(rows), rtol=0, atol=1e-14)


def test_func_vmap_of_grad():
    q, k, v = (torch.randn(3, 1, 2, 5, 4, dtype=torch.float64) for _ in range(3))
    found = torch.func.vmap(torch.func.grad(loss))(q, k, v)
    rows = [torch.func.grad(loss)(*(t[i] for t in (q, k, v))) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(rows), rtol=0, atol=1e-14)


def test_forward_mode():
    q, k, v = three()
    tangents = three()
    _, found = torch.func.jvp(loss, (q, k, v), tangents)
    gradients = torch.func.grad(loss, argnums=(0, 1, 2))(q, k, v)
    expected = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    for no_grad in (False, True):
        with torch.set_grad_enabled(not no_grad), forward_ad.dual_level():
            duals = [forward_ad.make_dual(x, t) for x, t in zip((q, k, v), tangents, strict=True)]
            tangent = forward_ad.unpack_dual(loss(*duals)).tangent
        torch.testing.assert_close(tangent, expected, rtol=0, atol=1e-13)


def test_forward_over_reverse():
    q, k, v = three()
    direction = torch.randn_like(q)
    _, found = torch.func.jvp(lambda q: torch.func.grad(loss)(q, k, v), (q,), (direction,))
    leaf = q.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, k, v), leaf, create_graph=True)
    (expected,) = torch.autograd.grad((gradient * direction).sum(), leaf)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_a_third_derivative():
    q, k, v = (t[:1, :1, :3] for t in three())

    def second(q):
        (gradient,) = torch.autograd.grad(loss(q, k, v), q, create_graph=True)
        return torch.autograd.grad(gradient.cos().sum(), q, create_graph=True)[0]

    assert torch.autograd.gradcheck(second, q.clone().requires_grad_())


def test_double_backward_in_16_bits():
    """The reference computes in float32 there, as the kernels do."""
    q, k, v = (t.bfloat16().requires_grad_() for t in three())
    results = []
    for backend in BACKENDS:
        with seqkern.use_backend(backend):
            (g,) = torch.autograd.grad(loss(q, k, v), q, create_graph=True)
            results.append(torch.autograd.grad(g.float().pow(2).sum(), (q, k, v)))
    for mine, right in zip(*results, strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, right, rtol=2e-2, atol=2e-2)
