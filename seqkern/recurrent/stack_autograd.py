"""The compiled operator for a whole stack of recurrent layers, as a differentiable function.

It runs on CUDA only: there, the directions of a bidirectional layer run side by side, and layers
on top of each other as a wavefront where that is faster. As in `autograd`, the autograd.Function
stands outside the operator, and differentiating a gradient once more differentiates the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqkern.core import library
from seqkern.core.double_backward import differentiable_backward, reference_gradients
from seqkern.core.saving import Unchecked, kept, traced
from seqkern.recurrent import fake  # noqa: F401  (registers)
from seqkern.recurrent.autograd import in_float32
from seqkern.recurrent.kinds import CELLS, Kind
from seqkern.recurrent.needs import layer_needs

if library.cpu.loaded:
    _forward = torch.ops.seqkern.recurrent_stack_forward.default
    _backward = torch.ops.seqkern.recurrent_stack_backward.default


def stack(
    kind: Kind,
    input: Tensor,
    states: Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bias: bool,
    bidirectional: bool,
) -> tuple[Tensor, ...]:
    """Returns (output, h_n) or for the LSTM (output, h_n, c_n).

    `input` is (T, B, I), or (total, I) with `batch_sizes`, which needs `states`; `states` are (h0,)
    or (h0, c0), each (layers * directions, B, H), None for zeros; `weights` are torch.nn's
    flat_weights, without projections.
    """
    h0, c0 = (*(states or ()), None, None)[:2]
    cell = CELLS.index(kind)
    tensors = (input, h0, c0, *weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        options = (input, h0, c0, batch_sizes, cell, bias, bidirectional)
        if torch.compiler.is_compiling():
            return tuple(_traced_stack(*options, list(weights)))
        return _Stack.apply(*options, *weights)
    found = _forward(input, h0, c0, weights, batch_sizes, cell, bias, bidirectional, False)
    return tuple(found[: 1 + kind.states])


class _Stack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        batch_sizes: Tensor | None,
        cell: int,
        bias: bool,
        bidirectional: bool,
        *weights: Tensor,
    ) -> tuple[Tensor, ...]:
        output, h_n, c_n, *saved = _forward(
            input, h0, c0, weights, batch_sizes, cell, bias, bidirectional, True
        )
        ctx.set_materialize_grads(False)
        matrices, biases = _split_biases(weights, bias)
        ctx.save_for_backward(input, h0, c0, batch_sizes, kept(output), *saved, *matrices)
        ctx.biases = Unchecked(*biases)
        ctx.options = (cell, bias, bidirectional)
        return (output, h_n, c_n)[: 1 + CELLS[cell].states]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, h0, c0, batch_sizes, *saved = ctx.saved_tensors
        saved, matrices = saved[:4], saved[4:]
        cell, bias, bidirectional = ctx.options
        need_input, need_h0, need_c0, *_ = ctx.needs_input_grad
        need_weights = ctx.needs_input_grad[7:]
        if differentiable_backward(grads):

            def run(*tensors: Any) -> tuple[Tensor, ...]:
                return _reference(CELLS[cell], bias, bidirectional, batch_sizes, *tensors)

            weights = _flat_weights(matrices, ctx.biases.unchanged())
            tensors = (input, h0, c0, *weights)
            need = (need_input, need_h0, need_c0, *need_weights)
            found = reference_gradients(in_float32(run), tensors, need, grads)
            return (*found[:3], None, None, None, None, *found[3:])
        weights = _flat_weights(matrices, ctx.biases.as_they_are)
        each = 4 if bias else 2
        # The operators' `needs`, for each layer and direction.
        needs = []
        for place in range(0, len(weights), each):
            w_ih, w_hh, *biases = need_weights[place : place + each]
            needs.append(layer_needs(False, False, False, w_ih, w_hh, any(biases), False))
        needs[0] |= layer_needs(need_input, need_h0, need_c0, False, False, False, False)
        grads = (*grads, None)[:3]
        d_input, d_h0, d_c0, d_weights = _backward(
            *grads, input, h0, c0, weights, batch_sizes, *saved, cell, bias, bidirectional, needs
        )
        found = []
        for place in range(len(needs)):
            d_w_ih, d_w_hh, d_b_ih, d_b_hh = d_weights[4 * place : 4 * place + 4]
            # Only the GRU's biases have different gradients.
            biases = (d_b_ih, d_b_hh if CELLS[cell].gates == 3 else d_b_ih) if bias else ()
            found += [d_w_ih, d_w_hh, *biases]
        return (
            d_input if need_input else None,
            d_h0 if need_h0 else None,
            d_c0 if need_c0 else None,
            None,
            None,
            None,
            None,
            *(d if wanted else None for d, wanted in zip(found, need_weights, strict=True)),
        )


_traced_stack = traced(
    _Stack,
    "(Tensor input, Tensor? h0, Tensor? c0, Tensor? batch_sizes, int cell, bool bias, "
    "bool bidirectional, Tensor[] weights) -> Tensor[]",
)


def _split_biases(weights: Sequence[Tensor], bias: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices of flat weights and their biases; two of each for a layer and direction."""
    if not bias:
        return list(weights), []
    return (
        [w for place, w in enumerate(weights) if place % 4 < 2],
        [w for place, w in enumerate(weights) if place % 4 >= 2],
    )


def _flat_weights(matrices: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Any]:
    """The inverse of `_split_biases`."""
    if not biases:
        return list(matrices)
    pairs = range(0, len(matrices), 2)
    return [t for at in pairs for t in (*matrices[at : at + 2], *biases[at : at + 2])]


def _reference(
    kind: Kind,
    bias: bool,
    bidirectional: bool,
    batch_sizes: Tensor | None,
    input: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    each, directions = (4 if bias else 2), (2 if bidirectional else 1)
    finals: list[tuple[Tensor, ...]] = []
    outputs: list[Tensor] = []
    for place in range(len(weights) // each):
        if place and place % directions == 0:
            input, outputs = torch.cat(outputs, dim=-1), []
        state = tuple(None if s is None else s[place] for s in (h0, c0)[: kind.states])
        w = weights[place * each : (place + 1) * each]
        own = (w[0], w[1], *(w[2:] if bias else (None, None)), None)
        reverse = place % directions == 1
        output, final = kind.reference(input, state, own, None, batch_sizes, reverse)
        outputs.append(output)
        finals.append(final)
    output = torch.cat(outputs, dim=-1)
    return (output, *(torch.stack(rows) for rows in zip(*finals, strict=True)))
