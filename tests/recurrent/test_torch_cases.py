"""PyTorch's own sample inputs and error inputs for these modules, run against ours.

They are part of the torch wheel (torch.testing._internal.common_modules), as the standard of
PyTorch's own tests. They are tiny, gradients of two numbers and less, of inputs up to 9 that push
gates to where their derivatives cancel: there PyTorch's own float32 gradients are up to 7e-6 off.
So they are held to the rule of `tests.parity`, all outputs of a sample as one vector and all its
gradients as another, because that rule needs enough numbers for a norm to mean something.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils import _pytree as pytree

import seqkern
from tests.parity import assert_parity

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


def in_float64(value: object) -> object:
    """The value with every floating-point tensor in it as a float64 leaf."""

    def widen(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        return leaf.detach().double().requires_grad_(leaf.requires_grad)

    return pytree.tree_map(widen, value)


def assert_together(
    ours: list[torch.Tensor | None],
    theirs: list[torch.Tensor | None],
    reference: list[torch.Tensor | None],
    what: str,
) -> None:
    """The rule of `tests.parity` for all tensors as one vector; shapes and dtypes one by one."""
    flat: tuple[list[torch.Tensor], ...] = ([], [], [])
    for mine, other, exact in zip(ours, theirs, reference, strict=True):
        assert (mine is None) == (other is None) == (exact is None), what
        if mine is None:
            continue
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype), what
        for target, tensor in zip(flat, (mine, other, exact), strict=True):
            target.append(tensor.detach().flatten())
    assert_parity(*(torch.cat(tensors) for tensors in flat), what=what)


def check_every_sample(name: str, dtype: torch.dtype, training: bool) -> None:
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
        exact = copy.deepcopy(ours).double()
        found = results(ours, call.args, call.kwargs)
        expected = results(theirs, call.args, call.kwargs)
        with seqkern.use_backend("reference"):
            reference = results(exact, *in_float64((call.args, call.kwargs)))
        for what, *lists in zip(("outputs", "gradients"), found, expected, reference, strict=True):
            assert_together(*lists, what=f"{what} of {make.args} {make.kwargs}")
        count += 1
    assert count > 1


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_sample_input(name, dtype, training):
    check_every_sample(name, dtype, training)


@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_set_level(isa, name):
    check_every_sample(name, torch.float32, training=True)


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
