"""What the arguments of this domain must be, and what an error says where they are not.

Classes of errors are those of `torch.nn.functional.embedding`: IndexError for an index that is out
of range, RuntimeError for a dtype, a device or shapes that do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NO_PADDING = -(2**63)
"""The `padding_idx` of the operators where every index is a word."""


def indices(name: str, value: Tensor, device: torch.device) -> Tensor:
    """The tensor as int64.

    Raises:
        TypeError: it is no Tensor. RuntimeError: it is not int32 or int64, or on another device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a Tensor of indices, not {type(value).__name__}")
    if value.dtype not in (torch.int64, torch.int32):
        raise RuntimeError(f"{name} must be int64 or int32, got {value.dtype}")
    if value.device != device:
        raise RuntimeError(f"{name} must be on {device} as the weights are, got {value.device}")
    return value if value.dtype == torch.int64 else value.long()


def in_range(name: str, value: Tensor, limit: int, padding_idx: int, what: str) -> None:
    """Raises IndexError if an index is outside [0, limit) and is not padding_idx.

    `what` says what limits it. Silent where values cannot be read: in a compiled function, under a
    function transform, and for a tensor that holds no data.
    """
    if torch.compiler.is_compiling() or value.is_meta or value.numel() == 0:
        return
    if torch._C._functorch.is_functorch_wrapped_tensor(value):
        return
    wrong = ((value < 0) | (value >= limit)) & (value != padding_idx)
    if bool(wrong.any()):
        place = [int(i) for i in wrong.nonzero()[0]]
        at = f"{name}[{', '.join(map(str, place))}]" if place else name
        raise IndexError(
            f"index out of range: {at} is {int(value[tuple(place)])}, it should be in "
            f"[0, {limit}), {what}"
        )


def tables(in_weight: Tensor, out_weight: Tensor) -> None:
    """Raises RuntimeError unless both tables are matrices of one dtype, device and width."""
    for name, table in (("in_weight", in_weight), ("out_weight", out_weight)):
        table_(name, table)
    if in_weight.dtype != out_weight.dtype or in_weight.device != out_weight.device:
        raise RuntimeError(
            "in_weight and out_weight must have the same dtype and device, got "
            f"{in_weight.dtype} on {in_weight.device} and {out_weight.dtype} on {out_weight.device}"
        )
    if in_weight.shape[1] != out_weight.shape[1]:
        raise RuntimeError(
            "in_weight and out_weight must have the same number of features, got shapes "
            f"{list(in_weight.shape)} and {list(out_weight.shape)}"
        )


def table_(name: str, table: Tensor) -> None:
    """Raises TypeError or RuntimeError unless a table is a matrix of floating-point numbers."""
    if not isinstance(table, Tensor):
        raise TypeError(f"{name} must be a Tensor, not {type(table).__name__}")
    if table.dim() != 2 or not table.is_floating_point():
        raise RuntimeError(
            f"{name} must be floating-point numbers of shape (rows, features), got {table.dtype} "
            f"of shape {list(table.shape)}"
        )


def padding(padding_idx: int | None, words: int) -> int:
    """`padding_idx` as a row number, NO_PADDING for none; negative ones count from the end, as in
    `torch.nn.functional.embedding`.

    Raises:
        ValueError: it is not in [-words, words).
    """
    if padding_idx is None:
        return NO_PADDING
    if not -words <= padding_idx < words:
        raise ValueError(f"padding_idx must be in [{-words}, {words}), got {padding_idx}")
    return padding_idx % words


def same_shape(name: str, value: Tensor, shapes: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Raises RuntimeError unless the tensor has one of these shapes; -1 stands for any size."""
    for _, shape in shapes:
        if value.dim() == len(shape) and all(
            want in (-1, size) for size, want in zip(value.shape, shape, strict=True)
        ):
            return
    wanted = " or ".join(f"{said}, here {_shown(shape)}," for said, shape in shapes)
    raise RuntimeError(f"{name} must have the shape {wanted} got {list(value.shape)}")


def _shown(shape: Sequence[int]) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"


def path_tensors(offsets: Tensor, nodes: Tensor, codes: Tensor, rows: int) -> None:
    """Raises RuntimeError unless Huffman paths have their dtypes and shapes, and hold what they
    can: offsets that rise from 0 to the number of nodes, nodes in [0, rows), codes 0 or 1."""
    for name, tensor, dtype in (
        ("paths.offsets", offsets, torch.int64),
        ("paths.nodes", nodes, torch.int32),
        ("paths.codes", codes, torch.uint8),
    ):
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.dim() != 1:
            raise RuntimeError(f"{name} must be a Tensor of {dtype} with 1 dimension")
    if codes.shape != nodes.shape:
        raise RuntimeError(
            f"paths.codes must have as many entries as paths.nodes, {len(nodes)}, got {len(codes)}"
        )
    rising("paths.offsets", offsets, len(nodes), "nodes")
    if len(nodes) and not (int(nodes.min()) >= 0 and int(nodes.max()) < rows):
        raise RuntimeError(
            f"paths.nodes must be in [0, {rows}), the rows of out_weight, got numbers from "
            f"{int(nodes.min())} to {int(nodes.max())}"
        )
    if len(codes) and int(codes.max()) > 1:
        raise RuntimeError(f"paths.codes must be 0 or 1, got {int(codes.max())}")


def bag_tensors(offsets: Tensor, rows: Tensor, table_rows: int) -> None:
    """Raises RuntimeError unless bags have their dtypes and shapes, and hold what they can."""
    for name, tensor, dtype in (
        ("bags.offsets", offsets, torch.int64),
        ("bags.rows", rows, torch.int32),
    ):
        if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.dim() != 1:
            raise RuntimeError(f"{name} must be a Tensor of {dtype} with 1 dimension")
    rising("bags.offsets", offsets, len(rows), "rows")
    if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < table_rows):
        raise RuntimeError(
            f"bags.rows must be in [0, {table_rows}), the rows of the table, got numbers from "
            f"{int(rows.min())} to {int(rows.max())}"
        )


def rising(name: str, offsets: Tensor, end: int, of: str) -> None:
    """Raises RuntimeError unless offsets rise from 0 to `end`, the number of `of`."""
    if len(offsets) == 0 or int(offsets[0]) != 0 or int(offsets[-1]) != end:
        raise RuntimeError(f"{name} must start with 0 and end with {end}, the number of {of}")
    if bool((offsets[1:] < offsets[:-1]).any()):
        raise RuntimeError(f"{name} must not decrease")
