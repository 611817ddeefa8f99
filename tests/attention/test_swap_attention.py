"""seqkern.swap on models with multi-head attention and Transformers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.swapping.swap import SWAPS

E, H, F, B, S = 8, 2, 16, 3, 6
ATTENTION = {old: new for old, new in SWAPS.items() if "attention" in new.__module__}

pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype"),
]


def build(cls: Any) -> torch.nn.Module:
    layer = {
        torch.nn.TransformerEncoder: torch.nn.TransformerEncoderLayer,
        torch.nn.TransformerDecoder: torch.nn.TransformerDecoderLayer,
    }
    if cls is torch.nn.MultiheadAttention:
        return cls(E, H, batch_first=True)
    if cls is torch.nn.Transformer:
        return cls(E, H, 1, 1, F, dropout=0.0, batch_first=True)
    if cls in layer:
        return cls(layer[cls](E, H, F, dropout=0.0, batch_first=True), 2)
    return cls(E, H, F, dropout=0.0, batch_first=True)


def call(module: torch.nn.Module) -> Tensor:
    x, y = torch.randn(2, B, S, E, generator=torch.Generator().manual_seed(1))
    if isinstance(module, torch.nn.MultiheadAttention):
        return module(x, y, y)[0]
    if isinstance(module, (torch.nn.TransformerEncoderLayer, torch.nn.TransformerEncoder)):
        return module(x)
    return module(x, y)


def test_all_six_are_known() -> None:
    assert {cls.__name__ for cls in ATTENTION} == {
        "MultiheadAttention",
        "TransformerEncoderLayer",
        "TransformerDecoderLayer",
        "TransformerEncoder",
        "TransformerDecoder",
        "Transformer",
    }


@pytest.mark.parametrize("old", ATTENTION, ids=lambda cls: cls.__name__)
def test_each_class_turns_and_turns_back(old: Any) -> None:
    module = build(old)
    before = {name: type(part) for name, part in module.named_modules()}
    attributes = {key: value for key, value in vars(module).items() if not key.startswith("_")}
    parameters = dict(module.named_parameters())
    expected = call(module)

    report = seqkern.swap(module)
    assert not report.left
    swapped = {entry.path for entry in report.swapped}
    assert swapped == {name for name, cls in before.items() if cls in SWAPS} and "" in swapped
    for name, part in module.named_modules():
        assert type(part) is SWAPS.get(before[name], before[name])
    torch.testing.assert_close(call(module), expected)
    call(module).sum().backward()

    seqkern.unswap(module)
    assert {name: type(part) for name, part in module.named_modules()} == before
    assert {key: vars(module)[key] for key in attributes} == attributes
    assert all(value is parameters[name] for name, value in module.named_parameters())
    torch.testing.assert_close(call(module), expected, rtol=0, atol=0)


@pytest.mark.parametrize("old", ATTENTION, ids=lambda cls: cls.__name__)
def test_verification(old: Any, capsys: pytest.CaptureFixture[str]) -> None:
    module = build(old)
    for part in module.modules():  # it has to be switched off and put back
        if isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.5
        elif isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    x = torch.randn(B, S, E)
    example = (x, x, x) if old is torch.nn.MultiheadAttention else (x, x)
    if "Encoder" in old.__name__:
        example = (x,)
    report = seqkern.swap(module, verify=example)
    assert report.verification is not None and report.verification.backward
    assert report.verification.deviation < 1e-4
    assert type(module) is SWAPS[old]
    for part in module.modules():
        assert getattr(part, "dropout", None) in (0.5, None) or isinstance(
            part.dropout, torch.nn.Dropout
        )


def test_what_the_encoders_constructor_decided_stays() -> None:
    """use_nested_tensor says whether padded positions become zeros in evaluation."""
    x = torch.randn(B, S, E)
    pad = torch.arange(S) >= torch.tensor([[S], [S - 1], [S - 3]])
    for enable in (True, False):
        layer = torch.nn.TransformerEncoderLayer(E, H, F, batch_first=True)
        model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=enable).eval()
        with torch.no_grad():
            expected = model(x, src_key_padding_mask=pad)
            seqkern.swap(model)
            found = model(x, src_key_padding_mask=pad)
        assert (found[pad] == 0).all() == enable
        torch.testing.assert_close(found, expected)


def test_an_encoder_from_before_there_was_such_an_attribute() -> None:
    model: Any = build(torch.nn.TransformerEncoder).eval()
    del model.use_nested_tensor, model.mask_check
    seqkern.swap(model)
    pad = torch.zeros(B, S).bool()
    pad[0, -1] = True
    with torch.no_grad():
        assert model(torch.randn(B, S, E), src_key_padding_mask=pad)[0, -1].any()


class Layer(torch.nn.TransformerEncoderLayer):
    """A subclass with a part of its own, which seqkern's forward calls as torch's does."""

    seen = 0

    def _ff_block(self, x: Tensor) -> Tensor:
        self.seen += 1
        y = torch.nn.TransformerEncoderLayer._ff_block(self, x)
        return y.cumsum(1)  # depends on the positions, so padding may not be dropped


class Attention(torch.nn.MultiheadAttention):
    """A subclass that checks its arguments."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_subclasses() -> None:
    model = torch.nn.ModuleDict(
        {
            "encoder": torch.nn.TransformerEncoder(Layer(E, H, F, batch_first=True), 1),
            "attention": Attention(E, H),
        }
    )
    report = seqkern.swap(model)
    assert [entry.path for entry in report.swapped] == [
        "encoder",
        "encoder.layers.0",
        "encoder.layers.0.self_attn",
    ]
    assert {entry.path: entry.reason for entry in report.left} == {
        "attention": "a subclass of torch.nn.MultiheadAttention that overrides forward, which "
        "seqkern replaces",
    }


