"""The Transformer layers and stacks of seqkern.nn against torch.nn's."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.attention import multi_head, transformer
from tests.parity import assert_all_parity

E, H, F, B, S, T = 8, 2, 16, 3, 6, 5
NAMES = (
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerDecoder",
    "Transformer",
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore:Support for mismatched src_key_padding_mask"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype"),
]


def build(nn, name, layers=2, **options):
    """One of the modules with random weights; `nn` is torch.nn or seqkern.nn."""
    options = {"dropout": 0.0, "batch_first": True, **options}
    if name == "Transformer":
        return nn.Transformer(E, H, layers, layers, F, **options)
    layer = getattr(nn, name.replace("coder", "coderLayer").replace("LayerLayer", "Layer"))
    layer = layer(E, H, F, **options)
    if name.endswith("Layer"):
        return layer
    return getattr(nn, name)(
        layer, layers, norm=torch.nn.LayerNorm(E, bias=options.get("bias", True))
    )


def pair(name, dtype=torch.float32, **options):
    theirs = build(torch.nn, name, **options)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.2 * torch.randn_like(p))  # the layers of a stack start as equals
    ours = build(seqkern.nn, name, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(dtype), ours.to(dtype)


def padding(length):
    return torch.arange(length) >= torch.tensor([[length], [length - 1], [length - 3]])


def causal(length, dtype=torch.bool):
    mask = torch.ones(length, length, dtype=torch.bool).triu(1)
    return (
        mask if dtype == torch.bool else torch.zeros(length, length).masked_fill(mask, -torch.inf)
    )


def calls(name):
    """(tensors, masks) for a few calls of the module."""
    src, tgt = torch.randn(B, S, E), torch.randn(B, T, E)
    if name == "TransformerEncoderLayer":
        return [
            ((src,), {}),
            ((src,), {"src_key_padding_mask": padding(S)}),
            ((src,), {"src_mask": causal(S, torch.float32), "src_key_padding_mask": padding(S)}),
            ((src,), {"src_mask": causal(S), "is_causal": True}),
            ((src[0],), {"src_mask": causal(S)}),
        ]
    if name == "TransformerEncoder":
        return [
            ((src,), {}),
            ((src,), {"src_key_padding_mask": padding(S)}),
            ((src,), {"mask": causal(S, torch.float32), "src_key_padding_mask": padding(S)}),
            ((src,), {"mask": torch.randn(B * H, S, S)}),
            ((src[0],), {"mask": causal(S)}),
        ]
    if name == "Transformer":
        masks = {
            "src_key_padding_mask": padding(S),
            "memory_key_padding_mask": padding(S),
            "tgt_key_padding_mask": padding(T),
        }
        return [
            ((src, tgt), {}),
            ((src, tgt), {"tgt_mask": causal(T, torch.float32), **masks}),
            ((src, tgt), {"tgt_mask": causal(T), "tgt_is_causal": True, "src_mask": causal(S)}),
            ((src[0], tgt[0]), {"tgt_mask": causal(T)}),
        ]
    masks = {"tgt_key_padding_mask": padding(T), "memory_key_padding_mask": padding(S)}
    return [
        ((tgt, src), {}),
        ((tgt, src), {"tgt_mask": causal(T), **masks}),
        ((tgt, src), {"tgt_mask": causal(T, torch.float32), "memory_mask": torch.randn(T, S)}),
        ((tgt[0], src[0]), {"tgt_mask": causal(T), "tgt_is_causal": True}),
    ]


def results(module, tensors, dtype, call):
    tensors = [t.detach().to(dtype).requires_grad_() for t in tensors]
    call = {
        name: option.to(dtype) if torch.is_tensor(option) and option.is_floating_point() else option
        for name, option in call.items()
    }
    output = module(*tensors, **call)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    sources = [*tensors, *module.parameters()]
    return [output, *torch.autograd.grad(output, sources, weight)]


def sequence_first(tensors):
    return tuple(t.transpose(0, 1) if t.dim() == 3 else t for t in tensors)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_first": True, "activation": "gelu"},
        {"batch_first": False, "bias": False},
        {"batch_first": False, "norm_first": True, "activation": torch.nn.functional.silu},
    ],
    ids=["plain", "norm first", "sequence first", "both"],
)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_torch(name, options, training):
    theirs, ours = pair(name, **options)
    theirs.train(training)
    ours.train(training)
    exact = copy.deepcopy(theirs).double()
    for tensors, call in calls(name):
        if not options.get("batch_first", True):
            tensors = sequence_first(tensors)
        reference = results(exact, tensors, torch.float64, call)
        other = results(theirs, tensors, torch.float32, call)
        found = results(ours, tensors, torch.float32, call)
        assert_all_parity(found, other, reference, [f"result {i}" for i in range(len(reference))])


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_without_gradients_on_each_backend(name, backend):
    """Where torch.nn takes its fast paths. Padded positions included."""
    theirs, ours = pair(name)
    for tensors, call in calls(name):
        slow = theirs.eval()(*tensors, **call).detach()
        with torch.no_grad():
            expected = theirs.eval()(*tensors, **call)
            # PyTorch's fast path gives NaN for numbers to add that are not 0 or -inf.
            expected = slow if expected.isnan().any() else expected
            with seqkern.use_backend(backend):
                found = ours.eval()(*tensors, **call)
            torch.testing.assert_close(found, expected)


def test_torchs_fast_path_is_never_taken(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("torch's fast path")

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", forbidden)
    monkeypatch.setattr(torch, "_native_multi_head_attention", forbidden)
    theirs, ours = pair("TransformerEncoder")
    x = torch.randn(B, S, E)
    with torch.no_grad():
        with pytest.raises(AssertionError, match="fast path"):
            theirs.eval()(x)
        for pad in (None, padding(S)):
            ours.eval()(x, src_key_padding_mask=pad)


class TestPaddedPositions:
    """TransformerEncoder gives there what torch.nn's gives in the same situation."""

    x = torch.randn(B, S, E, generator=torch.Generator().manual_seed(5))

    def both(self, change=lambda module: None, **options):
        modules = pair("TransformerEncoder", **options)
        for module in modules:
            module.norm = None  # so that zeros are zeros
            module.eval()
            change(module)
        return modules

    def zeros(self, theirs, ours, pad, **call):
        """Whether padded positions hold zeros, the same for both."""
        with torch.no_grad():
            expected, found = (m(self.x, src_key_padding_mask=pad, **call) for m in (theirs, ours))
        torch.testing.assert_close(found, expected)
        where = pad if pad.dtype == torch.bool else pad != 0
        is_zero = found[where] == 0
        assert is_zero.all() or not is_zero.any()
        return bool(is_zero.all())

    def test_evaluation(self):
        assert self.zeros(*self.both(), padding(S))
        floating = torch.zeros(B, S).masked_fill(padding(S), -torch.inf)
        assert self.zeros(*self.both(), floating)

    def test_a_sequence_that_is_all_padding(self):
        pad = padding(S)
        pad[1] = True
        assert self.zeros(*self.both(), pad)

    def test_not_at_the_end(self):
        theirs, ours = self.both()
        assert not self.zeros(theirs, ours, padding(S).flip(1))
        # Then PyTorch computes padded queries, whose keys are the valid ones.

    def test_with_a_mask(self):
        assert not self.zeros(*self.both(), padding(S), mask=torch.zeros(S, S).bool())

    def test_norm_first(self):
        assert not self.zeros(*self.both(norm_first=True), padding(S))

    def test_switched_off(self):
        def off(module):
            module.use_nested_tensor = False

        assert not self.zeros(*self.both(off), padding(S))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert not self.zeros(*self.both(), padding(S))
        finally:
            torch.backends.mha.set_fastpath_enabled(True)

    def test_training_and_gradients(self):
        theirs, ours = self.both()
        pad = padding(S)
        found = ours(self.x, src_key_padding_mask=pad)  # evaluation with gradients
        assert not (found[pad] == 0).any()
        torch.testing.assert_close(found, theirs(self.x, src_key_padding_mask=pad))
        with torch.no_grad():
            found = ours.train()(self.x, src_key_padding_mask=pad)
            assert not (found[pad] == 0).any()
        theirs.requires_grad_(False)
        ours.requires_grad_(False).eval()
        assert (ours(self.x, src_key_padding_mask=pad)[pad] == 0).all()

    def test_norm_of_zeros(self):
        theirs, ours = pair("TransformerEncoder")
        with torch.no_grad():
            found = ours.eval()(self.x, src_key_padding_mask=padding(S))
        torch.testing.assert_close(found[padding(S)], ours.norm.bias.expand(4, E))

    def test_an_additive_mask_is_no_mere_mask(self):
        """torch.nn's encoder drops every position whose number is not 0; this one adds it."""
        _, ours = self.both()
        pad = torch.randn(B, S)
        with torch.no_grad():
            found = ours(self.x, src_key_padding_mask=pad)
        torch.testing.assert_close(found, ours(self.x, src_key_padding_mask=pad))

    def test_autocast(self):
        """torch.nn's fast path raises on the CPU. Ours computes what it does with gradients."""
        _, ours = self.both()
        with torch.autocast("cpu", torch.bfloat16):
            expected = ours(self.x, src_key_padding_mask=padding(S))
            with torch.no_grad():
                found = ours(self.x, src_key_padding_mask=padding(S))
        torch.testing.assert_close(found, expected)

    def test_padding_does_not_cost_where_the_kernels_run(self, monkeypatch):
        _, ours = self.both()
        rows = []

        def forward(self, x):
            rows.append(tuple(x.shape))
            return torch.nn.functional.linear(x, self.weight, self.bias)

        monkeypatch.setattr(torch.nn.Linear, "forward", forward)
        with torch.no_grad():
            ours(self.x, src_key_padding_mask=padding(S))
        valid = int((~padding(S)).sum())
        assert rows == [(valid, E), (valid, F)] * 2

    @pytest.mark.parametrize("kind", ["hook", "subclass", "torch's layers", "own forward"])
    def test_layers_that_would_notice_get_padded_tensors(self, kind):
        theirs, ours = self.both()
        seen = []
        if kind == "hook":
            ours.layers[0].self_attn.register_forward_hook(lambda *_: seen.append(1))
        elif kind == "subclass":

            class Layer(seqkern.nn.TransformerEncoderLayer):
                def _sa_block(self, x: Tensor, *args, **kwargs):
                    assert not x.is_nested and x.shape == (B, S, E)
                    seen.append(1)
                    return super()._sa_block(x, *args, **kwargs)

            ours.layers[0].__class__ = Layer
        elif kind == "own forward":
            forward = ours.layers[0].forward
            ours.layers[0].forward = lambda *a, **k: seen.append(1) or forward(*a, **k)
        else:
            seqkern.unswap(ours.layers)
            seen.append(1)
        assert self.zeros(theirs, ours, padding(S))
        assert seen == [1]

    def test_attention_with_keys_of_its_own(self):
        """torch.nn's fast path forgets them."""
        _, ours = self.both()
        ours.layers[0].self_attn = seqkern.nn.MultiheadAttention(
            E, H, batch_first=True, add_bias_kv=True, add_zero_attn=True
        )
        pad = padding(S)
        expected = ours.eval()(self.x, src_key_padding_mask=pad)
        with torch.no_grad():
            found = ours(self.x, src_key_padding_mask=pad)
        torch.testing.assert_close(found[~pad], expected[~pad])
        assert not found[pad].any()


