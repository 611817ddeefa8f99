"""Stacks of recurrent layers by the CUDA kernels, on the emulator: the modules' results and every
gradient, as near to the float64 reference as PyTorch's own; what the operators say and refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import seqkern
from seqkern.recurrent import choice, stack_autograd
from tests.recurrent import stack_cases
from tests.recurrent.stack_cases import KINDS, Stack, grid, make, results

from .recurrent_operators import STACKS, Cut, Emulated

ALL = 227 * 1024
CUTS = {
    "resident": Cut(True, 1, 2, 8, ALL),
    "four row warps": Cut(True, 4, 1, 40, ALL),
    "no room for weights": Cut(True, 1, 1, 8, 1),
    "steps": Cut(False, 2, 1, 8, ALL),
    "one after the other": Cut(True, 2, 2, 16, ALL, together=False),
}
RAGGED = Stack(0, 0, 3, 20, sizes=(11, 10, 9, 2, 1))
EVERY_CUT = [Stack(4, 3, 5, 33), RAGGED]
CASES = [
    Stack(1, 1, 3, 1),
    Stack(5, 2, 3, 7, states=False, bias=False),
    Stack(3, 19, 2, 18, layers=2, states=False),
    Stack(0, 0, 3, 9, layers=2, sizes=(12, 9, 9, 1)),
    Stack(0, 0, 3, 17, sizes=(12, 2), states=False),
]
# The layers of a stack as a wave, all at once or two at a time.
WAVES = {
    "resident": Cut(True, 1, 2, 8, ALL, wave=4),
    "two at a time": Cut(True, 2, 1, 16, ALL, wave=2),
    "no room for weights": Cut(True, 1, 1, 8, 1, wave=4),
    "steps": Cut(False, 2, 1, 8, ALL, wave=3),
}
# Longer than the buffers of the exchange, so that a layer has to wait for the one above.
LONG = Stack(19, 3, 4, 7, layers=3, bidirectional=False)
RAGGED_WAVE = Stack(
    0, 0, 3, 20, 3, False, sizes=(11, 11, 10, 9, 9, 9, 3, 3, 2, 2, 2, 1, 1, 1), states=True
)
EVERY_WAVE = [LONG, RAGGED_WAVE]
WAVE_CASES = [
    Stack(1, 1, 3, 1, 2, False),
    Stack(4, 41, 5, 33, 2, False),  # several passes, the last with one row
    Stack(11, 2, 3, 5, 5, False, states=False, bias=False),
    Stack(0, 0, 2, 17, 2, False, sizes=(35, 34, 2), states=False),
]
CELLS = {"LSTM": 0, "GRU": 1, "RNN_TANH": 2, "RNN_RELU": 3}


@pytest.fixture(autouse=True)
def _unset_memory_is_nan() -> Iterator[None]:
    """Outputs and workspaces start as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def check(emulated: Emulated, kind: str, case: Stack, dtype: torch.dtype) -> None:
    def ours(*arguments) -> list[Tensor]:
        with emulated.in_place_of_cuda():
            return results(*arguments)

    before = emulated.calls
    stack_cases.check(ours, kind, case, dtype, "cpu")
    assert emulated.calls == before + 2


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind, case", grid(EVERY_CUT))
def test_every_cut(emulated_layers, kind, case, cut):
    emulated_layers.spread(CUTS[cut])
    check(emulated_layers, kind, case, torch.float32)


