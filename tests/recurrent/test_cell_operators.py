"""The operators of a single step: every way through the kernels, every gradient, bad input.

`test_cells` has the modules; here are the sizes and the combinations that only the operators know.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

import seqkern
from seqkern.core.backends import requested
from tests.parity import assert_parity
from tests.recurrent.cases import KERNEL_DTYPES

OPS = torch.ops.seqkern
KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
ARGUMENTS = ("input", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh")


class Sizes(NamedTuple):
    """Batch, inputs, hidden units."""

    batch: int
    inputs: int
    hidden: int


def tensors(kind: str, sizes: Sizes, dtype: torch.dtype, without: Sequence[str] = ()) -> dict:
    """The arguments of one step by name; None for those in `without` and for c0 where there is
    none."""
    batch, inputs, hidden = sizes
    rows = GATES[kind] * hidden
    shapes = {
        "input": (batch, inputs),
        "h0": (batch, hidden),
        "c0": (batch, hidden),
        "w_ih": (rows, inputs),
        "w_hh": (rows, hidden),
        "b_ih": (rows,),
        "b_hh": (rows,),
    }
    made = {
        name: (torch.randn(shape) / shape[-1] ** 0.5 if name[0] == "w" else torch.randn(shape) / 2)
        for name, shape in shapes.items()
    }
    if kind == "rnn_relu":  # away from 0, where rounding decides the derivative
        made["b_ih"] = 5 * made["b_ih"].sign()
    absent = (*without, *(() if kind == "lstm" else ("c0",)))
    return {name: None if name in absent else t.to(dtype) for name, t in made.items()}


def operator(kind: str, way: str) -> Callable[..., Any]:
    """The compiled one, or Triton's where it was asked for by name."""
    name = f"{kind.partition('_')[0]}_cell_{way}"
    return getattr(OPS, f"{name}_triton" if requested.value == "triton" else name).default


def forward(kind: str, t: dict, save: bool = True) -> tuple[list[Tensor], Tensor | None]:
    """The results of a step (h; of the LSTM c, too), and what the backward wants of it."""
    run = operator(kind, "forward")
    rest = [t["w_ih"], t["w_hh"], t["b_ih"], t["b_hh"]]
    if kind == "lstm":
        h, c, gates = run(t["input"], t["h0"], t["c0"], *rest, save)
        return [h, c], gates
    if kind == "gru":
        h, gates = run(t["input"], t["h0"], *rest, save)
        return [h], gates
    h = run(t["input"], t["h0"], *rest, kind == "rnn_relu")
    return [h], h


def backward(
    kind: str, t: dict, saved: Tensor | None, grads: Sequence[Tensor | None], wanted: Sequence[str]
) -> dict[str, Tensor | None]:
    needs = sum(1 << ARGUMENTS.index(name) for name in wanted)
    run = operator(kind, "backward")
    if kind == "lstm":
        own = (t["input"], t["h0"], t["c0"], t["w_ih"], t["w_hh"], saved, needs)
        found = run(*grads, *own)
    elif kind == "gru":
        own = (t["input"], t["h0"], t["w_ih"], t["w_hh"], saved, needs)
        found = run(*grads, *own)
    else:
        own = (t["input"], t["h0"], t["w_ih"], t["w_hh"], saved, kind == "rnn_relu", needs)
        found = run(*grads, *own)
    names = ARGUMENTS if kind == "lstm" else [name for name in ARGUMENTS if name != "c0"]
    return dict(zip(names, found, strict=True))


def pytorchs_step(kind: str, t: dict) -> list[Tensor]:
    """PyTorch's step, by its own operator."""
    hidden = t["w_hh"].shape[1]
    zeros = t["input"].new_zeros(t["input"].shape[0], hidden)
    h0, c0 = (zeros if t[name] is None else t[name] for name in ("h0", "c0"))
    rest = [t["w_ih"], t["w_hh"], t["b_ih"], t["b_hh"]]
    if kind == "lstm":
        return list(torch.lstm_cell(t["input"], [h0, c0], *rest))
    run: Callable[..., Tensor] = getattr(torch, f"{kind}_cell")
    return [run(t["input"], h0, *rest)]


def by_autograd(kind: str, t: dict, grads: Sequence[Tensor]) -> list[Tensor]:
    leaves = {name: x if x is None else x.detach().requires_grad_() for name, x in t.items()}
    results = pytorchs_step(kind, leaves)
    given = [x for x in leaves.values() if x is not None]
    return [*results, *torch.autograd.grad(results, given, list(grads))]


