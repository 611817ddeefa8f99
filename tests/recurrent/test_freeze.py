"""freeze_ and unfreeze_: the same results from weights packed once, and never silently stale."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import seqkern
from seqkern import library
from tests.recurrent.cases import DTYPES, LAYERS, Case, inputs, make, outputs

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


def same(found, expected) -> None:
    """Equal up to rounding: without packed weights a small batch takes another product."""
    for mine, right in zip(found, expected, strict=True):
        tolerance = {torch.float64: 1e-14, torch.float32: 1e-6}.get(mine.dtype, 1e-2)
        torch.testing.assert_close(mine, right, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 2, 35])
@pytest.mark.parametrize("kind", LAYERS)
def test_same_results(kind, batch, dtype):
    for case in (
        Case(5, batch, 7, 33, layers=2, bidirectional=True, states=True),
        Case(5, batch, 7, 33, lengths=tuple(5 - i // 8 for i in range(batch))),
        Case(5, batch, 7, 33, proj=3),
    ):
        if case.proj and kind != "LSTM":
            continue
        module = make(seqkern.nn, kind, case, dtype)
        x, states = inputs(kind, case, dtype)
        with torch.no_grad():
            expected = outputs(module, case, x, states)
            assert seqkern.freeze_(module) is module
            found = outputs(module, case, x, states)
        same(found, expected)


def test_every_instruction_set_level(isa):
    for kind in LAYERS:
        for dtype in DTYPES:
            case = Case(3, 5, 7, 33)
            module = make(seqkern.nn, kind, case, dtype)
            x, _ = inputs(kind, case, dtype)
            with torch.no_grad():
                expected = module(x)[0]
                same([seqkern.freeze_(module)(x)[0]], [expected])


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name):
    cell = getattr(seqkern.nn, name)(5, 6)
    x = torch.randn(3, 5)
    with torch.inference_mode():
        expected = cell(x)
        found = seqkern.freeze_(cell)(x)
        if name != "LSTMCell":
            expected, found = (expected,), (found,)
        same(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_gradients_until_unfrozen(name):
    module = torch.nn.Sequential(getattr(seqkern.nn, name)(5, 6))
    x = torch.randn(3, 5)
    seqkern.freeze_(module)
    with pytest.raises(RuntimeError, match="computes no gradients.*no_grad.*unfreeze_"):
        module(x)
    module.requires_grad_(False)
    module(x)
    module.requires_grad_(True)
    assert seqkern.unfreeze_(module) is module
    module(x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "drop",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: m.double().float(),
        lambda m: m.load_state_dict(m.state_dict()) and m,
    ],
    ids=["deepcopy", "pickle", "cast", "load_state_dict"],
)
def test_what_drops_the_packed_weights(name, drop):
    module = seqkern.freeze_(getattr(seqkern.nn, name)(5, 6))
    assert list(module.state_dict()) == list(getattr(torch.nn, name)(5, 6).state_dict())
    dropped = drop(module)
    x = torch.randn(3, 5)
    dropped(x)  # needs gradients, so it would raise
    with torch.no_grad():
        next(p for n, p in dropped.named_parameters() if n.startswith("weight_hh")).fill_(0.5)
        dropped(x)


def test_in_place_changes_wait_for_the_next_freeze():
    """The documented price."""
    module = seqkern.nn.GRU(5, 6)
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        before = seqkern.freeze_(module)(x)[0]
        module.weight_hh_l0.mul_(2)
        assert torch.equal(module(x)[0], before)
        assert not torch.equal(seqkern.freeze_(module)(x)[0], before)


def test_other_ways_to_run_use_the_weights_themselves():
    module = seqkern.nn.LSTM(5, 6)
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        expected = module(x)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lower = module(x)[0]
        seqkern.freeze_(module)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module(x)[0], lower)
        for backend in ("torch", "reference"):
            with seqkern.use_backend(backend):
                torch.testing.assert_close(module(x)[0], expected)
        torch.testing.assert_close(torch.func.vmap(lambda x: module(x)[0])(x[None])[0], expected)


def test_frozen_in_a_compiled_function():
    module = seqkern.freeze_(seqkern.nn.LSTM(5, 6, 2))
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x)[0], module(x)[0])
    torch._dynamo.reset()


def test_weights_packed_for_another_level_are_refused():
    levels = library.isa_levels()
    module = seqkern.nn.LSTM(5, 33)
    x = torch.randn(4, 3, 5)
    before = library.isa()
    try:
        library.set_isa(levels[-1])
        seqkern.freeze_(module)
        with torch.no_grad():
            expected = module(x)[0]
            for level in levels[:-1]:
                library.set_isa(level)
                try:  # levels may share a layout; then the result is right
                    found = module(x)[0]
                except RuntimeError:
                    continue
                torch.testing.assert_close(found, expected)
    finally:
        library.set_isa(before)


def test_nothing_to_freeze():
    with pytest.raises(ValueError, match="Linear contains no recurrent layer or cell.*swap"):
        seqkern.freeze_(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="LSTM contains no recurrent"):
        seqkern.freeze_(torch.nn.LSTM(2, 2))
    with pytest.raises(
        RuntimeError, match="freeze_: the module has torch.complex64 weights on cpu"
    ):
        seqkern.freeze_(seqkern.nn.LSTM(2, 2, dtype=torch.complex64))
    with pytest.raises(RuntimeError, match="freeze_: 1 has torch.float32 weights on meta"):
        seqkern.freeze_(
            torch.nn.Sequential(seqkern.nn.GRU(2, 2), seqkern.nn.GRU(2, 2, device="meta"))
        )
    assert seqkern.unfreeze_(torch.nn.Linear(2, 2)).in_features == 2
