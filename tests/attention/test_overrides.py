"""`__torch_function__`: masks given by a variant, types and modes that handle a call, and seqkern's
function in place of PyTorch's own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.overrides import TorchFunctionMode

import seqkern
from seqkern.attention import autograd, causal_bias, dense, multi_head, torch_backend
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from seqkern.nn.functional import varlen_attention

TORCHS = torch._C._nn.scaled_dot_product_attention
QUERY, KEY = (2, 2, 3, 8), (2, 2, 7, 8)
BACKENDS = ("auto", "reference", "torch")


class Mode(TorchFunctionMode):
    """Remembers what it sees of attention, and passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (TORCHS, sdpa, varlen_attention):
            self.seen.append((func, types, len(args), sorted(kwargs or {})))
        return func(*args, **(kwargs or {}))


class Remembering(torch.Tensor):
    """The same as a type of tensor."""

    seen: list = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append((func, types, len(args), sorted(kwargs or {})))
        return super().__torch_function__(func, types, args, kwargs)


class Answering(torch.Tensor):
    """Has an attention of its own, found in a table, as libraries of quantised tensors do."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        table = {TORCHS: lambda *args, **kwargs: "its own"}
        with torch._C.DisableTorchFunctionSubclass():
            return table.get(func, func)(*args, **(kwargs or {}))


class Refusing(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return NotImplemented


@pytest.fixture
def runs(monkeypatch):
    """How often seqkern's kernels ran."""
    calls: list = []
    kernel = autograd.attention

    def counted(*arguments):
        calls.append(arguments)
        return kernel(*arguments)

    def counted_between_projections(*arguments):
        calls.append(arguments)
        return attend(*arguments)

    attend = multi_head.attend
    monkeypatch.setattr(autograd, "attention", counted)
    monkeypatch.setattr(dense, "_kernel", counted)
    monkeypatch.setattr(multi_head, "attend", counted_between_projections)
    return calls


def tensors(grad: bool = False) -> list[torch.Tensor]:
    return [torch.randn(shape, requires_grad=grad) for shape in (QUERY, KEY, KEY)]


def gradients(function, inputs, *arguments, **options):
    output = function(*inputs, *arguments, **options)
    return [output, *torch.autograd.grad(output.sin().sum(), inputs)]


# ---- torch.nn.attention.bias ----


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "bias",
    [causal_lower_right(3, 7), causal_upper_left(3, 7), causal_upper_left(90, 90)],
    ids=["lower right", "upper left", "upper left, larger"],
)
def test_a_causal_bias_means_what_it_says(bias, compiled, backend):
    inputs = tensors(grad=True)

    def run(q, k, v):
        return sdpa(q, k, v, bias)

    torch._dynamo.reset()
    function = torch.compile(run, backend="aot_eager", fullgraph=True) if compiled else run
    with seqkern.use_backend(backend):
        found = gradients(function, inputs)
    for mine, right in zip(found, gradients(TORCHS, inputs, bias), strict=True):
        torch.testing.assert_close(mine, right)


def test_a_causal_bias_together_with_other_arguments():
    q, k, v = tensors()
    allowed = torch.ones(3, 7, dtype=torch.bool).tril(4)
    for options in ({"window": (2, -1)}, {"softcap": 2.0}, {"sinks": torch.randn(2)}):
        found = sdpa(q, k, v, causal_lower_right(3, 7), **options)
        torch.testing.assert_close(found, sdpa(q, k, v, allowed, **options))
    gqa = {"enable_gqa": True, "scale": 0.3}
    found = sdpa(q, k[:, :1], v[:, :1], attn_mask=causal_lower_right(3, 7), **gqa)
    torch.testing.assert_close(found, TORCHS(q, k[:, :1], v[:, :1], attn_mask=allowed, **gqa))
    torch.testing.assert_close(
        sdpa(q[0, 0], k[0, 0], v[0, 0], causal_lower_right(3, 7)),
        TORCHS(q[0, 0], k[0, 0], v[0, 0], allowed),
    )
    half = [t.half() for t in (q, k, v)]
    torch.testing.assert_close(sdpa(*half, causal_lower_right(3, 7)), sdpa(*half, allowed))


