"""The arguments of embedding_train_ for a GPU, checked; what the CPU's operator checks, in its
words."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from seqkern.core.dtypes import dtype_name

_MOST_WINDOW = _MOST_NEGATIVES = 10_000
_MOST_ROWS = 2**31 - 1

Triple = tuple[Tensor | None, Tensor | None, Tensor | None]
Pair = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class TrainArguments:
    """Contiguous, of one device."""

    input_rows: Tensor
    output_rows: Tensor
    tokens: Tensor
    keep: Tensor
    noise: tuple[Tensor, Tensor] | None
    paths: tuple[Tensor, Tensor, Tensor] | None
    longest_path: int
    bags: tuple[Tensor, Tensor] | None
    longest_bag: int
    cbow: bool
    window: int
    negatives: int
    share_negatives: bool
    cbow_mean: bool

    @classmethod
    def checked(
        cls,
        input_rows: Tensor,
        output_rows: Tensor,
        tokens: Tensor,
        keep: Tensor,
        noise: Pair,
        paths: Triple,
        bags: Pair,
        cbow: bool,
        window: int,
        negatives: int,
        share_negatives: bool,
        cbow_mean: bool,
        lr: float,
        final_lr: float,
    ) -> TrainArguments:
        """Raises RuntimeError for what does not fit, before anything is written. Looks at the
        numbers of tensors, so it waits for the GPU once or twice."""
        device = input_rows.device
        _check(
            input_rows.dtype in (torch.float32, torch.bfloat16),
            "input_rows should be float32 or bfloat16",
        )
        _check(output_rows.dtype == input_rows.dtype, "output_rows should have input_rows' dtype")
        for name, table in (("input_rows", input_rows), ("output_rows", output_rows)):
            _check_table(name, table, device)
        features = input_rows.shape[1]
        _check(features > 0, "input_rows should have 1 column or more")
        _check(
            output_rows.shape[1] == features,
            f"output_rows should have input_rows' {features} columns, but it has "
            f"{output_rows.shape[1]}",
        )
        _check(
            not _overlap(input_rows, output_rows),
            "input_rows and output_rows should not share memory",
        )
        keep = _vector("keep", keep, torch.float32, device)
        tokens = _vector("tokens", tokens, torch.int32, device)
        words = len(keep)
        _check_values(
            "keep", keep, lambda k: (k >= 0) & (k <= 1),
            "should hold probabilities between 0 and 1",
        )  # fmt: skip
        _check(
            1 <= window <= _MOST_WINDOW,
            f"window should be between 1 and {_MOST_WINDOW}, but it is {window}",
        )
        for name, rate in (("lr", lr), ("final_lr", final_lr)):
            _check(
                math.isfinite(rate) and 0 <= rate <= 1e30,
                f"{name} should be a finite number that is not negative, but it is {rate}",
            )
        own_noise = own_paths = own_bags = None
        longest_path = longest_bag = 0
        thresholds, aliases = noise
        offsets, nodes, codes = paths
        _check(
            (thresholds is not None and aliases is not None)
            != (offsets is not None and nodes is not None and codes is not None),
            "either noise (negative sampling) or paths (hierarchical softmax) should be given",
        )
        if thresholds is not None and aliases is not None:
            _check(
                1 <= negatives <= _MOST_NEGATIVES,
                f"negatives should be between 1 and {_MOST_NEGATIVES}, but it is {negatives}",
            )
            _check_rows("output_rows", output_rows, words)
            own_noise = (
                _vector("noise.thresholds", thresholds, torch.int32, device, words),
                _vector("noise.aliases", aliases, torch.int32, device, words),
            )
            _check_range("noise.aliases", own_noise[1], words, "the number of words")
        else:
            assert offsets is not None and nodes is not None and codes is not None
            own_paths = (
                _vector("paths.offsets", offsets, torch.int64, device, words + 1),
                _vector("paths.nodes", nodes, torch.int32, device),
                _vector("paths.codes", codes, torch.uint8, device, len(nodes)),
            )
            longest_path = _longest("paths.offsets", own_paths[0], len(nodes), "nodes")
            rows = output_rows.shape[0]
            _check_range("paths.nodes", own_paths[1], rows, "output_rows' number of rows")
            _check_values("paths.codes", own_paths[2], lambda c: c <= 1, "should be 0 or 1")
            _check(
                longest_path <= _MOST_NEGATIVES,
                f"paths should not be longer than {_MOST_NEGATIVES}, but one has {longest_path} "
                "nodes",
            )
            share_negatives = True
        bag_offsets, bag_rows = bags
        _check(
            (bag_offsets is None) == (bag_rows is None),
            "bags.offsets and bags.rows should both be given or both be missing",
        )
        if bag_offsets is not None and bag_rows is not None:
            own_bags = (
                _vector("bags.offsets", bag_offsets, torch.int64, device, words + 1),
                _vector("bags.rows", bag_rows, torch.int32, device),
            )
            longest_bag = _longest("bags.offsets", own_bags[0], len(bag_rows), "rows in bags")
            rows = input_rows.shape[0]
            _check_range("bags.rows", own_bags[1], rows, "input_rows' number of rows")
        else:
            _check_rows("input_rows", input_rows, words)
        _check_values(
            "tokens", tokens, lambda t: (t >= -1) & (t < words),
            f"should be words, from 0 to {words - 1}, or -1",
        )  # fmt: skip
        return cls(
            input_rows, output_rows, tokens, keep, own_noise, own_paths, longest_path, own_bags,
            longest_bag, cbow, window, negatives, share_negatives, cbow_mean,
        )  # fmt: skip


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


def _check_table(name: str, table: Tensor, device: torch.device) -> None:
    _check(
        table.dim() == 2,
        f"{name} should have the shape (rows, dim), but its shape is {list(table.shape)}",
    )
    _check(table.device == device, f"{name} should be on {device}, but is on {table.device}")
    _check(table.shape[1] <= 1 or table.stride(1) == 1, f"{name} should have contiguous rows")
    _check(
        table.shape[0] <= 1 or table.stride(0) >= table.shape[1],
        f"{name} should have rows that do not overlap, but its stride is {table.stride(0)}",
    )
    _check(table.shape[0] < _MOST_ROWS, f"{name} should have less than {_MOST_ROWS} rows")


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether the memory from a tensor's first to its last element reaches into the other's."""
    if a.numel() == 0 or b.numel() == 0 or a.is_meta:
        return False
    (a_begin, a_end), (b_begin, b_end) = (
        (t.data_ptr(), t.data_ptr() + ((t.shape[0] - 1) * t.stride(0) + t.shape[1]) * t.itemsize)
        for t in (a, b)
    )
    return a_begin < b_end and b_begin < a_end