class TestHooks:
    @pytest.mark.parametrize("name", NAMES)
    def test_fire_on_attention_in_evaluation(self, name):
        _, ours = pair(name)
        seen = []
        for path, module in ours.named_modules():
            if isinstance(module, torch.nn.MultiheadAttention):
                module.register_forward_hook(lambda *_, path=path: seen.append(path))
        paths = [p for p, m in ours.named_modules() if isinstance(m, torch.nn.MultiheadAttention)]
        tensors, _ = calls(name)[0]
        with torch.no_grad():
            ours.eval()(*tensors)
        assert sorted(seen) == sorted(paths)

    def test_overridden_blocks_are_used(self):
        class Layer(seqkern.nn.TransformerEncoderLayer):
            def _sa_block(self, x, attn_mask, key_padding_mask, is_causal=False):
                return torch.zeros_like(x)

            def _ff_block(self, x):
                return torch.ones_like(x)

        layer = Layer(E, H, F, norm_first=True, batch_first=True).eval()
        x = torch.randn(B, S, E)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), x + 1)


class TestCausality:
    @pytest.fixture
    def seen(self, monkeypatch):
        seen = []

        def record(query, key, value, bias, call):
            seen.append((call.is_causal, call.mask is None, bias is None))
            return attend(query, key, value, bias, call)

        attend = multi_head.attend
        monkeypatch.setattr(multi_head, "attend", record)
        return seen

    @pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
    @pytest.mark.parametrize("batch_first", [True, False])
    def test_is_found_in_the_mask(self, seen, dtype, batch_first):
        x, y = torch.randn(B, S, E), torch.randn(B, T, E)
        if not batch_first:
            x, y = sequence_first((x, y))
        encoder, decoder = (
            build(seqkern.nn, name, batch_first=batch_first)
            for name in ("TransformerEncoder", "TransformerDecoder")
        )
        encoder(x, mask=causal(S, dtype))
        encoder(x, mask=causal(S, dtype), src_key_padding_mask=padding(S))
        decoder(y, x, tgt_mask=causal(T, dtype))
        flag, padded, nothing = (True, True, True), (True, False, True), (False, True, True)
        assert seen == [flag] * 2 + [padded] * 2 + [flag, nothing] * 2

    def test_is_not_found_where_it_is_not(self, seen):
        x = torch.randn(B, S, E)
        encoder = build(seqkern.nn, "TransformerEncoder")
        other = causal(S)
        other[0, 1] = False
        for mask in (other, ~causal(S), other.float(), causal(S).expand(B * H, S, S)):
            encoder(x, mask=mask)
        encoder(x, mask=causal(S), is_causal=False)
        assert len(seen) == 10 and not any(found for found, *_ in seen)