def check(kind: str, sizes: Sizes, dtype: torch.dtype, without: Sequence[str] = ()) -> None:
    t = tensors(kind, sizes, dtype, without)
    results, saved = forward(kind, t)
    grads = [torch.randn(result.shape).to(dtype) for result in results]
    wanted = [name for name, x in t.items() if x is not None]
    found = backward(kind, t, saved, grads, wanted)
    assert [name for name, grad in found.items() if grad is not None] == wanted
    exact = {name: None if x is None else x.double() for name, x in t.items()}
    if kind == "rnn_relu" and t["b_ih"] is None:  # at 0, where the derivative jumps
        assert_parity(
            results[0], pytorchs_step(kind, t)[0], pytorchs_step(kind, exact)[0], what="h"
        )
        return
    for what, mine, theirs, reference in zip(
        [*("h", "c")[: len(results)], *(f"gradient of {name}" for name in wanted)],
        [*results, *(found[name] for name in wanted)],
        by_autograd(kind, t, grads),
        by_autograd(kind, exact, [g.double() for g in grads]),
        strict=True,
    ):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype and mine.is_contiguous()
        assert_parity(mine, theirs, reference, what=what)


# On either side of: the products of the backward (4 rows), rows side by side in a vector, in one
# vector or two, one tile of rows or two or more (16, 32), a library's products (32, 64, 128 or 512
# rows); and vectors that are not full, of fewer units than there are in a tile, too.
SIZES = [
    Sizes(*sizes)
    for sizes in (
        (1, 130, 40), (2, 7, 17), (4, 33, 20), (5, 20, 33), (8, 12, 16), (9, 5, 50), (16, 64, 64),
        (17, 30, 20), (32, 9, 129), (33, 16, 131), (64, 6, 10), (65, 6, 10), (3, 1, 1),
        (40, 70, 37), (66, 40, 10), (100, 31, 85), (130, 6, 10), (513, 3, 5),
    )
]  # fmt: skip


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_through_the_kernels(isa, kind, dtype):
    for sizes in SIZES:
        check(kind, sizes, dtype)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_an_infinite_weight_reaches_its_own_unit_only(isa, kind, dtype):
    # Products read whole vectors and tiles, past the end of a row and of a block.
    for sizes in (Sizes(2, 5, 19), Sizes(9, 33, 18), Sizes(40, 31, 7)):
        t = tensors(kind, sizes, dtype)
        for name in ("w_ih", "w_hh"):
            t[name][3, 0] = math.inf
        results, _ = forward(kind, t)
        for mine in results:
            finite = torch.isfinite(mine)
            assert finite[:, :3].all() and finite[:, 4:].all()
        t["w_ih"][3, 0] = math.nan
        for mine in forward(kind, t)[0]:
            finite = torch.isfinite(mine)
            assert finite[:, :3].all() and finite[:, 4:].all() and not finite[:, 3].any()


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("without", [("h0", "c0"), ("c0",), ("h0",), ("b_ih", "b_hh")], ids=str)
@pytest.mark.parametrize("batch", [1, 3, 6, 20, 70])
@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_missing(kind, batch, without, dtype):
    check(kind, Sizes(batch, 10, 18), dtype, without)


@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_come_alone_as_they_come_together(kind, batch):
    t = tensors(kind, Sizes(batch, 9, 20), torch.float32)
    results, saved = forward(kind, t)
    grads = [torch.randn_like(result) for result in results]
    names = [name for name, x in t.items() if x is not None]
    together = backward(kind, t, saved, grads, names)
    for count in range(len(names)):
        for wanted in itertools.combinations(names, count):
            found = backward(kind, t, saved, grads, wanted)
            for name in names:
                if name in wanted:
                    assert torch.equal(found[name], together[name])
                else:
                    assert found[name] is None


@pytest.mark.parametrize("batch", [2, 40])
def test_a_gradient_of_one_result_only(batch):
    t = tensors("lstm", Sizes(batch, 9, 20), torch.float64)
    results, saved = forward("lstm", t)
    for given in (0, 1):
        some = [torch.randn_like(r) if i == given else None for i, r in enumerate(results)]
        full = [torch.zeros_like(r) if s is None else s for r, s in zip(results, some, strict=True)]
        found, expected = (backward("lstm", t, saved, g, ARGUMENTS) for g in (some, full))
        for name in ARGUMENTS:
            assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize("batch, size", [(1, 300), (3, 200), (16, 200), (40, 100)])
