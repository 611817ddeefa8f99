"""torch.compile without graph breaks, torch.export, and the operators' fake kernels."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

import seqkern
from tests.recurrent.cases import LAYERS, Case, fits, inputs, make, outputs

OPTIONS = [
    Case(4, 3, 5, 6),
    Case(4, 3, 5, 6, layers=2, bidirectional=True, batch_first=True, states=True),
    Case(4, 3, 5, 6, proj=2),
    Case(4, 1, 5, 6, unbatched=True, states=True),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compare(module, compiled, case, x, states) -> None:
    parameters = list(module.parameters())
    found, expected = (outputs(m, case, x, states) for m in (compiled, module))
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right)
    for mine, right in zip(
        torch.autograd.grad([o.sin().sum() for o in found], [x, *parameters]),
        torch.autograd.grad([o.sin().sum() for o in expected], [x, *parameters]),
        strict=True,
    ):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize(
    "kind, case",
    [(kind, case) for kind in LAYERS[:3] for case in OPTIONS if fits(kind, case)],
    ids=str,
)
def test_full_graph(kind, case):
    module = make(seqkern.nn, kind, case, torch.float32)
    x, states = inputs(kind, case, torch.float32)
    compare(module, torch.compile(module, fullgraph=True, backend="aot_eager"), case, x, states)


def test_inductor():
    case = Case(4, 3, 5, 6, layers=2)
    module = make(seqkern.nn, "LSTM", case, torch.float32)
    compiled = torch.compile(module, fullgraph=True)
    x, _ = inputs("LSTM", case, torch.float32)
    compare(module, compiled, case, x, ())
    with torch.no_grad():
        torch.testing.assert_close(compiled(x)[0], module(x)[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_dropout_between_layers_stays(kind):
    """torch.nn.LSTM under allow_rnn silently loses it."""
    module = make(seqkern.nn, kind, Case(4, 3, 5, 6, layers=2), torch.float32)
    module.dropout = 0.5
    x = torch.randn(4, 3, 5)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for function in (module, compiled):
        torch.manual_seed(5)
        results.append(function(x)[0])
    torch.testing.assert_close(*results)
    assert not torch.allclose(results[0], module.eval()(x)[0])
    torch.testing.assert_close(compiled(x)[0], module(x)[0])


def test_dynamic_shapes():
    module = seqkern.nn.LSTM(5, 6, 2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for steps, batch in ((3, 2), (7, 5), (12, 3)):
            x = torch.randn(steps, batch, 5)
            torch.testing.assert_close(compiled(x)[0], module(x)[0])


def test_a_packed_sequence_packed_outside():
    module = seqkern.nn.GRU(5, 6, bidirectional=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    case = Case(4, 3, 5, 6, bidirectional=True, lengths=(2, 4, 3), sorted=False, states=True)
    x, states = inputs("GRU", case, torch.float32)
    with torch.no_grad():
        expected, found = (outputs(m, case, x, states) for m in (module, compiled))
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_in_a_loop(name):
    cell = getattr(seqkern.nn, name)(5, 6)

    def run(x):
        state = None
        for step in x:
            state = cell(step, state)
        return state[0] if isinstance(state, tuple) else state

    x = torch.randn(4, 3, 5, requires_grad=True)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), run(x))
    expected = torch.autograd.grad(run(x).sum(), x)
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sum(), x), expected)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_inductor_with_a_cell(name):
    cell = getattr(seqkern.nn, name)(5, 6)
    compiled = torch.compile(cell, fullgraph=True)
    x = torch.randn(3, 5, requires_grad=True)

    def run(module):
        result = module(x)
        result = result if isinstance(result, tuple) else (result,)
        loss = torch.stack([r.sin().sum() for r in result]).sum()
        return [*result, *torch.autograd.grad(loss, [x, *cell.parameters()])]

    for found, expected in zip(run(compiled), run(cell), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_export_of_a_cell_with_any_batch(name):
    cell = getattr(seqkern.nn, name)(5, 6).eval()
    batch = torch.export.Dim("batch", min=2, max=500)
    program = torch.export.export(cell, (torch.randn(3, 5),), dynamic_shapes=({0: batch},))
    for rows in (2, 40, 100):
        x = torch.randn(rows, 5)
        found, expected = program.module()(x), cell(x)
        torch.testing.assert_close(found, expected)


def test_another_backend_means_another_graph():
    module = seqkern.nn.GRU(5, 6)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 3, 5)
    with torch.no_grad():
        expected = compiled(x)[0]
        for backend in ("reference", "torch", "cpu"):
            with seqkern.use_backend(backend):
                torch.testing.assert_close(compiled(x)[0], expected)
    with seqkern.use_backend("triton"), pytest.raises(Exception, match="triton"):
        compiled(x)


def nodes(module: torch.nn.Module) -> list:
    return list(module.graph.nodes) if isinstance(module, torch.fx.GraphModule) else []


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", LAYERS[:3])
def test_export(kind, strict):
    module = make(seqkern.nn, kind, Case(4, 3, 5, 6, layers=2), torch.float32).eval()
    x = torch.randn(4, 3, 5)
    steps = torch.export.Dim("steps", min=2, max=64)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: steps},), strict=strict)
    longer = torch.randn(9, 3, 5)
    torch.testing.assert_close(program.module()(longer)[0], module(longer)[0])
    targets = [str(node.target) for part in program.graph_module.modules() for node in nodes(part)]
    assert sum("seqkern" in target for target in targets) == 2


def layer_arguments(gates: int, states: int, ragged: bool) -> list:
    x = torch.randn(7, 5) if ragged else torch.randn(4, 3, 5)
    hidden = [torch.randn(3, 6) for _ in range(states)]
    rows = gates * 6
    w = [torch.randn(rows, 5), torch.randn(rows, 6), torch.randn(rows), torch.randn(rows)]
    return [x, *hidden, *w]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
class TestOperators:
    """torch.library.opcheck: schemas, fake kernels, no aliasing, strides."""

    def ragged(self, ragged):
        return torch.tensor([3, 2, 1, 1]) if ragged else None

    def cast(self, tensors, dtype):
        return [t.to(dtype) for t in tensors]

    @pytest.mark.parametrize("projection", [False, True])
    def test_lstm(self, ragged, save, dtype, projection):
        x, h, c, w_ih, w_hh, b_ih, b_hh = self.cast(layer_arguments(4, 2, ragged), dtype)
        w_hr = None
        if projection:
            w_hr, h, w_hh = torch.randn(2, 6).to(dtype), h[:, :2], w_hh[:, :2]
        sizes = self.ragged(ragged)
        ops = torch.ops.seqkern
        args = (x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, None, sizes, False, save)
        opcheck(ops.lstm_forward.default, args)
        if save:
            output, h_n, _, gates, cells, hidden = ops.lstm_forward(*args)
            grads = (torch.randn_like(output), torch.randn_like(h_n), None)
            saved = (output, gates, cells, hidden)
            for needs in (127, 1 + 8, 2 + 4 + 32):
                backward = (*grads, x, h, c, w_ih, w_hh, w_hr, sizes, *saved, False, needs)
                opcheck(ops.lstm_backward.default, backward)

    def test_gru(self, ragged, save, dtype):
        x, h, w_ih, w_hh, b_ih, b_hh = self.cast(layer_arguments(3, 1, ragged), dtype)
        sizes = self.ragged(ragged)
        ops = torch.ops.seqkern
        args = (x, h, w_ih, w_hh, b_ih, b_hh, None, sizes, True, save)
        opcheck(ops.gru_forward.default, args)
        if save:
            output, h_n, gates = ops.gru_forward(*args)
            grads = (torch.randn_like(output).expand_as(output), torch.randn_like(h_n))
            for needs in (59, 1 + 16, 2 + 32):
                backward = (*grads, x, h, w_ih, w_hh, sizes, output, gates, True, needs)
                opcheck(ops.gru_backward.default, backward)

    @pytest.mark.parametrize("relu", [False, True])
    def test_rnn(self, ragged, save, dtype, relu):
        x, h, w_ih, w_hh, b_ih, b_hh = self.cast(layer_arguments(1, 1, ragged), dtype)
        sizes = self.ragged(ragged)
        ops = torch.ops.seqkern
        args = (x, h, w_ih, w_hh, b_ih, b_hh, None, sizes, relu, False, save)
        opcheck(ops.rnn_forward.default, args)
        if save:
            output, h_n = ops.rnn_forward(*args)
            grads = (torch.randn(()).to(dtype).expand_as(output), torch.randn_like(h_n))
            for needs in (59, 1 + 16, 2 + 32):
                backward = (*grads, x, h, w_ih, w_hh, sizes, output, relu, False, needs)
                opcheck(ops.rnn_backward.default, backward)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name, operator", [("LSTM", "lstm"), ("GRUCell", "grucell")])
def test_an_exported_program_names_operators_that_last(name, operator, strict):
    """With gradients, too: it is a file, which a later seqkern may load."""
    module = getattr(seqkern.nn, name)(5, 6)
    x = torch.randn((3, 5) if name.endswith("Cell") else (4, 3, 5))
    program = torch.export.export(module, (x,), strict=strict)
    targets = {str(n.target) for n in program.graph.nodes if "seqkern" in str(n.target)}
    assert targets == {f"seqkern.{operator}_autograd.default"}
    torch.testing.assert_close(program.module()(x), module(x))