class TestNested:
    def parts(self):
        return [torch.randn(length, E) for length in (4, 1, 6)]

    @pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("name", ["TransformerEncoderLayer", "TransformerEncoder"])
    def test_encoder(self, name, training, layout):
        _, ours = pair(name)
        ours.train(training)
        parts = [part.requires_grad_() for part in self.parts()]
        output = ours(torch.nested.as_nested_tensor(parts, layout=layout))
        assert output.is_nested and output.layout == layout
        expected = [ours(part) for part in parts]
        for found, right in zip(output.unbind(), expected, strict=True):
            torch.testing.assert_close(found, right)
        sources = [*parts, *ours.parameters()]
        losses = [sum(o.square().sum() for o in of) for of in (output.unbind(), expected)]
        for mine, other in zip(
            *(torch.autograd.grad(loss, sources) for loss in losses), strict=True
        ):
            torch.testing.assert_close(mine, other)

    @pytest.mark.parametrize("name", ["TransformerDecoderLayer", "TransformerDecoder"])
    def test_decoder(self, name):
        _, ours = pair(name)
        targets, memories = self.parts(), [torch.randn(length, E) for length in (2, 5, 3)]
        output = ours(
            *(torch.nested.as_nested_tensor(p, layout=torch.jagged) for p in (targets, memories))
        )
        for found, target, memory in zip(output.unbind(), targets, memories, strict=True):
            torch.testing.assert_close(found, ours(target, memory))

    def test_agrees_with_torch_in_evaluation(self):
        theirs, ours = pair("TransformerEncoder")
        x = torch.nested.as_nested_tensor(self.parts(), layout=torch.strided)
        with torch.no_grad():
            found, expected = ours.eval()(x), theirs.eval()(x)
        for mine, other in zip(found.unbind(), expected.unbind(), strict=True):
            torch.testing.assert_close(mine, other)