def test_a_causal_bias_that_cannot_be():
    inputs = tensors()
    with pytest.raises(RuntimeError, match="for 3 queries and 9 keys, .* are \\[3, 7\\]"):
        sdpa(*inputs, causal_lower_right(3, 9))
    with pytest.raises(RuntimeError, match="for 5 queries and 5 keys"):
        sdpa(*inputs, causal_lower_right(5, 5))
    with pytest.raises(ValueError, match="should not be used with causal=True"):
        sdpa(*inputs, causal_lower_right(3, 7), is_causal=True)
    with pytest.raises(ValueError, match="give it or causal='top_left'"):
        sdpa(*inputs, causal_lower_right(3, 7), causal="top_left")
    bias = causal_lower_right(3, 7)
    bias.variant = 7
    with pytest.raises(ValueError, match="must be a CausalVariant type, but found: 7"):
        sdpa(*inputs, bias)
    jagged = torch.nested.nested_tensor([torch.randn(2, 2, 8)], layout=torch.jagged).transpose(1, 2)
    with pytest.raises(ValueError, match="Masks are not yet supported"):
        sdpa(jagged, jagged, jagged, causal_upper_left(2, 2))


def test_a_causal_bias_whose_protocol_is_off():
    """Another type's `__torch_function__` passes the call on, with all overrides disabled."""
    q, k, v = tensors()
    allowed = torch.ones(3, 7, dtype=torch.bool).tril(4)
    with torch._C.DisableTorchFunctionSubclass():
        found = sdpa(q, k, v, causal_lower_right(3, 7))
    torch.testing.assert_close(found, TORCHS(q, k, v, allowed))


@pytest.mark.parametrize("options", [{}, {"add_zero_attn": True}, {"add_bias_kv": True}], ids=str)
@pytest.mark.parametrize("aligned", ["top_left", "bottom_right"])
def test_a_causal_bias_in_multi_head_attention(aligned, options, runs):
    module = seqkern.nn.MultiheadAttention(16, 2, batch_first=True, **options)
    x, y = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    bias = (causal_upper_left if aligned == "top_left" else causal_lower_right)(3, 7)
    left_out = ~causal_bias.allowed(aligned, 3, 7, torch.device("cpu"))
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 5:] = True
    for need_weights, pad, backend in itertools.product((True, False), (None, padding), BACKENDS):
        for hint in (False, True):
            call = {"need_weights": need_weights, "key_padding_mask": pad}
            with seqkern.use_backend(backend):
                found = module(x, y, y, attn_mask=bias, is_causal=hint, **call)
                right = module(x, y, y, attn_mask=left_out, **call)
            torch.testing.assert_close(found, right)
    if not options:
        runs.clear()
        module(x, y, y, attn_mask=bias, need_weights=False)
        (run,) = runs  # by the kernels' own causal attention
        if aligned == "top_left":
            assert run[-1].is_causal and run[-1].mask is None
        else:
            *_, is_causal, _, right_side = run
            assert (is_causal, right_side) == (False, 0)
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        found = compiled(x, y, y, attn_mask=bias, need_weights=False)
        torch.testing.assert_close(found, module(x, y, y, attn_mask=left_out, need_weights=False))
    with pytest.raises(RuntimeError, match="for 4 queries and 7 keys"):
        module(x, y, y, attn_mask=causal_lower_right(4, 7))


def test_a_causal_bias_in_transformers():
    sizes = {"d_model": 16, "nhead": 2, "dim_feedforward": 8, "dropout": 0.0, "batch_first": True}
    x, y = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    square, oblong = causal_lower_right(5, 5), causal_lower_right(5, 7)
    masks = [~causal_bias.allowed("bottom_right", 5, n, torch.device("cpu")) for n in (5, 7)]
    model = seqkern.nn.Transformer(num_encoder_layers=1, num_decoder_layers=1, **sizes)
    for training in (True, False):
        model.train(training)
        found = model(y, x, tgt_mask=square, memory_mask=oblong)
        torch.testing.assert_close(found, model(y, x, tgt_mask=masks[0], memory_mask=masks[1]))
        found = model.encoder(x, square)
        torch.testing.assert_close(found, model.encoder(x, masks[0]))


# ---- who handles a call ----