@pytest.mark.parametrize("kind", KINDS)
def test_two_threads_give_what_one_gives(kind, batch, size):
    t = tensors(kind, Sizes(batch, size, size), torch.float32)
    grads = [torch.randn(batch, size) for _ in range(2 if kind == "lstm" else 1)]
    wanted = [name for name, x in t.items() if x is not None]
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results, saved = forward(kind, t)
        runs.append([*results, *backward(kind, t, saved, grads, wanted).values()])
    for one, two in zip(*runs, strict=True):
        if one is not None:  # sums cut in another way
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_row(kind):
    t = tensors(kind, Sizes(0, 5, 6), torch.float32)
    results, saved = forward(kind, t)
    assert all(result.shape == (0, 6) for result in results)
    names = [name for name, x in t.items() if x is not None]
    for name, grad in backward(kind, t, saved, results, names).items():
        if name in names:
            assert grad.shape == t[name].shape and not grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_feature(kind):
    check(kind, Sizes(3, 0, 6), torch.float32)
    check(kind, Sizes(40, 0, 6), torch.float32)


@pytest.mark.parametrize("batch", [1, 3, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_a_weight_is_seen_without_a_state(kind, batch):
    """Zero times NaN: as PyTorch, where the state is left out and zeros stand in its place."""
    t = tensors(kind, Sizes(batch, 5, 6), torch.float32, ("h0", "c0"))
    t["w_hh"][2, 1] = torch.nan
    mine, theirs = forward(kind, t)[0], pytorchs_step(kind, t)
    for found, expected in zip(mine, theirs, strict=True):
        assert torch.equal(found.isnan(), expected.isnan()) and expected[:, 2].isnan().all()


@pytest.mark.parametrize("batch", [1, 3, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_a_gradient_reaches_the_weights_of_a_missing_state(kind, batch):
    t = tensors(kind, Sizes(batch, 5, 6), torch.float32, ("h0", "c0"))
    t["b_ih"][3] = 9  # relu lets the gradient through
    results, saved = forward(kind, t)
    grads = [torch.randn_like(result) for result in results]
    grads[0][0, 3] = torch.nan
    wanted = [name for name, x in t.items() if x is not None]
    found = backward(kind, t, saved, grads, wanted)
    expected = dict(zip(wanted, by_autograd(kind, t, grads)[len(results) :], strict=True))
    for name in wanted:
        assert torch.equal(found[name].isnan(), expected[name].isnan())
    assert expected["w_hh"].isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_strides(kind):
    t = tensors(kind, Sizes(3, 7, 18), torch.float32)
    results, saved = forward(kind, t)
    strided = {
        name: None if x is None else torch.stack([x, torch.full_like(x, torch.nan)], -1)[..., 0]
        for name, x in t.items()
    }
    for found, expected in zip(forward(kind, strided)[0], results, strict=True):
        assert torch.equal(found, expected)
    grads = [torch.randn(3, 1).expand_as(result) for result in results]
    wanted = [name for name, x in t.items() if x is not None]
    whole = [grad.contiguous() for grad in grads]
    found = backward(kind, strided, torch.stack([saved, saved], -1)[..., 0], grads, wanted)
    for name, expected in backward(kind, t, saved, whole, wanted).items():
        assert expected is None or torch.equal(found[name], expected)


@pytest.mark.parametrize("batch", [1, 3, 70])
@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_opcheck(kind, dtype, save, batch):
    t = tensors(kind, Sizes(batch, 5, 6), dtype)
    weights = (t["w_ih"], t["w_hh"])
    biases = (t["b_ih"], t["b_hh"])
    states = (t["h0"], t["c0"]) if kind == "lstm" else (t["h0"],)
    family = kind.partition("_")[0]
    last: tuple[bool, ...] = (kind == "rnn_relu",) if family == "rnn" else ()
    run, run_back = (
        getattr(OPS, f"{family}_cell_{way}").default for way in ("forward", "backward")
    )
    opcheck(run, (t["input"], *states, *weights, *biases, *(last or (save,))))
    if not save:
        return
    results, saved = forward(kind, t)
    grads = [torch.randn_like(result) for result in results]
    for needs in (0, 1 | 8 | 32, 2 | 16 | 64):
        opcheck(run_back, (*grads, t["input"], *states, *weights, saved, *last, needs))


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_that_do_not_fit(kind):
    t = tensors(kind, Sizes(3, 5, 6), torch.float32)
    results, saved = forward(kind, t)
    grads = [torch.ones_like(result) for result in results]
    for name, wrong, words in [
        ("input", torch.randn(5), "input should have 2 dimensions, but it has 1"),
        ("input", torch.randn(2, 3, 5), "input should have 2 dimensions, but it has 3"),
        ("input", torch.randn(3, 4), r"w_ih should have the shape \(.*, 4\)"),
        ("input", torch.randn(3, 5).half(), "input should be float32, float64 or bfloat16"),
        ("h0", torch.randn(2, 6), r"h0 should have the shape \(3, 6\).*\(2, 6\)"),
        ("h0", torch.randn(6), r"h0 should have the shape \(3, 6\).*\(6,\)"),
        ("h0", torch.randn(3, 6).double(), "h0 should have the dtype of input"),
        ("w_ih", torch.randn(5), "w_ih and w_hh should have 2 dimensions, but they have 1 and 2"),
        ("w_hh", torch.randn(7, 6), "w_(ih|hh) should have the shape"),
        ("w_hh", t["w_hh"].bfloat16(), "w_hh should have the dtype of input"),
        ("b_ih", None, "b_ih and b_hh should both be given or both be missing"),
        ("b_hh", torch.randn(1), "b_hh should have the shape"),
        ("b_hh", t["b_hh"].double(), "b_hh should have the dtype of input"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            forward(kind, t | {name: wrong})
    saved_name = "h" if kind.startswith("rnn") else "gates"
    for wrong, words in [
        (saved[:-1], f"{saved_name} should have the shape"),
        (saved[:, 1:], f"{saved_name} should have the shape"),
        (saved.double(), f"{saved_name} should have the dtype of input"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            backward(kind, t, wrong, grads, ["input"])
    with pytest.raises(RuntimeError, match="grad_h should have the shape"):
        backward(kind, t, saved, [grads[0][1:], *grads[1:]], ["input"])
    if kind == "lstm":
        with pytest.raises(RuntimeError, match="c0 should have the shape"):
            forward(kind, t | {"c0": torch.randn(3, 5)})
        with pytest.raises(RuntimeError, match="grad_c should have the dtype of input"):
            backward(kind, t, saved, [grads[0], grads[1].double()], ["input"])


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_only_what_requires_a_gradient_gets_one(name):
    cell = getattr(seqkern.nn, name)(4, 5)
    x, h = torch.randn(2, 4), torch.randn(2, 5)
    hx = (h, h) if name == "LSTMCell" else h
    for wanted in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        for key, parameter in cell.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(key == wanted)
        result = cell(x, hx)
        (result[0] if isinstance(result, tuple) else result).sum().backward()
        for key, parameter in cell.named_parameters():
            assert (parameter.grad is not None) == (key == wanted)
    cell.requires_grad_(False)
    result = cell(x, hx)
    assert not (result[0] if isinstance(result, tuple) else result).requires_grad


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_one_tensor_in_two_places(name):
    """Both biases, or the state and the cell state, the same tensor: gradients add up."""
    function = getattr(seqkern.nn.functional, {"RNNCell": "rnn_tanh_cell"}.get(name, ""), None) or (
        getattr(seqkern.nn.functional, f"{name[:-4].lower()}_cell")
    )
    kind = {"RNNCell": "rnn_tanh"}.get(name, name[:-4].lower())
    t = tensors(kind, Sizes(3, 5, 6), torch.float64)
    t["b_hh"] = t["b_ih"]
    leaves = {key: None if x is None else x.requires_grad_() for key, x in t.items()}
    hx = (leaves["h0"], leaves["h0"]) if name == "LSTMCell" else leaves["h0"]
    names = ["input", "h0", "w_ih", "w_hh", "b_ih"]
    sources = [leaves[key] for key in names]

    def run():
        result = function(
            leaves["input"], hx, leaves["w_ih"], leaves["w_hh"], leaves["b_ih"], leaves["b_ih"]
        )
        result = result if isinstance(result, tuple) else (result,)
        return torch.autograd.grad([r.sin().sum() for r in result], sources)

    found = run()
    with seqkern.use_backend("reference"):
        expected = run()
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)
