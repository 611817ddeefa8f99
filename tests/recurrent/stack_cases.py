"""What tests of stacks of recurrent layers on a GPU, or in place of one, have in common: modules
with several layers or both directions, and their results with all gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import seqkern
from tests.parity import assert_all_parity

KINDS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")


@dataclass(frozen=True)
class Stack:
    """`sizes`: the batch sizes of a packed sequence, instead of T and B."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    layers: int = 1
    bidirectional: bool = True
    sizes: tuple[int, ...] = ()
    states: bool = True
    bias: bool = True

    def __str__(self) -> str:
        lead = f"ragged{'.'.join(map(str, self.sizes))}" if self.sizes else f"T{self.T}B{self.B}"
        words = [f"{lead}I{self.I}H{self.H}L{self.layers}"]
        words += ["both"] if self.bidirectional else []
        words += [] if self.states else ["nostates"]
        return "-".join(words + ([] if self.bias else ["nobias"]))

    @property
    def lead(self) -> tuple[int, ...]:
        return (sum(self.sizes),) if self.sizes else (self.T, self.B)

    @property
    def batch(self) -> int:
        return self.sizes[0] if self.sizes else self.B

    def finals(self, kind: str) -> list[tuple[int, ...]]:
        """The shapes of h_n and c_n."""
        directions = 2 if self.bidirectional else 1
        states = 2 if kind == "LSTM" else 1
        return [(self.layers * directions, self.batch, self.H)] * states


def make(library: Any, kind: str, case: Stack) -> nn.Module:
    """A module of `seqkern.nn` or `torch.nn`."""
    options = {"nonlinearity": kind[4:].lower()} if kind.startswith("RNN") else {}
    return getattr(library, kind.partition("_")[0])(
        case.I, case.H, case.layers, bias=case.bias, bidirectional=case.bidirectional, **options
    )


def results(
    module: nn.Module, case: Stack, given: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """Output, final states and the gradients of the input, the states and the parameters when the
    results have the gradients `weights`."""
    x, *states = [t.detach().clone().requires_grad_() for t in given]
    lstm = len(weights) == 3
    hx = None if not states else (tuple(states) if lstm else states[0])
    packed = PackedSequence(x, torch.tensor(case.sizes)) if case.sizes else x
    output, final = module(packed, hx)
    found = [output.data if case.sizes else output, *(final if lstm else [final])]
    sources = [x, *states, *module.parameters()]
    towards = [w.to(r.dtype) for w, r in zip(weights, found, strict=True)]
    return found + list(torch.autograd.grad(found, sources, towards))


def check(
    ours: Callable[..., list[Tensor]],
    kind: str,
    case: Stack,
    dtype: torch.dtype,
    device: torch.device | str,
) -> None:
    """Whether `ours`, called as `results` is with a module of seqkern.nn, is as near to the
    reference as PyTorch's own."""
    width = (2 if case.bidirectional else 1) * case.H
    finals = case.finals(kind)
    given = [torch.randn((*case.lead, case.I)), *(map(torch.randn, finals if case.states else []))]
    weights = [torch.randn((*case.lead, width)), *map(torch.randn, finals)]
    given, weights = ([t.to(device, dtype) for t in list_] for list_ in (given, weights))
    mine, peer = (make(library, kind, case).to(device, dtype) for library in (seqkern.nn, nn))
    for name, parameter in peer.named_parameters():
        if kind == "RNN_RELU" and "bias_ih" in name:  # away from 0, where the derivative jumps
            with torch.no_grad():
                parameter.copy_(5 * parameter.sign())
    mine.load_state_dict(peer.state_dict())
    found = ours(mine, case, given, weights)
    theirs = results(peer, case, given, weights)
    exact = make(seqkern.nn, kind, case).to(device, torch.float64)
    exact.load_state_dict(peer.state_dict())
    with seqkern.use_backend("reference"):
        reference = results(exact, case, [t.double() for t in given], weights)
    states = ["h_n", "c_n"][: len(finals)]
    names = ["output", *states, "gradient of input"]
    names += [f"gradient of {s[0]}0" for s in states if case.states]
    names += [f"gradient of {name}" for name, _ in peer.named_parameters()]
    assert_all_parity(found, theirs, reference, names)


def grid(cases: list[Stack]) -> list:
    """Every kind with every case, for parametrize("kind, case", ...)."""
    return [pytest.param(kind, case, id=f"{kind}-{case}") for kind in KINDS for case in cases]
