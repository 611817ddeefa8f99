"""The short ways of plain calls end where something is not plain: what PyTorch's function and
module do there, ours do, too."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parametrize

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention as sdpa

LENGTHS = (5, 100)  # a small sequence, and one whose output is saved


def module(**options) -> torch.nn.MultiheadAttention:
    return seqkern.nn.MultiheadAttention(16, 2, batch_first=True, **options)


@pytest.mark.parametrize(
    "shared",
    [
        lambda mask: torch.from_numpy(mask.numpy()),
        lambda mask: mask.clone().share_memory_(),
        lambda mask: torch.from_dlpack(mask.numpy()),
    ],
    ids=["numpy", "shared", "dlpack"],
)
def test_a_padding_mask_in_memory_of_others(shared):
    x, attend = torch.randn(2, 5, 16, requires_grad=True), module()
    plain = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    grads = []
    for mask in (plain, shared(plain)):
        output, _ = attend(x, x, x, key_padding_mask=mask)
        grads += torch.autograd.grad(output.sum(), x)
    assert torch.equal(*grads)


def test_a_padding_mask_stays_one_with_its_array():
    mask = torch.zeros(2, 5, dtype=torch.bool)
    array, x = mask.numpy(), torch.randn(2, 5, 16, requires_grad=True)
    output, _ = module()(x, x, x, key_padding_mask=mask)
    mask[0, 4] = True
    assert array[0, 4]
    output.sum().backward()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("length", LENGTHS)
def test_jit_trace(length):
    q, x = torch.randn(2, 2, length, 8), torch.randn(2, length, 16)
    layer = seqkern.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    attend = module().eval().requires_grad_(False)  # a closure's constants
    with torch.no_grad():
        for run, example in (
            (lambda z: sdpa(z, z, z), q),
            (layer, x),
            (lambda z: attend(z, z, z)[0], x),
        ):
            traced = torch.jit.trace(run, (example,), check_trace=False)
            other = torch.randn_like(example)
            torch.testing.assert_close(traced(other), run(other))


@pytest.mark.parametrize("length", LENGTHS)
def test_batched_gradients(length):
    q = torch.randn(1, 2, length, 8, requires_grad=True)
    x = torch.randn(1, length, 16, requires_grad=True)
    attend = module()
    for leaf, output in ((q, sdpa(q, q, q)), (x, attend(x, x, x)[0])):
        grads = torch.randn(2, *output.shape)
        (batched,) = torch.autograd.grad(
            output, leaf, grads, is_grads_batched=True, retain_graph=True
        )
        singly = [torch.autograd.grad(output, leaf, g, retain_graph=True)[0] for g in grads]
        torch.testing.assert_close(batched, torch.stack(singly))


def test_a_hook_that_raises_is_called_once():
    calls = []

    def pack(tensor):
        calls.append(tensor)
        raise RuntimeError("no more memory")

    q = torch.randn(1, 1, 3, 4, requires_grad=True)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
        pytest.raises(RuntimeError, match="no more memory"),
    ):
        sdpa(q, q, q)
    assert len(calls) == 1


def test_values_without_features():
    q = torch.zeros(1, 2, 2, 32, dtype=torch.bfloat16)
    assert sdpa(q, q, q[..., :0]).shape == (1, 2, 2, 0)


@pytest.mark.parametrize("which", ["key", "value", "attn_mask"])
def test_other_devices(which):
    call = {name: torch.randn(1, 1, 3, 4) for name in ("query", "key", "value")}
    call["attn_mask"] = torch.zeros(3, 3)
    call[which] = call[which].to("meta")
    with pytest.raises(RuntimeError):
        sdpa(**call)


def test_a_parametrized_weight_is_computed_once():
    class Counts(torch.nn.Module):
        calls = 0

        def forward(self, weight):
            Counts.calls += 1
            return weight

    attend, x = module(), torch.randn(2, 5, 16)
    parametrize.register_parametrization(attend, "in_proj_weight", Counts())
    Counts.calls = 0
    attend(x, x, x)
    assert Counts.calls == 1


@pytest.mark.parametrize("name", ["q_proj_weight", "k_proj_weight", "v_proj_weight"])
def test_weights_of_a_type_that_watches_see_the_attention(name):
    seen = []

    class Watches(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs or {})

    attend = module(kdim=8, vdim=8)
    weight = getattr(attend, name).detach().as_subclass(Watches)
    delattr(attend, name)
    setattr(attend, name, weight)
    y = torch.randn(2, 7, 8)
    attend(torch.randn(2, 5, 16), y, y, need_weights=False)
    assert "scaled_dot_product_attention" in seen


def test_a_patched_class_is_obeyed_without_gradients(monkeypatch):
    layer = seqkern.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    monkeypatch.setattr(torch.nn.TransformerEncoderLayer, "_ff_block", lambda self, z: z * 0)
    with torch.no_grad():
        found = layer(x)
    assert torch.equal(found, layer(x))


@pytest.mark.parametrize("part", [torch.nn.Dropout, torch.nn.LayerNorm, torch.nn.Linear])
@pytest.mark.parametrize("padded", [False, True])
def test_a_patched_part_is_obeyed_without_gradients(monkeypatch, part, padded):
    """Tools that count calls or observe values replace the forward of torch.nn's classes."""
    layer = seqkern.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = seqkern.nn.TransformerEncoder(layer, 2).eval()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if padded else None
    seen, forward = [], part.forward

    def watched(self, z):
        seen.append(self)
        return forward(self, z)

    monkeypatch.setattr(part, "forward", watched)
    with torch.no_grad():
        encoder(torch.randn(2, 5, 16), src_key_padding_mask=padding)
    parts = {id(x) for x in encoder.modules() if type(x) is part and "dropout" not in str(x)}
    assert parts <= {id(x) for x in seen}