def _vector(
    name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device, size: int | None = None
) -> Tensor:
    said = dtype_name(dtype)
    _check(tensor.dtype == dtype, f"{name} should be {said}, but is {tensor.dtype}")
    _check(
        tensor.dim() == 1,
        f"{name} should have 1 dimension, but its shape is {list(tensor.shape)}",
    )
    _check(tensor.device == device, f"{name} should be on {device}, but is on {tensor.device}")
    _check(
        size is None or len(tensor) == size,
        f"{name} should have the shape ({size},), but its shape is {list(tensor.shape)}",
    )
    return tensor.contiguous()


def _check_rows(name: str, table: Tensor, words: int) -> None:
    _check(
        table.shape[0] >= words,
        f"{name} should have a row for each of the {words} words, but it has {table.shape[0]}",
    )


def _check_values(name: str, tensor: Tensor, fine: Callable[[Tensor], Tensor], should: str) -> None:
    right = fine(tensor)
    if not bool(right.all()):
        place = int((~right).nonzero()[0])
        value = tensor[place].item()
        said = f"{value:g}" if isinstance(value, float) else value
        raise RuntimeError(f"{name} {should}, but element {place} is {said}")


def _check_range(name: str, tensor: Tensor, limit: int, of: str) -> None:
    should = f"should be at least 0 and less than {limit}, {of}"
    _check_values(name, tensor, lambda t: (t >= 0) & (t < limit), should)


def _longest(name: str, offsets: Tensor, total: int, of: str) -> int:
    """The longest of the parts, of offsets that rise from 0 to `total`."""
    first, last = int(offsets[0]), int(offsets[-1])
    _check(first == 0, f"{name} should begin with 0, but it begins with {first}")
    lengths = offsets.diff()
    if not len(lengths):
        lengths = offsets
    _check_values(name, lengths, lambda n: n >= 0, "should not decrease")
    _check(
        last == total,
        f"{name} should end with the number of {of}, {total}, but it ends with {last}",
    )
    return int(lengths.max())