def test_modes_and_types_see_one_call_of_pytorchs_function_and_seqkern_runs_it(runs):
    q, k, v = tensors()
    expected = TORCHS(q, k, v, is_causal=True)
    with Mode() as outer, Mode() as inner:
        found = sdpa(q, k, v, is_causal=True)
    torch.testing.assert_close(found, expected)
    assert outer.seen == inner.seen == [(TORCHS, (), 3, ["is_causal"])] and len(runs) == 1

    for place in range(3):
        Remembering.seen.clear()
        runs.clear()
        given = [q, k, v]
        given[place] = given[place].as_subclass(Remembering)
        with Mode() as mode:
            found = sdpa(*given, is_causal=True)
        assert type(found) is Remembering and len(runs) == 1
        torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)
        once = [(TORCHS, (Remembering,), 3, ["is_causal"])]
        assert mode.seen == once and once == Remembering.seen

    Remembering.seen.clear()
    mask = torch.zeros(3, 7).as_subclass(Remembering)
    sdpa(q, k, v, mask, 0.0, False, 0.3, True)
    names = ["attn_mask", "enable_gqa", "scale"]
    assert Remembering.seen == [(TORCHS, (Remembering,), 3, names)]


def test_the_stack_of_modes_is_left_as_it_was():
    q, k, v = tensors()
    with Mode() as outer, Mode() as inner:
        sdpa(q, k, v)
        with pytest.raises(RuntimeError, match="same last dimension"):
            sdpa(q, k[..., :3], v)
        assert [torch._C._get_function_stack_at(i) for i in range(2)] == [outer, inner]
    assert torch._C._len_torch_function_stack() == 0


def test_arguments_that_pytorch_has_not_are_not_lost(runs):
    q, k, v = tensors()
    expected = sdpa(q, k, v, window=(1, 0), return_lse=True)
    runs.clear()
    Remembering.seen.clear()
    with Mode() as mode:
        found = sdpa(q.as_subclass(Remembering), k, v, window=(1, 0), return_lse=True)
    torch.testing.assert_close([t.as_subclass(torch.Tensor) for t in found], list(expected))
    once = [(sdpa, (Remembering,), 3, ["return_lse", "window"])]
    assert mode.seen == once and once == Remembering.seen and len(runs) == 1
    slopes = torch.rand(2).as_subclass(Remembering)
    Remembering.seen.clear()
    torch.testing.assert_close(
        sdpa(q, k, v, alibi_slopes=slopes).as_subclass(torch.Tensor),
        sdpa(q, k, v, alibi_slopes=slopes.as_subclass(torch.Tensor)),
    )
    assert [name for *_, name in Remembering.seen] == [["alibi_slopes"]]


def test_types_with_an_attention_of_their_own():
    q, k, v = tensors()
    assert sdpa(q, k.as_subclass(Answering), v) == "its own"
    with Mode() as mode:
        assert sdpa(q, k, v, torch.zeros(3, 7).as_subclass(Answering)) == "its own"
    assert len(mode.seen) == 1
    with pytest.raises(TypeError, match="no implementation found for .*Refusing"):
        sdpa(q, k.as_subclass(Refusing), v)
    # Of a subclass and its base the subclass is asked first, and who refuses passes it on.
    assert sdpa(q.as_subclass(Refusing), k.as_subclass(Answering), v) == "its own"

    class Knows(Refusing):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return types

    assert sdpa(q.as_subclass(Refusing), k.as_subclass(Knows), v) == (Knows, Refusing)


def test_a_default_device_changes_nothing(runs):
    q, k, v = tensors()
    with torch.device("cpu"):
        found = sdpa(q, k, v)
    assert len(runs) == 1
    torch.testing.assert_close(found, TORCHS(q, k, v))


def test_modes_in_a_compiled_function():
    q, k, v = tensors()

    def inside(q, k, v):
        with Mode():
            return sdpa(q, k, v, is_causal=True)

    def outside(q, k, v):
        return sdpa(q, k, v, is_causal=True)

    expected = TORCHS(q, k, v, is_causal=True)
    compiled = [torch.compile(f, backend="aot_eager", fullgraph=True) for f in (inside, outside)]
    torch.testing.assert_close(compiled[0](q, k, v), expected)
    with Mode() as mode:
        torch.testing.assert_close(compiled[1](q, k, v), expected)
    assert [func for func, *_ in mode.seen][:1] == [TORCHS]
    with torch.device("cpu"):
        torch.testing.assert_close(compiled[1](q, k, v), expected)


