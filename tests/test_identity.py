"""Our layers are instances of torch.nn's, and torch.compile traces them all the same."""

from __future__ import annotations

import copy
import subprocess
import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.recurrent import dynamo
from seqkern.swapping.swap import SWAPS

LAYERS = (torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU)


@pytest.mark.parametrize("old", SWAPS, ids=lambda cls: cls.__name__)
def test_a_subclass_of_the_class_that_it_replaces(old: type) -> None:
    assert issubclass(SWAPS[old], old)


@pytest.mark.parametrize("old", LAYERS, ids=lambda cls: cls.__name__)
def test_other_peoples_questions(old: Any) -> None:
    module = old(3, 4)
    seqkern.swap(module)
    for ours in (module, SWAPS[old](3, 4), copy.copy(module)):
        assert isinstance(ours, old) and type(ours) is SWAPS[old] is ours.__class__
        assert not isinstance(ours, [other for other in LAYERS if other is not old][0])


class Decoder(torch.nn.Module):
    """As decoders branch: an LSTM's state is a pair."""

    def __init__(self, rnn: torch.nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(1, x.shape[1], 4)
        if isinstance(self.rnn, torch.nn.LSTM):
            return self.rnn(x, (state, state))[0]
        return self.rnn(x, state)[0]


@pytest.fixture
def _fresh_compiler() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
class TestDynamo:
    @pytest.mark.parametrize("old", LAYERS, ids=lambda cls: cls.__name__)
    def test_a_swapped_decoder_in_one_graph(self, old: Any) -> None:
        model = Decoder(old(3, 4))
        x = torch.randn(5, 2, 3)
        expected = model(x)
        seqkern.swap(model)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected)

    def test_torchs_own_layers_are_refused_as_before(self) -> None:
        ours, theirs = seqkern.nn.LSTM(3, 3), torch.nn.LSTM(3, 3)

        def both(x: Tensor) -> Tensor:
            return theirs(ours(x)[0])[0]

        x = torch.randn(5, 2, 3)
        for function in (both, theirs):
            with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM"):
                torch.compile(function, fullgraph=True, backend="eager")(x)
        torch.testing.assert_close(torch.compile(both, backend="eager")(x), both(x))
        assert torch._dynamo.config.allow_rnn is False

    def test_layers_admitted_after_dynamo_was_imported(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from torch._dynamo.variables.builder import VariableBuilder

        class Layer(torch.nn.LSTM):
            def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
                return x @ self.weight_ih_l0.T

        monkeypatch.setattr(VariableBuilder, "wrap_module", VariableBuilder.wrap_module)
        layer, x = Layer(3, 4), torch.randn(2, 3)
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(layer, fullgraph=True, backend="eager")(x)
        torch._dynamo.reset()
        dynamo.admit(Layer)
        torch.testing.assert_close(
            torch.compile(layer, fullgraph=True, backend="eager")(x), layer(x)
        )


ONE_PROCESS = """
import sys, torch, seqkern
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
model = torch.nn.Sequential(torch.nn.GRU(3, 4))
seqkern.swap(model)
x = torch.randn(5, 2, 3)
compiled = torch.compile(model, fullgraph=True, backend="eager")
torch.testing.assert_close(compiled(x)[0], model(x)[0])
import inspect, torch._dynamo.variables.builder as builder
assert inspect.getsource(builder)  # whoever asks the loader still gets answers
assert "exec_module" not in vars(builder.__spec__.loader)
"""


def test_dynamo_is_imported_by_those_who_compile() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", ONE_PROCESS], check=True)


@pytest.mark.parametrize("builder", [{}, {"config": types.SimpleNamespace(allow_rnn=False)}])
def test_a_compiler_that_is_not_known_says_so(builder: dict[str, Any]) -> None:
    with pytest.warns(RuntimeWarning, match="seqkern.nn.RNN, LSTM and GRU: they run uncompiled"):
        dynamo.patch_builder(types.SimpleNamespace(**builder), torch.nn.LSTM)


def test_a_compiler_that_refuses_nothing_stays_as_it_is(recwarn: pytest.WarningsRecorder) -> None:
    wrap = types.FunctionType((lambda self, value: value).__code__, {})
    builder = types.SimpleNamespace(
        config=types.SimpleNamespace(), VariableBuilder=type("Builder", (), {"wrap_module": wrap})
    )
    dynamo.patch_builder(builder, torch.nn.LSTM)
    assert builder.VariableBuilder.wrap_module is wrap and not recwarn.list
