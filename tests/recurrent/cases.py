"""Cases of recurrent layers, and how to run one by seqkern, by PyTorch and by the reference."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import seqkern
from tests.parity import assert_parity

LAYERS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
CELLS = ("LSTMCell", "GRUCell", "RNNCell_tanh", "RNNCell_relu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KERNEL_DTYPES = DTYPES[:3]


@dataclass(frozen=True)
class Case:
    """One way to use a layer. `lengths` makes it ragged; None is a dense batch."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int
    layers: int = 1
    bias: bool = True
    batch_first: bool = False
    bidirectional: bool = False
    proj: int = 0
    states: bool = False
    unbatched: bool = False
    strided: bool = False
    lengths: tuple[int, ...] | None = None
    sorted: bool = True

    def __str__(self) -> str:
        words = [f"T{self.T}B{self.B}I{self.I}H{self.H}"]
        words += [f"layers{self.layers}"] if self.layers > 1 else []
        words += [] if self.bias else ["nobias"]
        words += [f"proj{self.proj}"] if self.proj else []
        words += [
            name
            for name in ("batch_first", "bidirectional", "states", "unbatched", "strided")
            if getattr(self, name)
        ]
        if self.lengths is not None:
            words.append("packed" if self.sorted else "unsorted")
        return "-".join(words)


def fits(kind: str, case: Case) -> bool:
    return case.proj == 0 or kind == "LSTM"


def make(library: Any, kind: str, case: Case, dtype: torch.dtype) -> torch.nn.Module:
    """The layer `kind` of `torch.nn` or `seqkern.nn` for a case."""
    options: dict[str, Any] = {
        "num_layers": case.layers,
        "bias": case.bias,
        "batch_first": case.batch_first,
        "bidirectional": case.bidirectional,
        "dtype": dtype,
    }
    if kind.startswith("RNN"):
        options["nonlinearity"] = kind[4:].lower()
        kind = "RNN"
    if case.proj:
        options["proj_size"] = case.proj
    return getattr(library, kind)(case.I, case.H, **options)


def inputs(kind: str, case: Case, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """The dense input and the initial states (or no states), as leaves that require grad."""
    lead = (case.B, case.T) if case.batch_first else (case.T, case.B)
    shape = (case.T, case.I) if case.unbatched else (*lead, case.I)
    x = torch.randn(shape, dtype=torch.float32).to(dtype)
    if case.strided:  # every other element of something larger
        x = torch.stack([x, torch.full_like(x, torch.nan)], dim=-1)[..., 0]
    states = []
    if case.states:
        count = case.layers * (2 if case.bidirectional else 1)
        widths = [case.proj or case.H] + ([case.H] if kind == "LSTM" else [])
        for width in widths:
            lead = (count,) if case.unbatched else (count, case.B)
            states.append(torch.randn(*lead, width, dtype=torch.float32).to(dtype))
    return x.requires_grad_(), [s.requires_grad_() for s in states]


def packed(x: Tensor, case: Case) -> Tensor | PackedSequence:
    if case.lengths is None:
        return x
    return pack_padded_sequence(x, list(case.lengths), case.batch_first, case.sorted)


def outputs(module: torch.nn.Module, case: Case, x: Tensor, states: Sequence[Tensor]) -> list:
    """Calls the module; returns (output, h_n[, c_n]) as plain tensors."""
    hx: Any = None
    if states:
        hx = tuple(states) if len(states) == 2 else states[0]
    output, final = module(packed(x, case), hx)
    if isinstance(output, PackedSequence):
        output = output.data
    return [output, *(final if isinstance(final, tuple) else (final,))]


def gradients(
    module: torch.nn.Module,
    results: Sequence[Tensor],
    x: Tensor,
    states: Sequence[Tensor],
    weights_of_results: Sequence[Tensor],
) -> list[Tensor]:
    """Gradients of a random linear function of all results with respect to everything."""
    sources = [x, *states, *module.parameters()]
    wanted = [w.to(r.dtype) for w, r in zip(weights_of_results, results, strict=True)]
    return list(torch.autograd.grad(results, sources, wanted))


def names(module: torch.nn.Module, states: Sequence[Tensor]) -> list[str]:
    finals = ["h_n", "c_n"] if "LSTM" in type(module).__name__ else ["h_n"]
    of = ["input", *["h0", "c0"][: len(states)], *(name for name, _ in module.named_parameters())]
    return ["output", *finals, *(f"gradient of {name}" for name in of)]


def keep_away_from_zero(module: torch.nn.Module) -> None:
    """Shifts every unit of a relu layer far to one side of zero, half of them to each.

    The derivative of relu jumps at zero, so a rounding error there decides a whole gradient, in
    16 bits often: no tolerance can tell that from a mistake. Smaller weights keep what other units
    and layers add from shifting one back.
    """
    for name, parameter in module.named_parameters():
        if name.startswith("weight"):
            parameter.data /= 4
        elif name.startswith("bias_ih"):
            parameter.data[0::2] += 4
            parameter.data[1::2] -= 4


def check(kind: str, case: Case, dtype: torch.dtype, backend: str = "auto") -> None:
    """Runs a case forward and backward and holds every result to the rule of `tests.parity`."""
    theirs = make(torch.nn, kind, case, dtype)
    ours = make(seqkern.nn, kind, case, dtype)
    rounds_at_zero = kind == "RNN_RELU" and dtype in (torch.bfloat16, torch.float16)
    if rounds_at_zero and case.bias:
        keep_away_from_zero(theirs)
    ours.load_state_dict(theirs.state_dict())
    exact = copy.deepcopy(ours).double()
    x, states = inputs(kind, case, dtype)
    x64 = x.detach().double().requires_grad_()
    states64 = [s.detach().double().requires_grad_() for s in states]

    with seqkern.use_backend("reference"):
        reference = outputs(exact, case, x64, states64)
    weights = [torch.randn(r.shape, dtype=torch.float32).to(dtype) for r in reference]
    with_gradients = case.bias or not rounds_at_zero
    if with_gradients:
        reference += gradients(exact, reference, x64, states64, weights)

    results = []
    for module in (ours, theirs):
        with seqkern.use_backend(backend):
            found = outputs(module, case, x, states)
        if with_gradients:
            found += gradients(module, found, x, states, weights)
        results.append(found)
    titles = names(ours, states)[: len(reference)]
    for mine, other, right, name in zip(*results, reference, titles, strict=True):
        assert_parity(mine, other, right, name)
