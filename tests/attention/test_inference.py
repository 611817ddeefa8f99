"""Transformer layers without gradients work in place: with the same results, to the bit, and
nobody else's tensors."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.attention import inference

WIDTH, HEADS = 16, 2
KINDS = ["TransformerEncoderLayer", "TransformerDecoderLayer"]


def layer(kind: str, **options) -> torch.nn.Module:
    built = getattr(seqkern.nn, kind)(WIDTH, HEADS, 32, batch_first=True, **options)
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return built.eval()


def arguments(kind: str) -> tuple[Tensor, ...]:
    return tuple(torch.randn(2, n, WIDTH) for n in ((5,) if "Encoder" in kind else (5, 7)))


@pytest.fixture
def sums(monkeypatch):
    """How many sums were made in place."""
    seen = []

    def record(result, residual):
        seen.append(result)
        return added(result, residual)

    added = inference.added
    monkeypatch.setattr(inference, "added", record)
    return seen


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    "activation",
    ["relu", "gelu", torch.relu, torch.nn.ReLU(), torch.nn.functional.silu],
    ids=["relu", "gelu", "torch.relu", "ReLU()", "silu"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_results_and_arguments(sums, kind, activation, norm_first):
    module = layer(kind, activation=activation, norm_first=norm_first)
    tensors = arguments(kind)
    before = [t.clone() for t in tensors]
    expected = module(*tensors)
    assert not sums
    with torch.no_grad():
        assert torch.equal(module(*tensors), expected)
        assert len(sums) == (2 if "Encoder" in kind else 3)
    with torch.inference_mode():
        assert torch.equal(module(*tensors), expected)
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("kind", KINDS)
def test_masks(kind):
    module = layer(kind)
    tensors = arguments(kind)
    causal = torch.ones(5, 5, dtype=torch.bool).triu_(1)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    options = (
        {"src_mask": causal, "src_key_padding_mask": padding}
        if "Encoder" in kind
        else {
            "tgt_mask": causal,
            "tgt_is_causal": True,
            "tgt_key_padding_mask": padding,
            "memory_key_padding_mask": torch.zeros(2, 7, dtype=torch.bool),
            "memory_mask": torch.zeros(5, 7),
        }
    )
    with torch.no_grad():
        found = module(*tensors, **options)
    assert torch.equal(found, module(*tensors, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind):
    """The residual stays in float32."""
    module = layer(kind)
    tensors = arguments(kind)
    with torch.autocast("cpu", torch.bfloat16):
        expected = module(*tensors)
        with torch.no_grad():
            found = module(*tensors)
    assert found.dtype == expected.dtype and torch.equal(found, expected)


def hook_linear(module, seen):
    module.linear1.register_forward_hook(lambda *a: seen.append(a[-1]))


def hook_attention(module, seen):
    module.self_attn.register_forward_hook(lambda *a: seen.append(a[-1][0]))


def hook_before_norm(module, seen):
    module.norm1.register_forward_pre_hook(lambda *a: seen.append(a[-1][0]))


def own_forward(module, seen):
    forward = module.linear2.forward

    def keeps(x):
        seen.append(x)
        seen.append(forward(x))
        return seen[-1]

    module.linear2.forward = keeps


def another_class(module, seen):
    class Keeps(torch.nn.Linear):
        def forward(self, x):
            seen.append(super().forward(x))
            return seen[-1]

    module.linear1.__class__ = Keeps


@pytest.mark.parametrize(
    "how", [hook_linear, hook_attention, hook_before_norm, own_forward, another_class]
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_others_have_seen_stays(sums, kind, how):
    module, seen = layer(kind), []
    how(module, seen)
    tensors = arguments(kind)
    module(*tensors)
    expected = [t.detach().clone() for t in seen]
    seen.clear()
    with torch.no_grad():
        module(*tensors)
    assert expected and not sums
    assert all(map(torch.equal, seen, expected))


@pytest.mark.parametrize("kind", KINDS)
def test_global_hooks_see_every_part(sums, kind):
    module, seen = layer(kind), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        with torch.no_grad():
            module(*arguments(kind))
    finally:
        handle.remove()
    assert not sums and module.dropout1 in seen


@pytest.mark.parametrize("kind", KINDS)
def test_an_overridden_block_is_called(sums, kind):
    base = getattr(seqkern.nn, kind)

    class Own(base):
        def _ff_block(self, x):
            return torch.zeros_like(x)

    module = layer(kind)
    module.__class__ = Own
    tensors = arguments(kind)
    with torch.no_grad():
        found = module(*tensors)
    assert not sums and torch.equal(found, module(*tensors))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dropout_in_training_mode_drops(sums, kind):
    """Monte Carlo dropout: the layer evaluates, its dropouts train."""
    module = layer(kind, dropout=0.9)
    for part in module.modules():
        part.train(isinstance(part, torch.nn.Dropout))
    tensors = arguments(kind)
    with torch.no_grad():
        assert not torch.equal(module(*tensors), module(*tensors))
    assert not sums


def test_every_combination_of_parts_is_known():
    """The parts that torch.nn's constructors make are those that the layers may use so."""
    for kind, norm_first in itertools.product(KINDS, (False, True)):
        for name, part in layer(kind, norm_first=norm_first)._modules.items():
            assert type(part) in inference._PARTS[name]
