"""Nested tensors as what they hold: all sequences of a batch, concatenated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A batch of sequences without padding.

    Attributes:
        values: (total, *), the concatenated sequences.
        offsets: (B + 1,) int64 on the CPU: sequence b is values[offsets[b] : offsets[b + 1]].
        source: the nested tensor (B, length, *) that it was.
    """

    values: Tensor
    offsets: Tensor
    source: Tensor

    def nested(self, values: Tensor) -> Tensor:
        """Other values (total, *), nested in the layout and with the lengths of the source."""
        source = self.source
        if source.layout == torch.jagged:
            # The same offsets object: by its identity PyTorch knows that two ragged sizes are
            # equal.
            offsets = source.offsets()  # type: ignore[attr-defined]
            return torch.nested.nested_tensor_from_jagged(values, offsets)
        lengths = self.offsets.diff().tolist()
        return torch.nested.as_nested_tensor(list(values.split(lengths)), layout=torch.strided)


def packed(nested: Tensor, name: str) -> Packed:
    """Takes a nested tensor of B sequences (length, E) apart. Differentiable.

    Args:
        nested: of the layout torch.jagged or torch.strided.
        name: how the caller's errors call it.

    Raises:
        AssertionError: it is not nested, or not a batch of sequences.
    """
    if not nested.is_nested:
        raise AssertionError(
            f"query, key and value must all be nested or none of them; {name} is a dense tensor"
        )
    if nested.dim() != 3:
        raise AssertionError(
            f"For nested input, expected {name} to be a 3-D nested tensor (batch, length, feature) "
            f"but found {nested.dim()}-D"
        )
    if ragged_dim(nested) != 1:
        raise AssertionError(
            f"For nested input, expected {name} to be ragged in dimension 1 but it is in "
            f"{ragged_dim(nested)}"
        )
    return sequences(nested)


def sequences(nested: Tensor) -> Packed:
    """Takes a nested tensor (B, length, *) apart that is ragged in dimension 1. Differentiable."""
    if nested.layout == torch.jagged:
        jagged: Any = nested
        if jagged.lengths() is not None:  # gaps between the sequences: close them
            jagged = torch.nested.as_nested_tensor(list(nested.unbind()), layout=torch.jagged)
        return Packed(jagged.values(), jagged.offsets().cpu(), jagged)
    parts = nested.unbind()
    lengths = torch.tensor([0, *(part.shape[0] for part in parts)], device="cpu")
    return Packed(torch.cat(parts), lengths.cumsum(0), nested)


def ragged_dim(nested: Tensor) -> int:
    """Which dimension has its own size in each sequence; in strided ones several may."""
    if nested.layout != torch.jagged:
        return nested.dim() - 2
    return nested._ragged_idx  # type: ignore[attr-defined]


def padded(values: Tensor, offsets: Tensor) -> Tensor:
    """(total, *) as (B, longest, *) with zeros after the end of each sequence."""
    sequences = values.split(offsets.diff().tolist())
    return torch.nn.utils.rnn.pad_sequence(list(sequences), batch_first=True)


def occupied(offsets: Tensor) -> Tensor:
    """(B, longest) boolean: where `padded` holds values and not padding."""
    lengths = offsets.diff()
    return torch.arange(int(lengths.max())) < lengths[:, None]
