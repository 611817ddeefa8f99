"""What the word vectors' Triton kernels are handed, checked: a kernel reads whatever is there.

What needs a look at the numbers of a tensor waits for no GPU here: the kernels count indices that
are out of range, and `refuse_wrong_indices` has torch raise an error, at once on the CPU, and on a
GPU as a device-side assertion, which is how `torch.nn.Embedding` does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkern.core.dtypes import accumulation_dtype, dtype_name
from seqkern.embedding.choice import TRITON_DTYPES as DTYPES
from seqkern.embedding.triton.kernels.operands import Paths
from seqkern.embedding.triton.settings import WIDEST

_MOST_ROWS = 2**31 - 1  # rows of a table are 32-bit numbers where they are sorted
_MOST_PROGRAMS = 2**31 - 1


def check(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


def programs(count: int) -> tuple[int]:
    """A one-dimensional grid: the other dimensions of a grid end at 65535."""
    check(count <= _MOST_PROGRAMS, f"at most {_MOST_PROGRAMS} programs, this call has {count}")
    return (count,)


def check_table(name: str, table: Tensor) -> None:
    check(
        table.dim() == 2,
        f"{name} should have 2 dimensions, (rows, features), but it has the shape "
        f"{list(table.shape)}",
    )
    check(
        table.shape[1] <= 1 or table.stride(1) == 1,
        f"{name} should have contiguous rows, but its stride along them is {table.stride(1)}",
    )
    check(table.dtype in DTYPES, f"{name} should be of one of {DTYPES}, but it is {table.dtype}")
    check(
        table.shape[0] < _MOST_ROWS and table.shape[1] <= WIDEST,
        f"{name} should have fewer than {_MOST_ROWS} rows of up to {WIDEST} features, but it has "
        f"the shape {list(table.shape)}",
    )


def check_apart(name: str, table: Tensor) -> None:
    """That writing a row leaves the others alone."""
    check(
        table.shape[0] <= 1 or table.stride(0) >= table.shape[1],
        f"{name} should have rows that do not overlap, but they are {table.stride(0)} apart",
    )


def kept(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: Sequence[int], device: torch.device
) -> Tensor:
    """The tensor, contiguous, if it has this dtype, shape (-1: any) and device."""
    fits = len(shape) == tensor.dim() and all(
        want in (-1, size) for want, size in zip(shape, tensor.shape, strict=True)
    )
    check(fits, f"{name} should have the shape {list(shape)}, but has {list(tensor.shape)}")
    said = dtype_name(dtype)
    check(tensor.dtype == dtype, f"{name} should be {said}, but is {tensor.dtype}")
    check(tensor.device == device, f"{name} should be on {device}, but is on {tensor.device}")
    return tensor.contiguous()


def refuse_wrong_indices(fine: Tensor) -> None:
    """`fine`: a byte, 0 where an index is out of range."""
    torch._assert_async(
        fine, "an index is out of range of its table, or a path or a bag is none (seqkern)"
    )


@dataclass(frozen=True)
class Batch:
    """The tensors of a batch of examples; see `seqkern.embedding.fake.embedding_objective`."""

    in_weight: Tensor
    out_weight: Tensor
    inputs: Tensor
    targets: Tensor
    negatives: Tensor | None
    offsets: Tensor | None
    nodes: Tensor | None
    codes: Tensor | None
    terms: int
    mean: bool
    padding_idx: int

    @classmethod
    def of(
        cls,
        in_weight: Tensor,
        out_weight: Tensor,
        inputs: Tensor,
        targets: Tensor,
        negatives: Tensor | None,
        path_offsets: Tensor | None,
        path_nodes: Tensor | None,
        path_codes: Tensor | None,
        terms: int,
        mean: bool,
        padding_idx: int,
    ) -> Batch:
        """Raises RuntimeError for tensors that do not fit together."""
        check_table("in_weight", in_weight)
        check_table("out_weight", out_weight)
        device = in_weight.device
        check(
            in_weight.dtype == out_weight.dtype and device == out_weight.device,
            "in_weight and out_weight should have the same dtype and device",
        )
        check(
            in_weight.shape[1] == out_weight.shape[1],
            "in_weight and out_weight should have the same number of features, but they have "
            f"{in_weight.shape[1]} and {out_weight.shape[1]}",
        )
        check(
            inputs.dim() == 2,
            f"inputs should have 2 dimensions, but has the shape {list(inputs.shape)}",
        )
        check(terms >= 0, f"terms should not be negative, but it is {terms}")
        examples = inputs.shape[0]
        inputs = kept("inputs", inputs, torch.int64, (examples, -1), device)
        targets = kept("targets", targets, torch.int64, (examples,), device)
        if negatives is not None:
            negatives = kept("negatives", negatives, torch.int64, (examples, terms - 1), device)
            path_offsets = path_nodes = path_codes = None
        else:
            check(
                path_offsets is not None and path_nodes is not None and path_codes is not None,
                "either negatives or path_offsets, path_nodes and path_codes should be given",
            )
            assert path_offsets is not None and path_nodes is not None and path_codes is not None
            path_offsets = kept("path_offsets", path_offsets, torch.int64, (-1,), device)
            path_nodes = kept("path_nodes", path_nodes, torch.int32, (-1,), device)
            path_codes = kept("path_codes", path_codes, torch.uint8, path_nodes.shape, device)
            check(path_offsets.numel() > 0, "path_offsets should have one number more than words")
        return cls(
            in_weight, out_weight, inputs, targets, negatives, path_offsets, path_nodes,
            path_codes, terms, mean, padding_idx,
        )  # fmt: skip

    @property
    def examples(self) -> int:
        return self.inputs.shape[0]

    @property
    def features(self) -> int:
        return self.in_weight.shape[1]

    @property
    def words(self) -> int:
        """What targets are less than."""
        return self.out_weight.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @property
    def paths(self) -> Paths | None:
        return None if self.offsets is None else Paths(self.offsets, self.nodes, self.codes)

    def new(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Of the dtype that the batch is computed in."""
        return self.in_weight.new_empty(
            shape, dtype=dtype or accumulation_dtype(self.in_weight.dtype)
        )
