"""The tables that a training works on: the model's own, or copies of them on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqkern.embedding.training import Bags, Noise, Paths, device_refusal
from seqkern.word2vec.tables import padded_width


class _OnDevice(NamedTuple):
    """The noise distribution on a device."""

    thresholds: Tensor
    aliases: Tensor


class _Paths(NamedTuple):
    offsets: Tensor
    nodes: Tensor
    codes: Tensor


class _Bags(NamedTuple):
    offsets: Tensor
    rows: Tensor


def device_of(value: object) -> torch.device:
    """The argument `device`.

    Raises:
        ValueError: it is none, or no kernel trains there; says why.
    """
    try:
        device = torch.device(value)  # type: ignore[call-overload]
    except (RuntimeError, TypeError):
        refused = "it is no device"
    else:
        refused = device_refusal(device)
        if not refused:
            return device
    raise ValueError(f"device must be 'cpu' or a CUDA GPU such as 'cuda', got {value!r}: {refused}")


@dataclass
class Placed:
    """What a training reads and writes."""

    input_rows: Tensor
    output_rows: Tensor
    keep: Tensor
    noise: Noise | None
    paths: Paths | None
    bags: Bags | None
    own: tuple[Tensor, Tensor] | None
    """The model's tables, where those above are copies."""

    @classmethod
    def on(
        cls,
        device: torch.device,
        tables: tuple[Tensor, Tensor],
        keep: Tensor,
        noise: Any,
        paths: Any,
        bags: Any,
    ) -> Placed:
        """The tensors themselves on the CPU, copies on a GPU (and on "cpu:0", for tests)."""
        if device == torch.device("cpu"):
            return cls(*tables, keep, noise, paths, bags, None)
        return cls(
            _copy(tables[0], device),
            _copy(tables[1], device),
            keep.to(device),
            None if noise is None else _OnDevice(*(t.to(device) for t in noise)),
            None if paths is None else _Paths(*(t.to(device) for t in paths)),
            None if bags is None else _Bags(bags.offsets.to(device), bags.rows.to(device)),
            tables,
        )

    def take(self, tables: tuple[Tensor, Tensor]) -> None:
        """Continues from these tables, of the same shapes."""
        if self.own is None:
            self.input_rows, self.output_rows = tables
            return
        self.own = tables
        self.input_rows.copy_(tables[0])
        self.output_rows.copy_(tables[1])

    def bring_back(self) -> None:
        """Copies the trained tables into the model's."""
        if self.own is not None:
            self.own[0].copy_(self.input_rows)
            self.own[1].copy_(self.output_rows)


def _copy(table: Tensor, device: torch.device) -> Tensor:
    rows, size = table.shape
    padded = table.new_zeros(rows, padded_width(size), device=device)
    return padded[:, :size].copy_(table)