class TestIsTheSameModule:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("method", ["__init__", "forward"])
    def test_signatures(self, name, method):
        ours = inspect.signature(getattr(getattr(seqkern.nn, name), method)).parameters
        theirs = inspect.signature(getattr(getattr(torch.nn, name), method)).parameters
        assert [(p.name, p.default) for p in ours.values()] == [
            (p.name, p.default) for p in theirs.values()
        ]

    @pytest.mark.parametrize("name", NAMES)
    def test_same_seed_same_weights_and_state_dict(self, name):
        torch.manual_seed(7)
        ours = build(seqkern.nn, name)
        torch.manual_seed(7)
        theirs = build(torch.nn, name)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert all(
            torch.equal(mine, other)
            for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True)
        )
        theirs.load_state_dict(ours.state_dict())
        assert repr(ours) == repr(theirs)

    @pytest.mark.parametrize("name", NAMES)
    def test_all_parts_are_ours(self, name):
        for module in build(seqkern.nn, name).modules():
            known = getattr(torch.nn, type(module).__name__, None)
            if known in seqkern.swap.__globals__["SWAPS"]:
                assert type(module) is not known

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies(self, name, how):
        _, ours = pair(name)
        tensors, call = calls(name)[1]
        assert torch.equal(how(ours)(*tensors, **call), ours(*tensors, **call))

    def test_custom_encoder_and_decoder_stay(self):
        encoder, decoder = build(torch.nn, "TransformerEncoder"), torch.nn.Identity()
        model = seqkern.nn.Transformer(E, H, custom_encoder=encoder, custom_decoder=decoder)
        assert model.encoder is encoder and type(encoder) is torch.nn.TransformerEncoder
        assert type(encoder.layers[0].self_attn) is torch.nn.MultiheadAttention

    def test_subclasses_of_ours_keep_their_class(self):
        class Mine(seqkern.nn.TransformerEncoderLayer):
            pass

        layer = Mine(E, H)
        assert type(layer) is Mine and type(layer.self_attn) is seqkern.nn.MultiheadAttention

    @pytest.mark.parametrize("name", NAMES)
    def test_autocast_gives_torchs_dtype(self, name):
        theirs, ours = pair(name)
        tensors, call = calls(name)[1]
        exact = theirs(*tensors, **call)
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = ours(*tensors, **call), theirs(*tensors, **call)
        assert_all_parity([found], [expected], [exact], ["output"])

    @pytest.mark.parametrize("name", NAMES)
    def test_dropout_is_seeded_and_only_for_training(self, name):
        ours = build(seqkern.nn, name, dropout=0.5)
        tensors, call = calls(name)[0]

        def run(seed):
            torch.manual_seed(seed)
            return ours(*tensors, **call)

        assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
        ours.eval()
        assert torch.equal(run(1), run(2))

    @pytest.mark.parametrize(
        ("name", "call", "message"),
        [
            ("TransformerEncoderLayer", {"src_mask": torch.zeros(S, S).int()}, "src_mask"),
            (
                "TransformerEncoder",
                {"src_key_padding_mask": torch.zeros(B, S).int()},
                "src_key_padding_mask",
            ),
            ("TransformerEncoder", {"mask": torch.zeros(S, S).int()}, " mask "),
        ],
    )
    def test_masks_of_integers(self, name, call, message):
        for module in pair(name):
            with pytest.raises(AssertionError, match=f"only bool and floating types of.*{message}"):
                module(torch.randn(B, S, E), **call)

    @pytest.mark.parametrize("case", ["batch", "features", "activation", "mask", "padding"])
    def test_errors_of_torch(self, case):
        x = torch.randn(B, S, E)

        def run(nn):
            if case == "activation":
                return nn.TransformerEncoderLayer(E, H, F, activation="tanh")
            model = build(nn, "Transformer")
            if case == "batch":
                return model(x, x[:1])
            if case == "features":
                return model(x[..., :4], x)
            if case == "mask":
                return model(x, x, tgt_mask=torch.zeros(S, S - 1))
            return model(x, x, src_key_padding_mask=torch.zeros(B, S - 1).bool())

        with pytest.raises((RuntimeError, AssertionError)) as expected:
            run(torch.nn)
        with pytest.raises(expected.type) as found:
            run(seqkern.nn)
        assert str(found.value).startswith(str(expected.value))