def test_a_block_of_its_own_gets_sequences_with_their_padding() -> None:
    """Also where the encoder leaves padding out for layers that depend on no positions."""
    x = torch.randn(B, S, E)
    pad = torch.arange(S) >= torch.tensor([[S], [S - 1], [S - 3]])
    model: Any = torch.nn.TransformerEncoder(Layer(E, H, F, 0.0, batch_first=True), 1)
    expected = model.train()(x, src_key_padding_mask=pad)
    model.eval()
    seqkern.swap(model)
    for _ in range(2):
        layer = model.layers[0]
        layer.seen = 0
        with torch.no_grad():
            found = model(x, src_key_padding_mask=pad)
        assert layer.seen == 1
        torch.testing.assert_close(found[~pad], expected[~pad])
        # and now by a method of this one object
        block = layer._ff_block
        layer.__class__ = seqkern.nn.TransformerEncoderLayer
        layer._ff_block = block


class Layers(torch.nn.TransformerEncoder):
    """A stack that checks its arguments."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(*args, **kwargs)


class OneLayer(torch.nn.TransformerEncoderLayer):
    """A layer that does."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(*args, **kwargs)


def test_a_subclass_among_swapped_modules_still_works() -> None:
    """torch.nn's own forward of the layer meets our attention inside and our encoder outside."""
    x = torch.randn(B, S, E)
    pad = torch.arange(S) >= torch.tensor([[S], [S - 1], [S - 3]])
    for stack, one in (
        (torch.nn.TransformerEncoder, OneLayer),
        (Layers, torch.nn.TransformerEncoderLayer),  # the other way round: torch's encoder
    ):
        model = stack(one(E, H, F, 0.0, batch_first=True), 2).eval()
        swapped = copy.deepcopy(model)
        assert len(seqkern.swap(swapped).left) == (2 if one is OneLayer else 1)
        for training in (True, False):
            model.train(training)
            swapped.train(training)
            expected = model(x, src_key_padding_mask=pad)
            torch.testing.assert_close(swapped(x, src_key_padding_mask=pad), expected)
            with torch.no_grad():
                expected = model(x, src_key_padding_mask=pad)
                torch.testing.assert_close(swapped(x, src_key_padding_mask=pad), expected)


def test_quantizable_attention_is_left() -> None:
    model = torch.nn.Sequential(torch.ao.nn.quantizable.MultiheadAttention(E, H))
    report = seqkern.swap(model)
    assert not report.swapped
    assert [entry.reason for entry in report.left] == [
        "quantized; seqkern has no quantized kernels"
    ]


def test_the_output_projection_is_no_reason_to_leave_it() -> None:
    module = torch.nn.MultiheadAttention(E, H)
    assert type(module.out_proj) is not torch.nn.Linear
    assert [entry.path for entry in seqkern.swap(module).swapped] == [""]


@pytest.mark.parametrize("name", ["in_proj_weight", "out_proj.weight"])
def test_parametrized(name: str) -> None:
    module = torch.nn.MultiheadAttention(E, H, batch_first=True)
    path, _, weight = name.rpartition(".")
    torch.nn.utils.parametrizations.weight_norm(module.get_submodule(path), weight)
    expected = call(module)
    seqkern.swap(module)
    assert isinstance(module, seqkern.nn.MultiheadAttention)
    torch.testing.assert_close(call(module), expected)
    call(module).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    seqkern.unswap(module)
    assert not isinstance(module, seqkern.nn.MultiheadAttention)
    torch.testing.assert_close(call(module), expected)


def test_compiled_model_notices() -> None:
    torch._dynamo.reset()
    model = build(torch.nn.TransformerEncoderLayer)
    compiled = torch.compile(model, backend="eager")
    expected = call(compiled._orig_mod)
    x = torch.randn(B, S, E)
    compiled(x)
    seqkern.swap(compiled)
    torch.testing.assert_close(call(model), expected)
    with seqkern.use_backend("cuda"):
        with pytest.raises(RuntimeError, match="cuda"):
            compiled(x)
        seqkern.unswap(compiled)
        compiled(x)
