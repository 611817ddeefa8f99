"""Recurrent layers by the CUDA kernels, on the emulator: forward and every gradient, as near to the
float64 reference as PyTorch's own; and what the operators save, refuse and leave alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.recurrent import kinds, ops
from tests.parity import assert_all_parity
from tests.recurrent.layer_cases import KINDS, Case, layer_results, tensors

from . import recurrent_operators
from .recurrent_operators import Cut, Emulated

KIB = 1024
ALL = 227 * KIB
LAYERS = {
    "lstm": kinds.LSTM,
    "gru": kinds.GRU,
    "rnn_tanh": kinds.RNN_TANH,
    "rnn_relu": kinds.RNN_RELU,
}
# One launch for all steps, or one for each; warps side by side over units and over the depth;
# groups of 8 rows and passes of 32; weights in registers only, in shared memory, and read at each
# step.
CUTS = {
    "resident": Cut(True, 1, 2, 8, ALL),
    "one warp": Cut(True, 1, 1, 32, ALL),
    "two by two": Cut(True, 2, 2, 16, ALL),
    "four row warps": Cut(True, 4, 1, 40, ALL),
    "no room for weights": Cut(True, 1, 1, 8, 1),
    "steps": Cut(False, 2, 1, 8, ALL),
    "steps, all warps": Cut(False, 1, 8, 32, ALL),
}
CASES = [
    Case(1, 1, 3, 1),
    Case(7, 1, 2, 5, states=False),
    Case(4, 3, 4, 33),
    Case(3, 3, 1, 16, reverse=True, states=False, bias=False),
    Case(1, 3, 2, 33, reverse=True),
    Case(2, 41, 3, 18),  # several groups or passes, the last with one row
    Case(0, 0, 2, 5, sizes=(3, 3, 2, 1, 1)),
    Case(0, 0, 2, 5, sizes=(3, 3, 2, 1, 1), reverse=True),
    Case(0, 0, 3, 17, sizes=(35, 34, 17, 8, 2)),
    Case(0, 0, 3, 17, sizes=(35, 34, 17, 8, 2), reverse=True, bias=False),
]
IN_16_BITS = [
    Case(4, 3, 4, 33),
    Case(2, 20, 3, 72, reverse=True, states=False),
    Case(0, 0, 2, 5, sizes=(17, 17, 3, 1), reverse=True),
]
# Several chunks of the depth for each warp: beyond registers and shared memory.
DEEP = Case(2, 3, 2, 150)


@pytest.fixture(scope="session")
def emulated_layers(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    return recurrent_operators.build(tmp_path_factory.mktemp("recurrent"))


@pytest.fixture(autouse=True)
def _unset_memory_is_nan() -> Iterator[None]:
    """Outputs and workspaces start as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def results(kind: str, case: Case, given: Sequence[Tensor | None], weights: Sequence[Tensor]):
    """What a layer returns, then the gradients of all that is given."""

    def layer(x: Tensor, *others: Tensor | None) -> list[Tensor]:
        states = LAYERS[kind].states
        sizes = torch.tensor(case.sizes) if case.sizes else None
        state: tuple[Tensor | None, ...] = others[:states]
        own = (*others[states:], *([None] if kind != "lstm" else []))
        if sizes is not None and None in state:
            state = ops.zero_state(LAYERS[kind], x, own, case.sizes[0])
        output, final = LAYERS[kind].kernel(x, state, own, None, sizes, case.reverse)
        return [output, *final]

    return layer_results(layer, given, weights)


def by_backend(kind: str, case: Case, given: Sequence[Tensor | None], weights, backend: str):
    layer = {"lstm": ops.lstm_layer, "gru": ops.gru_layer}.get(kind, ops.rnn_layer)
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    sizes = torch.tensor(case.sizes) if case.sizes else None

    def run(*tensors: Tensor | None) -> list[Tensor]:
        return list(layer(*tensors, batch_sizes=sizes, reverse=case.reverse, **options))

    with seqkern.use_backend(backend):
        return layer_results(run, given, weights)


def check(emulated: Emulated, kind: str, case: Case, dtype: torch.dtype) -> None:
    given = tensors(kind, case, dtype, torch.device("cpu"))
    exact = [None if t is None else t.double() for t in given]
    lead = (sum(case.sizes),) if case.sizes else (case.T, case.B)
    shapes = [(*lead, case.H)] + [(case.batch, case.H)] * LAYERS[kind].states
    weights = [torch.randn(shape).to(dtype) for shape in shapes]
    before = emulated.calls
    with emulated.in_place_of_the_cpu():
        ours = results(kind, case, given, weights)
    assert emulated.calls == before + 2
    theirs = by_backend(kind, case, given, weights, "torch")
    truth = by_backend(kind, case, exact, weights, "reference")
    finals = ["output", "h_n", "c_n"][: len(shapes)]
    states = ["h0", "c0"][: len(shapes) - 1]
    names = ["input", *states, "w_ih", "w_hh", "b_ih", "b_hh"]
    names = [f"gradient of {n}" for n, t in zip(names, given, strict=False) if t is not None]
    assert_all_parity(ours, theirs, truth, finals + names)


def grid(cases: list[Case]) -> list:
    return [pytest.param(kind, case, id=f"{kind}-{case}") for kind in KINDS for case in cases]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind, case", grid(CASES))
def test_float32(emulated_layers, kind, case, cut):
    emulated_layers.spread(CUTS[cut])
    check(emulated_layers, kind, case, torch.float32)


@pytest.mark.parametrize("cut", ["resident", "four row warps", "steps, all warps"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind, case", grid(IN_16_BITS))
def test_16_bits(emulated_layers, kind, case, dtype, cut):
    emulated_layers.spread(CUTS[cut])
    check(emulated_layers, kind, case, dtype)
