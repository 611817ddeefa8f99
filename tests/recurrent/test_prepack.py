"""prepack_ and unprepack_: the same results from weights packed once, and never silently stale."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import seqkern
from seqkern.core import library
from tests.recurrent import single_layer
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
            assert seqkern.prepack_(module) is module
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
                same([seqkern.prepack_(module)(x)[0]], [expected])


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name):
    cell = getattr(seqkern.nn, name)(5, 6)
    x = torch.randn(3, 5)
    with torch.inference_mode():
        expected = cell(x)
        found = seqkern.prepack_(cell)(x)
        if name != "LSTMCell":
            expected, found = (expected,), (found,)
        same(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_gradients_until_unprepacked(name):
    module = torch.nn.Sequential(getattr(seqkern.nn, name)(5, 6))
    x = torch.randn(3, 5)
    seqkern.prepack_(module)
    with pytest.raises(RuntimeError, match="computes no gradients.*no_grad.*unprepack_"):
        module(x)
    module.requires_grad_(False)
    module(x)
    module.requires_grad_(True)
    assert seqkern.unprepack_(module) is module
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
    module = seqkern.prepack_(getattr(seqkern.nn, name)(5, 6))
    assert list(module.state_dict()) == list(getattr(torch.nn, name)(5, 6).state_dict())
    dropped = drop(module)
    x = torch.randn(3, 5)
    dropped(x)  # needs gradients, so it would raise
    with torch.no_grad():
        next(p for n, p in dropped.named_parameters() if n.startswith("weight_hh")).fill_(0.5)
        dropped(x)


def test_in_place_changes_wait_for_the_next_prepack():
    """As documented."""
    module = seqkern.nn.GRU(5, 6)
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        before = seqkern.prepack_(module)(x)[0]
        module.weight_hh_l0.mul_(2)
        assert torch.equal(module(x)[0], before)
        assert not torch.equal(seqkern.prepack_(module)(x)[0], before)


def test_other_ways_to_run_use_the_weights_themselves():
    module = seqkern.nn.LSTM(5, 6)
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        expected = module(x)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lower = module(x)[0]
        seqkern.prepack_(module)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module(x)[0], lower)
        for backend in ("torch", "reference"):
            with seqkern.use_backend(backend):
                torch.testing.assert_close(module(x)[0], expected)
        torch.testing.assert_close(torch.func.vmap(lambda x: module(x)[0])(x[None])[0], expected)


def test_prepacked_in_a_compiled_function():
    module = seqkern.prepack_(seqkern.nn.LSTM(5, 6, 2))
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x)[0], module(x)[0])
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell", "GRU", "RNN"])
@pytest.mark.parametrize("batch", [1, 40])
def test_weights_packed_for_another_level_are_refused(name, batch):
    """Also where the two layouts take equally many bytes, as they may for 64 units."""
    before = library.isa()
    x = torch.randn(batch, 5) if name.endswith("Cell") else torch.randn(4, batch, 5)
    try:
        for packed_at in library.isa_levels():
            for used_at in library.isa_levels():
                module = getattr(seqkern.nn, name)(5, 64)
                library.set_isa(packed_at)
                seqkern.prepack_(module)
                library.set_isa(used_at)
                with torch.no_grad():
                    if used_at == packed_at:
                        module(x)
                    else:
                        with pytest.raises(RuntimeError, match="packed was made for|packed should"):
                            module(x)
                    seqkern.prepack_(module)(x)
    finally:
        library.set_isa(before)


@pytest.mark.parametrize(
    "packed",
    [
        lambda w: torch.ops.seqkern.recurrent_pack(w.bfloat16(), 4),
        lambda w: torch.ops.seqkern.recurrent_pack(w.double(), 4),
        lambda w: torch.ops.seqkern.recurrent_pack(w[:192], 3),
        lambda w: torch.ops.seqkern.recurrent_pack(w[:, :32].contiguous(), 4),
        lambda w: torch.ops.seqkern.recurrent_pack(w, 4)[:-1],
        lambda w: torch.ops.seqkern.recurrent_pack(w, 4).to(torch.int8),
        lambda w: torch.ops.seqkern.recurrent_pack(w, 4).repeat_interleave(2)[::2],
        lambda w: torch.zeros_like(torch.ops.seqkern.recurrent_pack(w, 4)),
    ],
    ids=["bfloat16", "float64", "gates", "width", "short", "dtype", "strided", "zeros"],
)
def test_packed_weights_of_another_kind_are_refused(isa, packed):
    w_ih, w_hh = torch.randn(256, 5), torch.randn(256, 64)
    with pytest.raises(RuntimeError, match="packed"):
        single_layer.lstm_layer(torch.randn(4, 3, 5), None, None, w_ih, w_hh, packed=packed(w_hh))


def scaled(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Other weights for a module, so that mixing old and new ones shows."""
    return {name: 1.5 * p.detach() for name, p in module.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_was_not_packed_is_used_as_it_is(name):
    cell = name.endswith("Cell")
    layers = {} if cell else {"num_layers": 2, "bidirectional": True}
    module = getattr(seqkern.nn, name)(5, 6, **layers)
    x, h = torch.randn(3, 5), torch.randn(*((3, 6) if cell else (4, 6)))
    args = (x, (h, h) if name.startswith("LSTM") else h)
    other = copy.deepcopy(module)
    other.load_state_dict(scaled(module))

    def first(found):
        return found if isinstance(found, torch.Tensor) else found[0]

    def replaced(weights):
        return first(torch.func.functional_call(module, weights, args))

    with torch.no_grad():
        old, new = first(module(*args)), first(other(*args))
        seqkern.prepack_(module)
        same([replaced(scaled(module))], [new])
        same([first(module(*args))], [old])
        for key, value in scaled(module).items():  # one after the other: partly packed
            setattr(module, key, torch.nn.Parameter(value))
            plain = copy.deepcopy(module)  # not prepacked
            same([first(module(*args))], [first(plain(*args))])
        same([first(module(*args))], [new])


def test_gradients_of_weights_that_were_not_packed():
    module = seqkern.prepack_(seqkern.nn.GRU(5, 6))
    x = torch.randn(4, 3, 5)
    weights = {name: w.requires_grad_() for name, w in scaled(module).items()}
    output = torch.func.functional_call(module, weights, (x,))[0]
    found = torch.autograd.grad(output.sum(), list(weights.values()))
    seqkern.unprepack_(module)
    output = torch.func.functional_call(module, weights, (x,))[0]
    expected = torch.autograd.grad(output.sum(), list(weights.values()))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_compiled_function_sees_a_new_weight():
    module = seqkern.prepack_(seqkern.nn.LSTM(5, 6, 2))
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        compiled(x)
        module.weight_hh_l1 = torch.nn.Parameter(2 * module.weight_hh_l1)
        expected = seqkern.unprepack_(copy.deepcopy(module))(x)[0]
        torch.testing.assert_close(compiled(x)[0], expected)
    torch._dynamo.reset()


def test_nothing_to_prepack():
    with pytest.raises(ValueError, match="Linear contains no recurrent layer or cell.*swap"):
        seqkern.prepack_(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="LSTM contains no recurrent"):
        seqkern.prepack_(torch.nn.LSTM(2, 2))
    with pytest.raises(
        RuntimeError, match="prepack_: the module has torch.complex64 weights on cpu"
    ):
        seqkern.prepack_(seqkern.nn.LSTM(2, 2, dtype=torch.complex64))
    with pytest.raises(RuntimeError, match="prepack_: 1 has torch.float32 weights on meta"):
        seqkern.prepack_(
            torch.nn.Sequential(seqkern.nn.GRU(2, 2), seqkern.nn.GRU(2, 2, device="meta"))
        )
    assert seqkern.unprepack_(torch.nn.Linear(2, 2)).in_features == 2


def test_the_former_names_are_deprecated():
    module, x = seqkern.nn.GRU(5, 6), torch.randn(3, 2, 5)
    expected = module(x)[0]
    renamed = r"seqkern\.freeze_ .* use seqkern\.prepack_"
    with pytest.warns(DeprecationWarning, match=renamed) as told:
        assert seqkern.freeze_(module) is module
    assert told[0].filename == __file__
    with torch.no_grad():
        same([module(x)[0]], [expected])
    with pytest.raises(RuntimeError, match="computes no gradients"):
        module(x)
    with pytest.warns(DeprecationWarning, match=r"seqkern\.unfreeze_ .* use seqkern\.unprepack_"):
        assert seqkern.unfreeze_(module) is module
    assert module(x)[0].requires_grad
