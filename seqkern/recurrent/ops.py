"""One recurrent layer in one direction on a backend that has been chosen.

All tensors of a call share one dtype (autocast belongs to `seqkern.nn`) and one device. `packed`
is for `seqkern.prepack_`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.core.dispatch import without_autocast
from seqkern.recurrent import checks, torch_backend
from seqkern.recurrent.autograd import in_float32
from seqkern.recurrent.kinds import Kind, State, Weights


def run_layer(
    kind: Kind,
    backend: str,
    x: Tensor,
    state: State,
    weights: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output and final state, of the shapes of `seqkern.recurrent.reference`.

    Raises:
        RuntimeError: arguments that do not fit together, in PyTorch's words.
    """
    if backend == "torch":
        return torch_backend.layer(kind, x, state, weights, batch_sizes, reverse)
    if batch_sizes is not None and None in state:
        state = zero_state(kind, x, weights, int(batch_sizes[0]))
    if backend == "reference":
        checks.layer(kind, x, state, weights, batch_sizes)
        with without_autocast(x.device.type):
            return _wide_reference(kind, x, state, weights, batch_sizes, reverse)
    try:
        if x.dtype == torch.float16 and backend == "cpu":
            return _by_float32(kind, x, state, weights, packed, batch_sizes, reverse)
        run = kind.triton if backend == "triton" else kind.kernel
        return run(x, state, weights, packed, batch_sizes, reverse)
    except RuntimeError:
        checks.layer(kind, x, state, weights, batch_sizes)
        raise


def zero_state(kind: Kind, x: Tensor, weights: Weights, batch: int) -> tuple[Tensor, ...]:
    w_hh = weights[1]
    widths = (w_hh.shape[1], w_hh.shape[0] // kind.gates)
    return tuple(x.new_zeros(batch, width) for width in widths[: kind.states])


def _wide_reference(
    kind: Kind,
    x: Tensor,
    state: State,
    weights: Weights,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The reference; 16-bit dtypes keep float32 states, as in the kernels."""

    def run(x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        state, w = tensors[: kind.states], tensors[kind.states :]
        output, final = kind.reference(x, state, w, None, batch_sizes, reverse)  # type: ignore
        return (output, *final)

    output, *final = in_float32(run)(x, *state, *weights)
    return output, tuple(final)


def _by_float32(
    kind: Kind,
    x: Tensor,
    state: State,
    weights: Weights,
    packed: Tensor | None,
    batch_sizes: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """float16 through the float32 kernel; autograd sees the casts."""

    def run(x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        state, w = tensors[: kind.states], tensors[kind.states :]
        output, final = kind.kernel(x, state, w, packed, batch_sizes, reverse)  # type: ignore
        return (output, *final)

    output, *final = in_float32(run)(x, *state, *weights)
    return output, tuple(final)
