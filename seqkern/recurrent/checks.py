"""What the arguments of a recurrent call must be, in PyTorch's error class and wording.

The compiled operators check their arguments too. They are fast and know only their own names, so
`layer` is run after one of them refused a call, to say the same in the words that PyTorch uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seqkern.core.dtypes import scalar_type_name
from seqkern.recurrent.kinds import Kind, State, Weights


def layer(
    kind: Kind, x: Tensor, state: State, weights: Weights, batch_sizes: Tensor | None
) -> None:
    """Raises what is wrong with the arguments of one layer and direction; silent if nothing is."""
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    states = dict(zip(("h0", "c0"), state, strict=False))
    parameters = {"w_ih": w_ih, "w_hh": w_hh, "b_ih": b_ih, "b_hh": b_hh, "w_hr": w_hr}
    _same_device_and_dtype(x, states, parameters)
    if w_ih.dim() != 2 or w_hh.dim() != 2:
        raise RuntimeError(
            f"w_ih and w_hh must have 2 dimensions, got shapes {list(w_ih.shape)} and "
            f"{list(w_hh.shape)}"
        )
    rows = w_hh.shape[0]
    if rows % kind.gates or w_ih.shape[0] != rows:
        raise RuntimeError(
            f"w_ih and w_hh of a {kind.name} must have the same number of rows, a multiple of "
            f"{kind.gates}; got shapes {list(w_ih.shape)} and {list(w_hh.shape)}"
        )
    hidden = rows // kind.gates
    width = hidden
    if w_hr is not None:
        width = w_hr.shape[0]
        _shape("w_hr", w_hr, (width, hidden))
    _shape("w_hh", w_hh, (rows, width))
    if (b_ih is None) != (b_hh is None):
        raise RuntimeError("b_ih and b_hh must be given both or neither")
    if b_ih is not None and b_hh is not None:
        _shape("b_ih", b_ih, (rows,))
        _shape("b_hh", b_hh, (rows,))
    if x.shape[-1] != w_ih.shape[1]:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {w_ih.shape[1]}, "
            f"got {x.shape[-1]}"
        )
    if batch_sizes is None:
        batch = x.shape[-2]
    else:
        ragged(x, batch_sizes)
        batch = int(batch_sizes[0])
    for name, tensor in states.items():
        if tensor is not None:
            _shape(name, tensor, (batch, width if name == "h0" else hidden))


def cell(kind: Kind, x: Tensor, state: State, weights: Weights) -> None:
    """Raises what is wrong with the arguments of a single step; silent if nothing is."""
    w_ih, w_hh = weights[:2]
    _same_device_and_dtype(x, dict(zip(("hx", "cx"), state, strict=False)), {"w_ih": w_ih})
    if x.shape[1] != w_ih.shape[1]:
        raise RuntimeError(
            f"input has inconsistent input_size: got {x.shape[1]} expected {w_ih.shape[1]}"
        )
    for index, h in enumerate(state):
        if h is None:
            continue
        if h.dim() != 2:  # torch 2.15's words; before, PyTorch took h.shape[0] for a batch size
            raise RuntimeError(
                f"Expected 2D hidden{index} (batch x hidden_size), but got {h.dim()}D tensor"
            )
        if h.shape[0] != x.shape[0]:
            raise RuntimeError(
                f"Input batch size {x.shape[0]} doesn't match hidden{index} batch size {h.shape[0]}"
            )
        if h.shape[1] != w_hh.shape[1]:
            raise RuntimeError(
                f"hidden{index} has inconsistent hidden_size: got {h.shape[1]}, "
                f"expected {w_hh.shape[1]}"
            )
    layer(kind, x, state, weights, None)


def stack(
    kind: Kind,
    input: Tensor,
    states: Sequence[Tensor] | None,
    flat_weights: Sequence[Tensor],
    per_layer: int,
    layers: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> None:
    """Raises what is wrong with the arguments of a stack of layers (`layers` counts directions).

    Shapes of the weights of single layers are left to `layer`.
    """
    expected = 3 if batch_sizes is None else 2
    if input.dim() != expected:
        raise RuntimeError(f"input must have {expected} dimensions, got {input.dim()}")
    if len(flat_weights) != layers * per_layer:
        raise RuntimeError(
            f"got an incorrect number of RNN parameters: {len(flat_weights)}, expected "
            f"{layers} (layers x directions) x {per_layer}"
        )
    w_ih, w_hh = flat_weights[:2]
    if input.shape[-1] != w_ih.shape[-1]:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {w_ih.shape[-1]}, "
            f"got {input.shape[-1]}"
        )
    if batch_sizes is not None:
        batch = _batch_in(batch_sizes, states)
    else:
        batch = input.shape[0 if batch_first else 1]
        if input.shape[1 if batch_first else 0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if states is None:
        return
    if len(states) != kind.states:
        raise RuntimeError(f"{kind.name} expects {kind.states} hidden states, got {len(states)}")
    widths = (w_hh.shape[-1], w_hh.shape[0] // kind.gates)
    for index, state in enumerate(states):
        shape = (layers, batch, widths[index])
        if tuple(state.shape) != shape:
            name = "hidden" if kind.states == 1 else f"hidden[{index}]"
            raise RuntimeError(f"Expected {name} size {shape}, got {list(state.shape)}")


def _same_device_and_dtype(
    x: Tensor, states: dict[str, Tensor | None], parameters: dict[str, Tensor | None]
) -> None:
    for role, tensors in (("hidden", states), ("parameter", parameters)):
        for name, tensor in tensors.items():
            if tensor is None:
                continue
            if tensor.device != x.device:
                raise RuntimeError(
                    f"Input and {role} tensors are not at the same device, found input tensor at "
                    f"{x.device} and {role} tensor at {tensor.device} ({name})"
                )
            if tensor.dtype != x.dtype:
                raise RuntimeError(
                    "mat1 and mat2 must have the same dtype, but got "
                    f"{scalar_type_name(x.dtype)} and {scalar_type_name(tensor.dtype)}: input is "
                    f"{x.dtype}, {name} is {tensor.dtype}"
                )


def _shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise RuntimeError(f"Expected {name} size {shape}, got {list(tensor.shape)}")


def stack_weights(
    kind: Kind, flat_weights: Sequence[Tensor], per_layer: int, directions: int, bias: bool
) -> None:
    """Raises when the weights of a stack do not fit together: PyTorch's fused operators read past
    the end of a weight that is too short."""
    w_ih, w_hh = flat_weights[:2]
    rows, width = w_hh.shape
    for start in range(0, len(flat_weights), per_layer):
        columns = w_ih.shape[1] if start < directions * per_layer else directions * width
        shapes = [(rows, columns), (rows, width), *([(rows,), (rows,)] if bias else [])]
        if per_layer > len(shapes):
            shapes.append((width, rows // kind.gates))
        for offset, shape in enumerate(shapes):
            _shape(f"flat_weights[{start + offset}]", flat_weights[start + offset], shape)


def ragged(x: Tensor, batch_sizes: Tensor) -> None:
    """Raises when `batch_sizes` are not those of a PackedSequence with the data `x`."""
    _batch_in(batch_sizes, None)
    sizes = batch_sizes.tolist()
    if any(later > earlier for earlier, later in zip(sizes, sizes[1:], strict=False)):
        raise RuntimeError(f"batch_sizes must never increase, got {sizes}")
    if sizes[-1] < 0 or sum(sizes) != x.shape[0]:
        raise RuntimeError(
            f"batch_sizes must be the sizes of the steps of input: they add up to {sum(sizes)}, "
            f"input has {x.shape[0]} rows"
        )


def _batch_in(batch_sizes: Tensor, states: Sequence[Tensor] | None) -> int:
    if batch_sizes.dim() != 1 or batch_sizes.shape[0] == 0:
        raise RuntimeError(
            f"batch_sizes must have 1 dimension and at least one step, got shape "
            f"{list(batch_sizes.shape)}"
        )
    if batch_sizes.dtype != torch.int64 or not batch_sizes.is_cpu:
        raise RuntimeError(
            f"batch_sizes must be an int64 tensor on the CPU, got {batch_sizes.dtype} on "
            f"{batch_sizes.device}"
        )
    if torch.compiler.is_compiling() and states is not None:
        # The number is in a tensor, where the compiler cannot compare it.
        return states[0].shape[1]
    return int(batch_sizes[0])