@pytest.mark.parametrize("which", ["mode", "query", "mask"])
def test_the_modules_show_one_call_of_the_function(which):
    module = seqkern.nn.MultiheadAttention(16, 2, batch_first=True)
    x, y = torch.randn(2, 3, 16), torch.randn(2, 7, 16)
    mask = torch.zeros(3, 7)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[0, 6] = True
    call = {"key_padding_mask": padding, "need_weights": False}
    expected = module(x, y, y, attn_mask=mask, **call)[0]
    Remembering.seen.clear()
    with Mode() as mode:
        found, _ = module(
            x.as_subclass(Remembering) if which == "query" else x, y, y,
            attn_mask=mask.as_subclass(Remembering) if which == "mask" else mask, **call,
        )  # fmt: skip
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)
    (seen,) = mode.seen
    assert seen[0] is TORCHS and seen[3] == ["attn_mask"]
    calls = [func for func, *_ in Remembering.seen if func is TORCHS]
    assert len(calls) == (which != "mode")
    bias = causal_lower_right(3, 7)
    with Mode():
        found = module(x, y, y, attn_mask=bias, **call)
    torch.testing.assert_close(found, module(x, y, y, attn_mask=bias, **call))


def test_a_mask_with_a_meaning_of_its_own_keeps_it_where_weights_are_wanted():
    """PyTorch's module adds it to the scores by its own `__add__`, or whatever it has."""

    class TwiceAsMuch(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                name = getattr(func, "__name__", "")
                if name in ("add", "__add__"):
                    args = [2 * a if isinstance(a, cls) else a for a in args]
                result = func(*args, **(kwargs or {}))
                if not isinstance(result, torch.Tensor):
                    return result
                return result.as_subclass(cls if name == "__getitem__" else torch.Tensor)

    module = seqkern.nn.MultiheadAttention(16, 2, batch_first=True)
    x, mask = torch.randn(2, 3, 16), torch.randn(3, 3)
    found = module(x, x, x, attn_mask=mask.as_subclass(TwiceAsMuch))
    torch.testing.assert_close(found, module(x, x, x, attn_mask=2 * mask))


def test_packed_sequences_are_shown_too():
    x = torch.randn(5, 2, 8)
    starts = torch.tensor([0, 2, 5])
    expected = varlen_attention(x, x, x, starts, starts, is_causal=True)
    Remembering.seen.clear()
    with Mode() as mode:
        found = varlen_attention(x.as_subclass(Remembering), x, x, starts, starts, is_causal=True)
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)
    assert [func for func, *_ in Remembering.seen] == [varlen_attention]
    assert [func for func, *_ in mode.seen] == [varlen_attention]


# ---- in place of PyTorch's ----


def test_in_the_place_of_pytorchs_function_nothing_recurses(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", sdpa)
    assert torch_backend.torch_attention is TORCHS
    q, k, v = tensors()
    expected = TORCHS(q, k, v)
    meta = [t.to("meta") for t in (q, k, v)]
    for bias in (None, causal_upper_left(3, 7), causal_lower_right(3, 7)):
        assert F.scaled_dot_product_attention(*meta, bias).shape == QUERY
    for dtype in (torch.complex64, torch.int64):
        with pytest.raises((NotImplementedError, RuntimeError)):
            F.scaled_dot_product_attention(*(t.to(dtype) for t in (q, k, v)))
    with seqkern.use_backend("torch"):
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v), expected)
        with Mode() as mode:
            torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v), expected)
        assert [func for func, *_ in mode.seen] == [TORCHS]
        parts = [torch.randn(3, 2, 8), torch.randn(4, 2, 8)]
        nested = torch.nested.nested_tensor(parts, layout=torch.jagged).transpose(1, 2)
        assert F.scaled_dot_product_attention(nested, nested, nested).is_nested
    for device in ("meta", "cpu"):
        module = torch.nn.MultiheadAttention(8, 2, device=device)
        x = torch.randn(3, 2, 8, device=device)
        assert module(x, x, x, need_weights=False)[0].shape == (3, 2, 8)
    bias = causal_lower_right(3, 7)
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, bias), sdpa(q, k, v, bias))
    compiled = torch.compile(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, bias),
        backend="aot_eager",
        fullgraph=True,
    )
    torch.testing.assert_close(compiled(q, k, v), sdpa(q, k, v, bias))


def test_pytorchs_function_is_held_even_if_another_stood_in_its_place_at_import():
    import subprocess
    import sys

    program = (
        "import torch\n"
        "F = torch.nn.functional\n"
        "def other(*args, **kwargs):\n"
        "    from seqkern.nn.functional import scaled_dot_product_attention as sdpa\n"
        "    return sdpa(*args, **kwargs)\n"
        "F.scaled_dot_product_attention = other\n"
        "x = torch.empty(1, 2, 3, 4, device='meta')\n"
        "assert F.scaled_dot_product_attention(x, x, x).shape == x.shape\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
