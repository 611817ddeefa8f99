"""What surrounds the recurrent Triton kernels: operators, cells, modules, errors.

`test_triton_layers` has the numbers of a layer.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import seqkern
from seqkern.core.triton import support
from tests.recurrent import single_layer
from tests.recurrent import test_cell_operators as cell_operators
from tests.recurrent.cases import Case, check, make
from tests.recurrent.test_cell_operators import Sizes
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton
OPS = torch.ops.seqkern
KINDS = cell_operators.KINDS
GATES = cell_operators.GATES
LAYERS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")


@pytest.fixture(autouse=True)
def _on_the_device():
    with torch.device(DEVICE), seqkern.use_backend("triton"):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("guarded_launches")
def test_cells(kind, dtype):
    cell_operators.check(kind, Sizes(3, 7, 20), dtype)


@pytest.mark.parametrize("without", [("h0", "c0"), ("c0",), ("h0",), ("b_ih", "b_hh")], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("guarded_launches")
def test_cells_without_some_arguments(kind, without):
    cell_operators.check(kind, Sizes(35, 4, 17), torch.float32, without)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_cells_come_alone_as_they_come_together(kind):
    t = cell_operators.tensors(kind, Sizes(2, 3, 5), torch.float32)
    results, saved = cell_operators.forward(kind, t)
    grads = [torch.randn_like(result) for result in results]
    names = [name for name, x in t.items() if x is not None]
    together = cell_operators.backward(kind, t, saved, grads, names)
    for wanted in (*([name] for name in names), ["w_ih", "b_hh"]):
        found = cell_operators.backward(kind, t, saved, grads, wanted)
        for name in names:
            assert (found[name] is not None) == (name in wanted)
            assert name not in wanted or torch.equal(found[name], together[name])


MODULES = [
    Case(4, 3, 5, 6, layers=2, bidirectional=True, batch_first=True, states=True),
    Case(4, 3, 5, 6, lengths=(2, 4, 1), sorted=False, bidirectional=True),
    Case(3, 1, 5, 6, unbatched=True, strided=True),
]


@pytest.mark.parametrize("case", MODULES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_modules(kind, case):
    check(kind, case, torch.float32, "triton")


def test_modules_with_projection_in_16_bits():
    check("LSTM", Case(4, 3, 5, 20, proj=6, bidirectional=True), torch.bfloat16, "triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_modules_of_cells(name, dtype):
    ours, theirs = (getattr(nn, name)(5, 6, dtype=dtype) for nn in (seqkern.nn, torch.nn))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 5, dtype=dtype)
    found, expected = ours(x), theirs(x)
    found, expected = (f if isinstance(f, tuple) else (f,) for f in (found, expected))
    loose = 1e-5 if dtype == torch.float32 else 1e-2
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=loose, atol=loose)
    sum(f.float().sum() for f in found).backward()
    sum(f.float().sum() for f in expected).backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=loose, atol=loose)


def layer_arguments(kind: str, lead: tuple[int, ...] = (3, 2), projection: int = 0) -> dict:
    rows, width = GATES[kind] * 6, projection or 6
    made: dict[str, Tensor | None] = {
        "input": torch.randn(*lead, 4),
        "h0": torch.randn(2, width),
        **({"c0": torch.randn(2, 6)} if kind == "lstm" else {}),
        "w_ih": torch.randn(rows, 4),
        "w_hh": torch.randn(rows, width),
        "b_ih": torch.randn(rows),
        "b_hh": torch.randn(rows),
    }
    if kind == "lstm":
        made["w_hr"] = torch.randn(width, 6) if projection else None
    return made


def forward_operator(
    kind: str, given: dict, sizes: Tensor | None = None, save: bool = True, by_triton: bool = True
):
    """The operator and its arguments."""
    tail = (None, sizes, *([kind == "rnn_relu"] if kind.startswith("rnn") else []), False, save)
    name = f"{kind.partition('_')[0]}_forward"
    operator = getattr(OPS, f"{name}_triton" if by_triton else name).default
    return operator, (*given.values(), *tail)


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_keep_the_operators_contract(kind, save):
    operator, arguments = forward_operator(kind, layer_arguments(kind), save=save)
    opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("needs", [0, 1 | 16, 127])
@pytest.mark.parametrize("kind, projection", [*((kind, 0) for kind in KINDS), ("lstm", 5)])
def test_layers_backward_keeps_the_operators_contract(kind, projection, needs):
    given = layer_arguments(kind, projection=projection)
    operator, arguments = forward_operator(kind, given)
    output, *rest = operator(*arguments)
    own = [given[n] for n in ("input", "h0", "c0", "w_ih", "w_hh", "w_hr") if n in given]
    if kind == "lstm":
        backward, saved = OPS.lstm_backward_triton.default, (output, *rest[2:], False, needs)
    elif kind == "gru":
        backward, saved = OPS.gru_backward_triton.default, (output, rest[1], False, needs)
    else:
        backward, saved = (
            OPS.rnn_backward_triton.default,
            (output, kind == "rnn_relu", False, needs),
        )
    grads = (torch.randn_like(output), None, *([None] if kind == "lstm" else []))
    opcheck(backward, (*grads, *own, None, *saved), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("kind", KINDS)
def test_cells_keep_the_operators_contract(kind):
    t = cell_operators.tensors(kind, Sizes(2, 3, 5), torch.float32)
    operator = getattr(OPS, f"{kind.partition('_')[0]}_cell_forward_triton").default
    names = [n for n in cell_operators.ARGUMENTS if n != "c0" or kind == "lstm"]
    arguments = [t[name] for name in names] + [kind == "rnn_relu" or not kind.startswith("rnn")]
    opcheck(operator, tuple(arguments), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.skipif(not support.INTERPRETED, reason="compares with the CPU's kernels")
@pytest.mark.parametrize("sizes", [None, (3, 2, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_does_not_depend_on_what_ran(kind, sizes):
    """The compiled kernels' forward saves what Triton's does: a gradient may take either."""
    lead = (6,) if sizes else (3, 2)
    given = layer_arguments(kind, lead)
    if sizes:
        given |= {n: torch.randn(3, 6) for n in ("h0", "c0") if n in given}
    batch_sizes = torch.tensor(sizes) if sizes else None
    operator, arguments = forward_operator(kind, given, batch_sizes)
    by_triton = operator(*arguments)
    operator, _ = forward_operator(kind, given, batch_sizes, by_triton=False)
    compiled = operator(*arguments)
    for mine, other in zip(by_triton, compiled, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    assert not all(torch.equal(a, b) for a, b in zip(by_triton, compiled, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradients_save_nothing_and_give_the_same(kind):
    given = layer_arguments(kind)
    saving, not_saving = (
        operator(*arguments)
        for operator, arguments in (forward_operator(kind, given, save=s) for s in (True, False))
    )
    for one, other in zip(saving, not_saving, strict=True):
        assert other.numel() == 0 or torch.equal(one, other)


def test_a_graph_may_be_walked_twice():
    x = torch.randn(3, 2, 4, requires_grad=True)
    output, _ = seqkern.nn.LSTM(4, 6)(x)
    first, second = (
        torch.autograd.grad(output, x, torch.ones_like(output), retain_graph=True)[0]
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_an_expanded_gradient():
    x = torch.randn(3, 2, 4, requires_grad=True)
    output, _ = seqkern.nn.GRU(4, 6)(x)
    (found,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad(output, x, torch.ones_like(output))
    assert torch.equal(found, expected)


def test_second_derivatives_are_those_of_the_reference():
    module = seqkern.nn.LSTM(3, 5)
    x = torch.randn(3, 2, 3, requires_grad=True)

    def second(backend: str) -> Tensor:
        with seqkern.use_backend(backend):
            (first,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(second("triton"), second("reference"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_not_finite_stays_in_its_row(kind, value):
    module = make(seqkern.nn, kind, Case(4, 3, 3, 5), torch.float32)
    x = torch.randn(4, 3, 3)
    clean = module(x)[0]
    x[1, 2, 0] = value
    dirty = module(x)[0]
    assert torch.equal(dirty[:, :2], clean[:, :2]) and torch.equal(dirty[0], clean[0])
    if value != value:
        assert dirty[1:, 2].isnan().all()


def test_an_empty_batch():
    x = torch.randn(3, 0, 4, requires_grad=True)
    module = seqkern.nn.GRU(4, 6)
    output, h_n = module(x)
    assert output.shape == (3, 0, 6) and h_n.shape == (1, 0, 6)
    output.sum().backward()
    assert x.grad.shape == x.shape and all((p.grad == 0).all() for p in module.parameters())


def test_float64_is_refused_with_the_reason():
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    module = seqkern.nn.LSTM(4, 6, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="'triton' cannot run this call: no kernel for torch.fl"):
        module(x)
    explanation = seqkern.explain(module, x)
    assert explanation.backend == "" and "float64" in explanation.reasons["triton"]


def test_it_is_never_taken_by_itself():
    with seqkern.use_backend("auto"):
        explanation = seqkern.explain("lstm_cell", torch.randn(2, 4))
    assert explanation.backend == ("cpu" if DEVICE == "cpu" else "torch")
    assert explanation.reasons["triton"].startswith("could, but")
    assert "have not been measured on a GPU yet" in explanation.reasons["triton"]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"h0": (3, 6)}, "Expected h0 size"),
        ({"w_hh": (24, 5)}, "Expected w_hh size"),
        ({"b_ih": (6,)}, "Expected b_ih size"),
        ({"b_ih": None}, "b_ih and b_hh must be given both or neither"),
        ({"input": (3, 2, 5)}, "Expected 4, got 5"),
        ({"input": (2, 2, 3, 4)}, "input must have the shape"),
        ({"input": (0, 2, 4)}, "Expected sequence length to be larger than 0"),
    ],
)
def test_arguments_that_do_not_fit(change, says):
    given = layer_arguments("lstm")
    given |= {n: s if s is None else torch.randn(s) for n, s in change.items()}
    operator, arguments = forward_operator("lstm", given)
    with pytest.raises(RuntimeError, match=says):
        operator(*arguments)


def test_saved_tensors_are_checked():
    given = layer_arguments("gru")
    operator, arguments = forward_operator("gru", given)
    output, _, gates = operator(*arguments)
    own = (given["input"], given["h0"], given["w_ih"], given["w_hh"], None)
    with pytest.raises(RuntimeError, match="Expected gates to be torch.float32 of size"):
        OPS.gru_backward_triton(output, None, *own, output, gates[..., :5], False, 127)
    with pytest.raises(RuntimeError, match="Expected grad_output to be torch.float32"):
        OPS.gru_backward_triton(output.half(), None, *own, output, gates, False, 127)
    with pytest.raises(RuntimeError, match="packed weights are for the CPU"):
        OPS.gru_forward_triton(*given.values(), gates, None, False, False)
    with pytest.raises(RuntimeError, match="h0 must be given where batch_sizes is"):
        OPS.gru_forward_triton(
            *(given | {"input": torch.randn(3, 4), "h0": None}).values(), None,
            torch.tensor([2, 1], device="cpu"), False, False,
        )  # fmt: skip


def test_compiled_whole():
    module = seqkern.nn.GRU(3, 5)
    x = torch.randn(4, 2, 3)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x)[0], module(x)[0])


def test_one_layer_of_ops_takes_the_named_backend():
    given = layer_arguments("lstm")
    given = {name: t for name, t in given.items() if t is not None}
    found = single_layer.lstm_layer(given.pop("input"), *given.values())
    assert found[0].shape == (3, 2, 6)