def test_global_hooks_see_the_layers_of_a_padded_encoder():
    layer = seqkern.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder, seen = seqkern.nn.TransformerEncoder(layer, 2).eval(), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    try:
        with torch.no_grad():
            encoder(torch.randn(2, 5, 16), src_key_padding_mask=padding)
    finally:
        handle.remove()
    expected = {type(module) for module in encoder.modules()} - {torch.nn.ModuleList}
    expected -= {type(layer.self_attn.out_proj)}  # of which only the weights are used
    assert expected <= {type(module) for module in seen}


def changed_before_the_backward(run, mask):
    """Gradients of run(x, mask), and those where the mask is changed before they are computed."""
    found = []
    for change in (False, True):
        x, given = X.clone().requires_grad_(), mask.clone()
        expanded = given.expand(-1, -1, X.shape[1], -1) if given.dim() == 4 else given
        output = run(x, expanded)
        if change:
            given.logical_not_() if given.dtype == torch.bool else given.add_(1)
        output.square().sum().backward()
        found.append(x.grad)
    return found


X = torch.randn(2, 70, 16)
CAUSAL = torch.ones(70, 70, dtype=torch.bool).triu_(1)
PADDING = torch.arange(70).expand(2, 70) > 50


@pytest.mark.parametrize(
    "mask, options",
    [
        (CAUSAL, {"need_weights": False}),
        (CAUSAL, {"need_weights": True}),
        (CAUSAL * 1.0, {"need_weights": True}),
        (PADDING, {"need_weights": False}),
        (PADDING * 1.0, {"need_weights": False}),
        (PADDING * 1.0, {"need_weights": True}),
    ],
)
def test_a_mask_of_the_module_may_change_before_the_backward(mask, options):
    attend = module()
    name = "attn_mask" if mask.shape[0] == mask.shape[1] else "key_padding_mask"
    kept, changed = changed_before_the_backward(
        lambda x, m: attend(x, x, x, **{name: m}, **options)[0], mask
    )
    assert torch.equal(kept, changed)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("broadcast", [False, True])
def test_a_boolean_mask_of_the_function_may_change_before_the_backward(length, broadcast):
    mask = torch.rand(2, 1, 1, 70) > 0.3 if broadcast else ~CAUSAL

    def run(x, m):
        q = x.unflatten(-1, (2, 8)).transpose(1, 2)[:, :, :length]
        m = m[..., :length, :length]
        return sdpa(q, q, q, m)

    assert torch.equal(*changed_before_the_backward(run, mask))


def test_weights_without_a_gradient():
    attend = module().requires_grad_(False)
    q, k, v = (torch.randn(2, 5, 16, requires_grad=True) for _ in range(3))
    attend(q, k, v)[1].square().sum().backward()
    assert v.grad is None and q.grad is not None and k.grad is not None
    output, weights = attend(q.detach(), k.detach(), v)
    assert output.requires_grad and not weights.requires_grad


def test_a_part_that_returns_its_argument_is_not_written_to():
    layer = seqkern.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    layer.linear1 = layer.linear2 = torch.nn.Dropout(0.1).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        found = layer(x)
    assert torch.equal(found, layer(x))


def test_options_that_are_none():
    q = torch.randn(1, 1, 3, 4)
    with pytest.raises((TypeError, RuntimeError)):
        sdpa(q, q, q, dropout_p=None)
