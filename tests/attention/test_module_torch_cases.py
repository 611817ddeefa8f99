"""PyTorch's own sample inputs for the attention modules, run against ours.

They are part of the torch wheel (torch.testing._internal.common_modules), as the standard of
PyTorch's own tests. PyTorch lists no error inputs for these modules (checked below); test_mha.py
and test_transformer.py compare errors with those that PyTorch raises.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

import seqkern
from tests.parity import relative_error

NAMES = (
    "MultiheadAttention",
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "Transformer",
)
MODULES = {info.name: info for info in module_db if info.name in {f"nn.{n}" for n in NAMES}}
# The two warnings of PyTorch that its own samples cause.
pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype"),
]


def test_all_five_modules_are_in_pytorchs_list():
    assert set(MODULES) == {f"nn.{name}" for name in NAMES}
    assert all(info.module_error_inputs_func is None for info in MODULES.values())


def samples(name, training):
    """For each sample PyTorch's module, ours with the same weights, and the call, in float64."""
    info = MODULES[f"nn.{name}"]
    found = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    )
    assert len(found) > 10
    for sample in found:
        make, call = sample.constructor_input, sample.forward_input
        theirs = info.module_cls(*make.args, **make.kwargs).double().train(training)
        ours = getattr(seqkern.nn, name)(*make.args, **make.kwargs).double().train(training)
        seqkern.swap(ours)  # the layers of an encoder are PyTorch's, for the sample made them
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours) == repr(theirs)
        yield sample, theirs, ours, call


def outputs(module, call, dtype):
    """The outputs, and the call's tensors that they came from. The samples' own are no leaves."""
    args, kwargs = arguments(call, dtype)
    return tensors(module(*args, **kwargs)), tensors((args, kwargs))


def arguments(call, dtype):
    def fresh(leaf):
        if not torch.is_tensor(leaf) or not leaf.is_floating_point():
            return leaf
        return leaf.detach().to(dtype).requires_grad_(leaf.requires_grad)

    return pytree.tree_map(fresh, (tuple(call.args), dict(call.kwargs)))


def tensors(nest):
    return [leaf for leaf in pytree.tree_leaves(nest) if torch.is_tensor(leaf)]


def results(module, call, dtype):
    """Outputs and the gradients of a random function of them, without those that are not there."""
    found, inputs = outputs(module, call, dtype)
    sources = [t for t in inputs if t.requires_grad] + list(module.parameters())
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=generator).to(dtype) for o in found]
    gradients = torch.autograd.grad(found, sources, weights, allow_unused=True)
    return found + [torch.zeros(()) if g is None else g for g in gradients]


def assert_same(found, expected, of):
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, msg=lambda m: f"{m}\n{of}")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_every_sample_input(name, training):
    for sample, theirs, ours, call in samples(name, training):
        of = (sample.desc, sample.constructor_input.kwargs)
        found, expected = (results(module, call, torch.float64) for module in (ours, theirs))
        assert_same(found, expected, of)
        if not training:  # where PyTorch takes its fast path
            with torch.no_grad():
                assert_same(*(outputs(m, call, torch.float64)[0] for m in (ours, theirs)), of)
        # A dozen numbers that nearly cancel are no norm for tests.parity: all together count.
        single = torch.cat([r.flatten() for r in results(ours.float(), call, torch.float32)])
        assert relative_error(single, torch.cat([r.flatten() for r in expected])) < 1e-5, of


@pytest.mark.parametrize("name", [name for name in NAMES if name != "TransformerEncoder"])
def test_every_sample_agrees_with_its_reference(name):
    count = 0
    for sample, _, ours, call in samples(name, training=True):
        if sample.reference_fn is not None:
            args, kwargs = arguments(call, torch.float64)
            expected = tensors(sample.reference_fn(ours, *args, **kwargs))
            assert_same(outputs(ours, call, torch.float64)[0], expected, sample.desc)
            count += 1
    assert count > 10
