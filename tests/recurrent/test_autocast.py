"""Autocast on the CPU: the dtypes that PyTorch's modules give, and float16."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._pytree import tree_map

import seqkern
from tests.parity import relative_error

LAYERS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")


def flat(result) -> list[torch.Tensor]:
    if isinstance(result, torch.nn.utils.rnn.PackedSequence):
        return [result.data]
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for item in result for tensor in flat(item)]


def pair(name: str, h: torch.Tensor):
    return (h, h) if name.startswith("LSTM") else h


def calls(name: str, dtype: torch.dtype) -> dict[str, tuple]:
    """Ways to call a module with an input of one dtype and states of several."""
    if name.endswith("Cell"):
        x = torch.randn(3, 5).to(dtype)
        cases: dict[str, tuple] = {"plain": (x,)}
        for other in (torch.float32, torch.bfloat16, torch.float16):
            cases[f"states {other}"] = (x, pair(name, torch.zeros(3, 6, dtype=other)))
        return cases
    x = torch.randn(4, 3, 5).to(dtype)
    cases = {"plain": (x,), "batch of nothing": (x[:, :0],)}
    cases["ragged"] = (pack_padded_sequence(x, [4, 2, 1]),)
    cases["packed, equal"] = (pack_padded_sequence(x, [4, 4, 4]),)
    for other in (torch.float32, torch.bfloat16, torch.float16):
        cases[f"states {other}"] = (x, pair(name, torch.zeros(1, 3, 6, dtype=other)))
    return cases


MODULES = [
    *((name, {}) for name in LAYERS + CELLS),
    *((name, {"num_layers": 2, "bidirectional": True}) for name in LAYERS),
    ("LSTM", {"proj_size": 2}),
    ("LSTM", {"proj_size": 2, "num_layers": 2}),
]


def pytorchs(module: torch.nn.Module, args: tuple) -> list[torch.Tensor] | None:
    """What a module of torch.nn gives; None for a mixture of dtypes that its operators refuse.

    On a processor without float16 arithmetic oneDNN has no LSTM for it. PyTorch then says what it
    would give in fake tensors: the operator's own dtypes and shapes, without numbers. These cannot
    read the lengths of packed sequences; equal ones are for PyTorch a dense batch.
    """
    try:
        return flat(module(*args))
    except RuntimeError as error:
        if "primitive descriptor" not in str(error):
            assert "Unexpected floating ScalarType" in str(error)
            return None
    x, *states = args
    if isinstance(x, PackedSequence):
        data, sizes, *_ = x
        x = data.view(len(sizes), -1, data.shape[-1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        output, *states = flat(module(x, *states))
    return [output.flatten(0, 1) if isinstance(args[0], PackedSequence) else output, *states]


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name, options", MODULES, ids=str)
def test_dtypes_are_pytorchs(name, dtype, weights, options, lower):
    theirs = getattr(torch.nn, name)(5, 6, **options).to(weights)
    ours = getattr(seqkern.nn, name)(5, 6, **options).to(weights)
    ours.load_state_dict(theirs.state_dict())
    exact = copy.deepcopy(theirs).double()
    compared = 0
    modes = itertools.product((True, False), (True, False))
    for (training, grad), (what, args) in itertools.product(modes, calls(name, dtype).items()):
        if options and what.startswith("states"):
            continue
        with torch.autocast("cpu", dtype=lower), torch.set_grad_enabled(grad):
            expected = pytorchs(theirs.train(training), args)
            if expected is None:
                continue
            found = flat(ours.train(training)(*args))
        described = [(t.dtype, t.shape, t.requires_grad) for t in found]
        assert described == [(t.dtype, t.shape, t.requires_grad) for t in expected], what
        right = flat(exact(*tree_map(in_double, args)))
        for mine, other in zip(found, right, strict=True):
            torch.testing.assert_close(mine.double(), other, rtol=0, atol=3e-2)
        compared += 1
    assert compared >= 12


def in_double(leaf):
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_training_under_autocast(name):
    """Gradients arrive in the parameters' dtype and are as near to float64's as PyTorch's."""
    theirs = getattr(torch.nn, name)(5, 6)
    ours = getattr(seqkern.nn, name)(5, 6)
    ours.load_state_dict(theirs.state_dict())
    exact = copy.deepcopy(theirs).double()
    x = torch.randn(3, 5) if name.endswith("Cell") else torch.randn(4, 3, 5)
    for module in (ours, theirs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = flat(module(x))[0].float().square().sum()
        loss.backward()
    flat(exact(x.double()))[0].square().sum().backward()
    for mine, other, right in zip(
        ours.parameters(), theirs.parameters(), exact.parameters(), strict=True
    ):
        assert mine.grad.dtype == torch.float32
        allowed = 2 * relative_error(other.grad, right.grad) + 6e-3
        assert relative_error(mine.grad, right.grad) <= allowed


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_float64_is_left_alone(name):
    module = getattr(seqkern.nn, name)(5, 6, dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = flat(module(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = flat(module(x))
        with pytest.raises(RuntimeError, match="got Double and BFloat16"):
            getattr(seqkern.nn, name)(5, 6)(x)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_other_backends(name, backend):
    module = getattr(seqkern.nn, name)(5, 6)
    x = torch.randn(4, 3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = flat(module(x))
        with seqkern.use_backend(backend):
            found = flat(module(x))
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), rtol=0, atol=3e-2)


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_under_autocast(name):
    module = getattr(seqkern.nn, name)(5, 6)
    x = torch.randn(4, 3, 5)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = flat(compiled(x)), flat(module(x))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    torch._dynamo.reset()


def test_autocast_of_another_device_does_nothing():
    module = seqkern.nn.LSTM(5, 6)
    torch.set_autocast_enabled("cuda", True)
    try:
        assert module(torch.randn(4, 3, 5))[0].dtype == torch.float32
    finally:
        torch.set_autocast_enabled("cuda", False)
