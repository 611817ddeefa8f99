"""Recurrent layers by the CUDA kernels, on the emulator: forward and every gradient, as near to the
float64 reference as PyTorch's own; and what the operators save, refuse and leave alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkern.recurrent import kinds, ops
from tests.recurrent import layer_cases
from tests.recurrent.layer_cases import KINDS, Case, grid, layer_results, tensors

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
RAGGED = Case(0, 0, 2, 20, sizes=(11, 10, 9, 2, 1))
EVERY_CUT = [
    Case(4, 3, 4, 33),
    RAGGED,
    Case(0, 0, 2, 20, sizes=(9, 9, 2, 1, 1), reverse=True),
]
CASES = [
    Case(1, 1, 3, 1),
    Case(7, 1, 2, 5, states=False),
    Case(3, 3, 1, 16, reverse=True, states=False, bias=False),
    Case(1, 3, 2, 33, reverse=True),
    Case(2, 41, 3, 18),  # several groups or passes, the last with one row
    Case(0, 0, 3, 17, sizes=(35, 34, 2), reverse=True, bias=False),
]
IN_16_BITS = [
    Case(4, 3, 4, 33),
    Case(2, 20, 3, 72, reverse=True, states=False),
    Case(0, 0, 2, 5, sizes=(17, 17, 3, 1), reverse=True),
]
# So many chunks of the depth for each warp that they go beyond registers and shared memory.
DEEP = Case(2, 3, 2, 300)


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


def check(emulated: Emulated, kind: str, case: Case, dtype: torch.dtype) -> None:
    def ours(*arguments: Any) -> list[Tensor]:
        with emulated.in_place_of_the_cpu():
            return results(*arguments)

    before = emulated.calls
    layer_cases.check(ours, kind, case, dtype, "cpu")
    assert emulated.calls == before + 2


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind, case", grid(EVERY_CUT))
def test_every_cut(emulated_layers, kind, case, cut):
    emulated_layers.spread(CUTS[cut])
    check(emulated_layers, kind, case, torch.float32)


@pytest.mark.parametrize("cut", ["four row warps", "steps"])
@pytest.mark.parametrize("kind, case", grid(CASES))
def test_float32(emulated_layers, kind, case, cut):
    emulated_layers.spread(CUTS[cut])
    check(emulated_layers, kind, case, torch.float32)


@pytest.mark.parametrize("cut", ["resident", "steps, all warps"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind, case", grid(IN_16_BITS))
def test_16_bits(emulated_layers, kind, case, dtype, cut):
    emulated_layers.spread(CUTS[cut])
    check(emulated_layers, kind, case, dtype)


@pytest.mark.parametrize("cut", ["two by two", "no room for weights"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_in_registers_in_shared_memory_and_beyond(emulated_layers, dtype, cut):
    emulated_layers.spread(CUTS[cut])
    check(emulated_layers, "gru", DEEP, dtype)


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_no_order_of_threads_and_blocks_matters(emulated_layers, kind, seed):
    """Sums are formed in one order, so results are equal to the last bit."""
    given = tensors(kind, RAGGED, torch.float32, "cpu")
    finals = [torch.randn(RAGGED.batch, RAGGED.H) for _ in range(LAYERS[kind].states)]
    weights = [torch.randn(sum(RAGGED.sizes), RAGGED.H), *finals]
    found = []
    for number in (0, seed):
        emulated_layers.spread(CUTS["resident"], number)
        with emulated_layers.in_place_of_the_cpu():
            found.append(results(kind, RAGGED, given, weights))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ---- the operators ----


def forward_arguments(kind: str, sizes: Tensor | None = None, dtype=torch.float32, save=True):
    """Name and arguments of a forward operator; T = 3, B = 2, H = 6, packed with `sizes`."""
    case = Case(3, 2, 4, 6, sizes=() if sizes is None else tuple(sizes.tolist()))
    given = tensors(kind, case, dtype, "cpu")
    tail = (None, sizes, *([kind == "rnn_relu"] if kind.startswith("rnn") else []), False, save)
    return f"{kind.partition('_')[0]}_forward", [*given, *tail]


def backward_arguments(kind: str, arguments: list, found: Sequence[Tensor], needs: int):
    """Of the backward operator for what a forward operator returned."""
    output, *rest = found
    sizes = arguments[-3 if not kind.startswith("rnn") else -4]
    grads = [torch.randn_like(output), None]
    if kind == "lstm":
        own = [*arguments[:5], arguments[7], sizes]
        return [*grads, None, *own, output, *rest[2:], False, needs]
    if kind == "gru":
        return [*grads, *arguments[:4], sizes, output, rest[1], False, needs]
    return [*grads, *arguments[:4], sizes, output, kind == "rnn_relu", False, needs]


@pytest.mark.parametrize("sizes", [None, (3, 2, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_the_cpu_saves(emulated_layers, kind, sizes):
    """So a gradient may be computed by either, whatever ran the forward."""
    emulated_layers.spread(CUTS["resident"])
    name, arguments = forward_arguments(kind, None if sizes is None else torch.tensor(sizes))
    mine = getattr(emulated_layers.operators, name)(*arguments)
    others = getattr(torch.ops.seqkern, name)(*arguments)
    for one, other in zip(mine, others, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_saved_that_nobody_wants(emulated_layers, kind):
    emulated_layers.spread(CUTS["resident"])
    name, arguments = forward_arguments(kind)
    operator = getattr(emulated_layers.operators, name)
    saving, not_saving = operator(*arguments), operator(*arguments[:-1], False)
    results_ = 1 + LAYERS[kind].states
    assert all(torch.equal(*pair) for pair in zip(saving[:results_], not_saving, strict=False))
    assert all(t.numel() == 0 for t in not_saving[results_:])


@pytest.mark.parametrize("needs", [0, 1 | 16, 2 | 8, 127])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_gradients_that_are_wanted(emulated_layers, kind, needs):
    emulated_layers.spread(CUTS["steps"])
    name, arguments = forward_arguments(kind)
    found = getattr(emulated_layers.operators, name)(*arguments)
    backward = name.replace("forward", "backward")
    wanted, all_ = (
        getattr(emulated_layers.operators, backward)(
            *backward_arguments(kind, arguments, found, bits)
        )
        for bits in (needs, 127)
    )
    shapes = getattr(torch.ops.seqkern, backward)(
        *backward_arguments(kind, arguments, found, needs)
    )
    assert [t.shape for t in wanted] == [t.shape for t in shapes]
    assert all(t.numel() for t in all_[: 2 + (kind == "lstm")])


def test_tf32_where_pytorch_allows_it(emulated_layers):
    emulated_layers.spread(CUTS["resident"])
    name, arguments = forward_arguments("lstm")
    reference = torch.ops.seqkern.lstm_forward(
        *(t.double() if isinstance(t, Tensor) else t for t in arguments)
    )[0]
    errors = {}
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        for precision in ("ieee", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = precision
            output = getattr(emulated_layers.operators, name)(*arguments)[0]
            errors[precision] = float((output - reference).norm() / reference.norm())
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert errors["ieee"] < 3e-7 and 1e-5 < errors["tf32"] < 1e-3


def test_weights_at_any_address(emulated_layers):
    """A view into flat parameters may begin anywhere, a kernel reads 16 bytes at a time."""
    emulated_layers.spread(CUTS["resident"])
    name, arguments = forward_arguments("lstm")
    operator = getattr(emulated_layers.operators, name)
    expected = operator(*arguments)[0]
    w_hh = arguments[4]
    arguments[4] = torch.cat([torch.zeros(1), w_hh.flatten()])[1:].view_as(w_hh)
    assert torch.equal(operator(*arguments)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_row(emulated_layers, kind):
    emulated_layers.spread(CUTS["resident"])
    name, arguments = forward_arguments(kind)
    operator = getattr(emulated_layers.operators, name)
    clean = operator(*arguments)[0]
    arguments[0] = arguments[0].clone()
    arguments[0][1, 1, 0] = torch.nan
    dirty = operator(*arguments)[0]
    assert torch.equal(dirty[:, 0], clean[:, 0]) and torch.equal(dirty[0], clean[0])
    assert dirty[1:, 1].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch(emulated_layers, kind):
    name, arguments = forward_arguments(kind)
    states = LAYERS[kind].states
    for i in range(1 + states):
        arguments[i] = arguments[i][..., :0, :]
    found = getattr(emulated_layers.operators, name)(*arguments)
    assert found[0].shape == (3, 0, 6) and found[1].shape == (0, 6)
    grads = getattr(emulated_layers.operators, name.replace("forward", "backward"))(
        *backward_arguments(kind, arguments, found, 127)
    )
    assert grads[0].shape == (3, 0, 4)
    assert all((t == 0).all() for t in grads[1 + states :])


@pytest.mark.parametrize(
    "change, says",
    [
        ({0: (3, 2, 5)}, "w_ih should have the shape"),
        ({1: (3, 6)}, "h0 should have the shape"),
        ({2: (2, 5)}, "c0 should have the shape"),
        ({4: (24, 5)}, "w_hh should have the shape"),
        ({5: (6,)}, "b_ih should have the shape"),
        ({5: None}, "b_ih and b_hh should both be given"),
        ({0: (0, 2, 4)}, "input should have at least one time step"),
        ({0: torch.float64}, "the weights should have the dtype of input"),
        ({7: (3, 6), 4: (24, 3), 1: (2, 3)}, "no projection"),
        ({8: (3,)}, "packed weights are for the CPU"),
    ],
)
def test_arguments_that_do_not_fit(emulated_layers, change, says):
    name, arguments = forward_arguments("lstm")
    for i, what in change.items():
        if isinstance(what, torch.dtype):
            arguments[i] = arguments[i].to(what)
        else:
            arguments[i] = None if what is None else torch.randn(what)
    with pytest.raises(RuntimeError, match=says):
        getattr(emulated_layers.operators, name)(*arguments)


def test_dtypes_without_a_kernel(emulated_layers):
    name, arguments = forward_arguments("gru", dtype=torch.float64)
    with pytest.raises(RuntimeError, match="input should be float32, bfloat16 or float16"):
        getattr(emulated_layers.operators, name)(*arguments)


def test_saved_tensors_are_checked(emulated_layers):
    emulated_layers.spread(CUTS["steps"])
    name, arguments = forward_arguments("gru")
    found = getattr(emulated_layers.operators, name)(*arguments)
    for i, says in ((8, "gates should have the shape"), (0, "grad_output should have the dtype")):
        wrong = backward_arguments("gru", arguments, found, 127)
        wrong[i] = wrong[i][..., :5] if i else wrong[i].half()
        with pytest.raises(RuntimeError, match=says):
            emulated_layers.operators.gru_backward(*wrong)
