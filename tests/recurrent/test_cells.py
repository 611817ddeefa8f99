"""Cells against PyTorch and the float64 reference: forward and every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import seqkern
from tests.parity import assert_parity
from tests.recurrent.cases import CELLS, DTYPES, KERNEL_DTYPES, keep_away_from_zero

SIZES = [(1, 1, 1), (1, 64, 64), (3, 7, 17), (16, 10, 33), (35, 20, 48)]


def make(library: Any, kind: str, sizes: tuple[int, int], dtype: torch.dtype, bias: bool = True):
    name, _, nonlinearity = kind.partition("_")
    options = {"nonlinearity": nonlinearity} if nonlinearity else {}
    return getattr(library, name)(*sizes, bias=bias, dtype=dtype, **options)


def call(cell: torch.nn.Module, x: torch.Tensor, states: list[torch.Tensor]) -> list[torch.Tensor]:
    hx: Any = None
    if states:
        hx = tuple(states) if len(states) == 2 else states[0]
    result = cell(x, hx)
    return list(result) if isinstance(result, tuple) else [result]


def check(kind: str, sizes: tuple[int, int, int], dtype: torch.dtype, **options: bool) -> None:
    batch, width, hidden = sizes
    theirs = make(torch.nn, kind, (width, hidden), dtype, options.get("bias", True))
    ours = make(seqkern.nn, kind, (width, hidden), dtype, options.get("bias", True))
    if kind.endswith("relu") and dtype not in (torch.float32, torch.float64):
        keep_away_from_zero(theirs)
    ours.load_state_dict(theirs.state_dict())
    exact = copy.deepcopy(ours).double()

    lead = () if options.get("unbatched") else (batch,)
    count = (2 if kind == "LSTMCell" else 1) if options.get("states", True) else 0
    x = torch.randn(*lead, width).div(2).to(dtype).requires_grad_()
    states = [torch.randn(*lead, hidden).div(2).to(dtype).requires_grad_() for _ in range(count)]
    x64 = x.detach().double().requires_grad_()
    states64 = [s.detach().double().requires_grad_() for s in states]
    weights = [torch.randn(*lead, hidden).to(dtype) for _ in range(2 if kind == "LSTMCell" else 1)]

    def run(cell, x, states):
        found = call(cell, x, states)
        grads = [w.to(found[0].dtype) for w in weights]
        return found + list(torch.autograd.grad(found, [x, *states, *cell.parameters()], grads))

    with seqkern.use_backend("reference"):
        reference = run(exact, x64, states64)
    for index, results in enumerate(
        zip(run(ours, x, states), run(theirs, x, states), reference, strict=True)
    ):
        assert_parity(*results, what=f"result {index}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_as_near_to_the_truth_as_pytorch(kind, sizes, dtype):
    check(kind, sizes, dtype)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize(
    "options",
    [{"states": False}, {"unbatched": True}, {"bias": False}],
    ids=lambda o: next(iter(o)),
)
@pytest.mark.parametrize("kind", CELLS)
def test_options(kind, options, dtype):
    check(kind, (4, 6, 18), dtype, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("kind", CELLS)
def test_no_hidden_unit(kind, states, dtype):
    check(kind, (3, 7, 0), dtype, states=states)
    check(kind, (3, 7, 0), dtype, states=states, unbatched=True)
    check(kind, (0, 7, 0), dtype, states=states)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_every_instruction_set_level(isa, kind, dtype):
    check(kind, (5, 33, 49), dtype)


@pytest.mark.parametrize("kind", CELLS)
def test_a_loop_of_cells_is_a_layer(kind):
    cell = make(seqkern.nn, kind, (5, 12), torch.float64)
    name, _, nonlinearity = kind.partition("_")
    options = {"nonlinearity": nonlinearity} if nonlinearity else {}
    layer = getattr(seqkern.nn, name.removesuffix("Cell"))(5, 12, dtype=torch.float64, **options)
    layer.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
    x = torch.randn(6, 3, 5, dtype=torch.float64)
    state, steps = None, []
    for step in x:
        state = cell(step, state)
        steps.append(state[0] if isinstance(state, tuple) else state)
    torch.testing.assert_close(torch.stack(steps), layer(x)[0], rtol=0, atol=1e-14)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_jit_trace(kind):
    cell, x = getattr(seqkern.nn, kind)(5, 7), torch.randn(3, 5)
    with torch.no_grad():
        traced = torch.jit.trace(cell, (torch.randn(3, 5),))
        torch.testing.assert_close(traced(x), cell(x))
