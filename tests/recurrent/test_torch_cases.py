"""PyTorch's own sample inputs and error inputs for these modules, run against ours.

They travel in the torch wheel (torch.testing._internal.common_modules), as the yardstick of
PyTorch's own tests. They are tiny, gradients of two numbers and less, and are held to the tolerance
of those tests (`assert_close`): the rule of `tests.parity` needs enough numbers for a norm to mean
something.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils import _pytree as pytree

import seqkern

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
MODULES = {info.name: info for info in module_db if info.name in {f"nn.{n}" for n in NAMES}}


def test_all_six_modules_are_in_pytorchs_list():
    assert set(MODULES) == {f"nn.{name}" for name in NAMES}


def results(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[list, list]:
    """Outputs and gradients of a random function of them."""
    args, kwargs = copy.deepcopy((args, kwargs))
    produced = module(*args, **kwargs)
    outputs = [
        o.data if isinstance(o, PackedSequence) else o
        for o in pytree.tree_leaves(produced, is_leaf=lambda o: isinstance(o, PackedSequence))
        if isinstance(o, (torch.Tensor, PackedSequence))
    ]
    sources = [t for t in pytree.tree_leaves((args, kwargs)) if torch.is_tensor(t)]
    sources = [t for t in sources if t.requires_grad] + list(module.parameters())
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(o.shape, generator=generator).to(o.dtype) for o in outputs]
    return outputs, list(torch.autograd.grad(outputs, sources, weights, allow_unused=True))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_sample_input(name, dtype, training):
    info = MODULES[f"nn.{name}"]
    samples = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    count = 0
    for sample in samples:
        make, call = sample.constructor_input, sample.forward_input
        theirs = info.module_cls(*make.args, **make.kwargs).to(dtype).train(training)
        ours = getattr(seqkern.nn, name)(*make.args, **make.kwargs).to(dtype).train(training)
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours) == repr(theirs)
        found = results(ours, call.args, call.kwargs)
        expected = results(theirs, call.args, call.kwargs)
        for mine, other in zip(found[0] + found[1], expected[0] + expected[1], strict=True):
            if other is None:
                assert mine is None
            else:
                torch.testing.assert_close(mine, other, msg=lambda m, of=make.kwargs: f"{m}\n{of}")
        count += 1
    assert count > 1


@pytest.mark.parametrize("name", NAMES)
def test_every_error_input(name):
    info = MODULES[f"nn.{name}"]
    errors = info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=True
    )
    count = 0
    for error in errors:
        make = error.module_error_input.constructor_input
        call = error.module_error_input.forward_input
        cls = getattr(seqkern.nn, name)
        if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(error.error_type, match=error.error_regex):
                cls(*make.args, **make.kwargs)
        else:
            module = cls(*make.args, **make.kwargs)
            with pytest.raises(error.error_type, match=error.error_regex):
                module(*call.args, **call.kwargs)
        count += 1
    assert count > 3