class TestCompile:
    @pytest.fixture(autouse=True)
    def _forget_what_was_compiled(self):
        torch._dynamo.reset()

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("training", [True, False])
    def test_one_graph(self, name, training):
        _, ours = pair(name, layers=1)
        ours.train(training)
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        for tensors, call in calls(name)[:2]:
            found = compiled(*tensors, **call)
            torch.testing.assert_close(found, ours(*tensors, **call))
            found.sum().backward()

    def test_export(self):
        _, ours = pair("TransformerEncoder")
        ours.eval()
        x = torch.randn(B, S, E)
        length = torch.export.Dim("length", min=2, max=64)
        program = torch.export.export(ours, (x,), dynamic_shapes=({1: length},))
        longer = torch.randn(B, 2 * S, E)
        torch.testing.assert_close(program.module()(longer), ours(longer))


def test_explain():
    tensors, _ = calls("Transformer")[0]
    for name in NAMES:
        ours = build(seqkern.nn, name)
        arguments = tensors if "Encoder" not in name else tensors[:1]
        explanation = seqkern.explain(ours, *arguments)
        assert name in explanation.call and explanation.backend
        with seqkern.use_backend("reference"):
            assert seqkern.explain(ours, *arguments).backend == "reference"
        with pytest.raises(TypeError, match=r"explain: \w+ must be a Tensor, got list"):
            seqkern.explain(ours, *([1.0] for _ in arguments))
    attention = seqkern.nn.MultiheadAttention(E, H)
    half = torch.zeros(3, 2, E, dtype=torch.int64)
    explanation = seqkern.explain(attention, half, half, half)
    assert "embed_dim=8, num_heads=2" in explanation.call
    assert "int64" in explanation.reasons["cpu"]


def test_the_encoders_layers_get_no_nested_tensor_from_us(monkeypatch):
    """The parts of the file that the encoder must not need."""
    monkeypatch.setattr(transformer, "packed", None)
    _, ours = pair("TransformerEncoder")
    with torch.no_grad():
        ours.eval()(torch.randn(B, S, E), src_key_padding_mask=padding(S))
