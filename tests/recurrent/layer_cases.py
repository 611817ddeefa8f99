"""What tests of a recurrent layer on a GPU, or in place of one, have in common: small calls that
cross several tiles, and their results with all gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import seqkern
from tests.parity import assert_all_parity
from tests.recurrent import single_layer

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class Case:
    """`sizes`: the batch sizes of a packed sequence, instead of T and B."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    sizes: tuple[int, ...] = ()
    reverse: bool = False
    states: bool = True
    bias: bool = True
    proj: int = 0

    def __str__(self) -> str:
        lead = f"ragged{'.'.join(map(str, self.sizes))}" if self.sizes else f"T{self.T}B{self.B}"
        words = [f"{lead}I{self.I}H{self.H}", *(["reverse"] if self.reverse else [])]
        words += [] if self.states else ["nostates"]
        words += [] if self.bias else ["nobias"]
        return "-".join(words + ([f"proj{self.proj}"] if self.proj else []))

    @property
    def batch(self) -> int:
        return self.sizes[0] if self.sizes else self.B


def tensors(
    kind: str, case: Case, dtype: torch.dtype, device: torch.device | str
) -> list[Tensor | None]:
    """input, states, weights of one layer in one direction."""
    rows = GATES[kind] * case.H
    width = case.proj or case.H
    lead = (sum(case.sizes),) if case.sizes else (case.T, case.B)
    shapes = [(*lead, case.I), (case.batch, width)]
    shapes += [(case.batch, case.H)] if kind == "lstm" else []
    made: list[Tensor | None] = [torch.randn(shape) for shape in shapes]
    if not case.states:
        made[1:] = [None] * len(made[1:])
    made += [torch.randn(rows, case.I) / 2, torch.randn(rows, width) / width**0.5]
    biases: list[Tensor | None] = [torch.randn(rows) / 2, torch.randn(rows) / 2]
    if kind == "rnn_relu" and biases[0] is not None:
        biases[0] = 5 * biases[0].sign()  # away from 0, where rounding decides the derivative
    made += biases if case.bias else [None, None]
    if kind == "lstm":
        made.append(torch.randn(width, case.H) / case.H**0.5 if case.proj else None)
    return [None if t is None else t.to(device, dtype) for t in made]


def layer_results(
    layer: Callable[..., Iterable[Tensor]],
    given: Sequence[Tensor | None],
    weights: Sequence[Tensor],
) -> list[Tensor]:
    """What `layer` makes of `given`, then the gradients of all that is given when the results have
    the gradients `weights`."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in given]
    found = list(layer(*leaves))
    towards = [w.to(r.dtype) for w, r in zip(weights, found, strict=True)]
    sources = [t for t in leaves if t is not None]
    return found + list(torch.autograd.grad(found, sources, towards))


def by_backend(
    kind: str, case: Case, given: Sequence[Tensor | None], weights: Sequence[Tensor], backend: str
) -> list[Tensor]:
    """`layer_results` of `single_layer` on a backend."""
    layer = getattr(single_layer, f"{kind if kind in ('lstm', 'gru') else 'rnn'}_layer")
    options = {"nonlinearity": kind[4:]} if kind.startswith("rnn") else {}
    sizes = torch.tensor(case.sizes) if case.sizes else None

    def run(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        return layer(*tensors, batch_sizes=sizes, reverse=case.reverse, **options)

    with seqkern.use_backend(backend):
        return layer_results(run, given, weights)


def check(
    ours: Callable[[str, Case, Sequence[Tensor | None], Sequence[Tensor]], list[Tensor]],
    kind: str,
    case: Case,
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Whether `ours`, called as `by_backend` is, is as near to the reference as PyTorch's own."""
    given = tensors(kind, case, dtype, device)
    exact = [None if t is None else t.double() for t in given]
    width = case.proj or case.H
    lead = (sum(case.sizes),) if case.sizes else (case.T, case.B)
    shapes = [(*lead, width), (case.batch, width)]
    shapes += [(case.batch, case.H)] if kind == "lstm" else []
    weights = [torch.randn(shape).to(device, dtype) for shape in shapes]
    found = ours(kind, case, given, weights)
    theirs = by_backend(kind, case, given, weights, "torch")
    reference = by_backend(kind, case, exact, weights, "reference")
    finals = ["output", "h_n", "c_n"][: len(shapes)]
    states = ["h0", "c0"][: len(shapes) - 1]
    names = ["input", *states, "w_ih", "w_hh", "b_ih", "b_hh", "w_hr"]
    names = [f"gradient of {n}" for n, t in zip(names, given, strict=False) if t is not None]
    assert_all_parity(found, theirs, reference, finals + names)


def grid(cases: list[Case]) -> list:
    """Every kind with every case, for parametrize("kind, case", ...)."""
    return [pytest.param(kind, case, id=f"{kind}-{case}") for kind in KINDS for case in cases]