@pytest.mark.parametrize("kind, case", grid(CASES))
def test_float32(emulated_layers, kind, case):
    emulated_layers.spread(CUTS["resident"])
    check(emulated_layers, kind, case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind, case", grid(EVERY_CUT))
def test_16_bits(emulated_layers, kind, case, dtype):
    emulated_layers.spread(CUTS["resident"])
    check(emulated_layers, kind, case, dtype)


@pytest.mark.parametrize("cut", WAVES)
@pytest.mark.parametrize("kind, case", grid(EVERY_WAVE))
def test_every_wave(emulated_layers, kind, case, cut):
    emulated_layers.spread(WAVES[cut])
    check(emulated_layers, kind, case, torch.float32)


@pytest.mark.parametrize("kind, case", grid(WAVE_CASES))
def test_waves_in_float32(emulated_layers, kind, case):
    emulated_layers.spread(Cut(True, 4, 1, 40, ALL, wave=8))
    check(emulated_layers, kind, case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS[:3])  # of relu, rounding decides sides of the kink
@pytest.mark.parametrize("case", EVERY_WAVE, ids=str)
def test_waves_in_16_bits(emulated_layers, kind, case, dtype):
    emulated_layers.spread(WAVES["resident"])
    check(emulated_layers, kind, case, dtype)


@pytest.mark.parametrize("case", [RAGGED, RAGGED_WAVE], ids=["directions", "wave"])
@pytest.mark.parametrize("seed", range(1, 5))
def test_no_order_of_threads_and_blocks_matters(emulated_layers, case, seed):
    """Sums are formed in one order, so results are equal to the last bit."""
    module = make(seqkern.nn, "LSTM", case)
    finals = case.finals("LSTM")
    given = [torch.randn(*case.lead, 3), *map(torch.randn, finals)]
    width = case.H * (2 if case.bidirectional else 1)
    weights = [torch.randn(*case.lead, width), *map(torch.randn, finals)]
    found = []
    for number in (0, seed):
        emulated_layers.spread(WAVES["resident"], number)
        with emulated_layers.in_place_of_cuda():
            found.append(results(module, case, given, weights))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_dropout_between_layers(emulated_layers):
    """A call of the operator for each layer, with torch's dropout in between."""
    emulated_layers.spread(CUTS["resident"])
    module = seqkern.nn.GRU(3, 5, 3, bidirectional=True, dropout=0.5)
    x = torch.randn(4, 2, 3, requires_grad=True)
    found = []
    for emulate in (True, False):
        torch.manual_seed(5)
        if emulate:
            before = emulated_layers.calls
            with emulated_layers.in_place_of_cuda():
                output, h_n = module(x)
                assert emulated_layers.calls == before + 3
                grad = torch.autograd.grad(output.sum(), x)[0]
        else:
            output, h_n = module(x)
            grad = torch.autograd.grad(output.sum(), x)[0]
        found.append([output, h_n, grad])
    torch.testing.assert_close(*found)
    module.eval()
    with emulated_layers.in_place_of_cuda(), torch.no_grad():
        output, _ = module(x)
    assert emulated_layers.calls == before + 7  # three forward, three backward, one for all
    torch.testing.assert_close(output, module(x)[0])


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("sizes", [(), (3, 2, 1)])
def test_opcheck(emulated_layers, kind, sizes):
    emulated_layers.spread(CUTS["steps"])
    case = Stack(3, 3, 2, 5, 2, sizes=sizes)
    weights = [p.detach() for p in make(seqkern.nn, kind, case).parameters()]
    states = [*map(torch.randn, case.finals(kind)), None][:2]
    x, packed = torch.randn(*case.lead, 2), torch.tensor(sizes) if sizes else None
    head = (x, *states, weights, packed)
    tail = (CELLS[kind], True, True)
    operators = emulated_layers.operators
    tests = ("test_schema", "test_faketensor")
    for save in (False, True):
        opcheck(operators.recurrent_stack_forward, (*head, *tail, save), test_utils=tests)
    output, h_n, _, *saved = operators.recurrent_stack_forward(*head, *tail, True)
    for needs in ([1 | 2 | 4 | 56, 56, 56, 56], [8, 0, 48, 32], [0, 0, 0, 8], [0, 0, 0, 0]):
        grads = (torch.randn_like(output), torch.randn_like(h_n), None)
        given = (*grads, *head, output, *saved, *tail, needs)
        opcheck(operators.recurrent_stack_backward, given, test_utils=tests)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_layers_that_nobody_trains_are_not_differentiated(emulated_layers, bidirectional):
    emulated_layers.spread(Cut(False, 2, 1, 8, ALL, wave=4))
    module = make(seqkern.nn, "GRU", Stack(3, 3, 2, 5, 3, bidirectional))
    x = torch.randn(3, 3, 2)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("l0" not in name)
    trained = [p for p in module.parameters() if p.requires_grad]
    expected = torch.autograd.grad(module(x)[0].sum(), trained)
    with emulated_layers.in_place_of_cuda():
        output, _ = module(x)
        assert output.grad_fn is not None
        found = torch.autograd.grad(output.sum(), trained)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(emulated_layers, kind):
    emulated_layers.spread(CUTS["steps"])
    case = Stack(3, 2, 2, 3, 2, bias=kind != "GRU")
    module = make(seqkern.nn, kind, case)
    x = torch.randn(3, 2, 2, requires_grad=True)

    def penalty() -> list[Tensor]:
        output, _ = module(x)
        (grad,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
        return [grad, *torch.autograd.grad(grad.square().sum(), [x, *module.parameters()],
                                           allow_unused=True, materialize_grads=True)]  # fmt: skip

    expected = penalty()
    with emulated_layers.in_place_of_cuda():
        found = penalty()
    torch.testing.assert_close(found, expected)


def test_compiled(emulated_layers, monkeypatch):
    """In one graph, forward and backward."""
    emulated_layers.spread(CUTS["steps"])
    module = make(seqkern.nn, "LSTM", Stack(3, 2, 2, 3, 2))
    x = torch.randn(3, 2, 2, requires_grad=True)
    expected = [module(x)[0]]
    expected += torch.autograd.grad(expected[0].sum(), [x, *module.parameters()])
    for name, bound in STACKS.items():
        monkeypatch.setattr(stack_autograd, bound, getattr(emulated_layers.operators, name).default)
    monkeypatch.setattr(choice, "runs_directly", lambda input: False)
    monkeypatch.setattr(choice, "choose", lambda *arguments, **options: "cuda")
    found = [torch.compile(module, fullgraph=True, backend="aot_eager")(x)[0]]
    found += torch.autograd.grad(found[0].sum(), [x, *module.parameters()])
    torch.testing.assert_close(found, expected)


def test_an_empty_batch(emulated_layers):
    module = make(seqkern.nn, "LSTM", Stack(3, 0, 2, 5, 2))
    x = torch.randn(3, 0, 2, requires_grad=True)
    with emulated_layers.in_place_of_cuda():
        output, (h_n, c_n) = module(x)
        grads = torch.autograd.grad(output.sum(), [x, *module.parameters()])
    assert output.shape == (3, 0, 10) and h_n.shape == c_n.shape == (4, 0, 5)
    assert all((g == 0).all() for g in grads)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"h0": torch.zeros(2, 3, 5)}, r"h0 should have the shape \(4, batch, 5\)"),
        ({"c0": torch.zeros(4, 2, 5)}, "c0 should have the shape"),
        ({"weights": []}, "weights should be 4 for each layer and direction"),
        ({"weights": [torch.zeros(20, 2)] * 12}, "weights should be 4 for each layer and dire"),
        ({"weights": [torch.zeros(20, 3), torch.zeros(20, 5)] * 8}, "w_ih should have the shape"),
        ({"cell": 4}, "cell should be from 0 to 3"),
        ({"input": torch.zeros(3, 3, 2).double()}, "the weights should have the dtype of input"),
        ({"batch_sizes": torch.tensor([3, 3])}, "input should have the shape"),
    ],
)
def test_arguments_that_do_not_fit(emulated_layers, change, says):
    case = Stack(3, 3, 2, 5, 2)
    given = {
        "input": torch.randn(3, 3, 2),
        "h0": torch.zeros(4, 3, 5),
        "c0": torch.zeros(4, 3, 5),
        "weights": [p.detach() for p in make(seqkern.nn, "LSTM", case).parameters()],
        "batch_sizes": None,
        "cell": 0,
        "bias": True,
        "bidirectional": True,
        "save": False,
    }
    with pytest.raises(RuntimeError, match=says):
        emulated_layers.operators.recurrent_stack_forward(**given | change)
