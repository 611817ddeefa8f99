"""A call for every configuration in which the word vectors' Triton kernels ship."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from seqkern.core.dtypes import dtype_name
from seqkern.embedding.triton import train
from seqkern.embedding.triton.bags import embedding_bags, embedding_bags_backward
from seqkern.embedding.triton.objective import (
    embedding_objective,
    embedding_objective_backward,
    embedding_objective_update_,
)
from seqkern.embedding.triton.rows import Entries, _pieces
from seqkern.embedding.triton.sparse_adam import sparse_adam_
from seqkern.embedding.triton.train_arguments import TrainArguments
from seqkern.embedding.triton.windows import Windows

# `settings.tile` pads them to powers of 2 from 32 to 2048; below 100 they only get smaller.
WIDTHS = (100, 200, 300, 1000, 2000)
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ids(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return meta(*shape, dtype=dtype)


def objective(
    features: int,
    dtype: torch.dtype,
    tree: bool = False,
    window: int = 1,
    examples: int = 1000,
    words: int = 5000,
) -> None:
    """Loss, dense gradients, and the step in place. 16-bit tables take the sorted way of summing,
    float32 and float64 that by atomics."""
    paths = (ids(words + 1), ids(9 * words, dtype=torch.int32), ids(9 * words, dtype=torch.uint8))
    batch = (
        meta(words, features, dtype=dtype),
        meta(words, features, dtype=dtype),
        ids(examples, window),
        ids(examples),
        None if tree else ids(examples, 5),
        *(paths if tree else (None,) * 3),
        18 if tree else 6,
        True,
        3,
    )
    found = embedding_objective(*batch, True)
    embedding_objective(*batch, False)
    embedding_objective_backward(meta(dtype=found[0].dtype), *found[1:], *batch, 3)
    embedding_objective_update_(*batch, 0.1)


def sorted_rows(features: int, dtype: torch.dtype) -> None:
    """The sorted way as it writes the rows of a sparse gradient, weighted, or of bags."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    source, keys, order = meta(100, features, dtype=wide), ids(600, dtype=torch.int32), ids(600)
    out = meta(50, features, dtype=dtype)
    weighted = Entries(source, keys, meta(dtype=wide), each=6, weights=meta(600, dtype=wide))
    ragged = Entries(source, keys, meta(dtype=wide), owners=order)
    for entries in (weighted, ragged):
        for mode in range(3):
            _pieces(entries, keys, order, out, mode, order)


def bags(features: int, dtype: torch.dtype) -> None:
    weight = meta(5000, features, dtype=dtype)
    tensors = (ids(1001), ids(9000, dtype=torch.int32), ids(700))
    embedding_bags(weight, *tensors, True)
    if dtype != torch.bfloat16:  # which is sorted, and how many entries there are is unknown here
        grad = meta(700, features, dtype=dtype)
        embedding_bags_backward(grad, weight, *tensors)


def adam(features: int, dtype: torch.dtype) -> None:
    tables = [meta(5000, features, dtype=dtype) for _ in range(3)]
    values = meta(700, features, dtype=dtype)
    sparse_adam_(*tables, ids(700), values, 0.9, 0.99, 1e-8, 0.1)


def training(
    features: int,
    dtype: torch.dtype,
    model: str,
    tree: bool,
    with_bags: bool,
    windows: int = 1000,
    words: int = 5000,
) -> None:
    """In place, and the proposal of a deterministic round."""
    paths = (ids(words + 1), ids(9 * words, dtype=torch.int32), ids(9 * words, dtype=torch.uint8))
    bags = (ids(words + 1), ids(9 * words, dtype=torch.int32))
    a = TrainArguments(
        meta(words, features, dtype=dtype), meta(words, features, dtype=dtype),
        ids(1000, dtype=torch.int32), meta(words), None if tree else (ids(words), ids(words)),
        paths if tree else None, 18, bags if with_bags else None, 30, model == "cbow", 5, 5,
        model != "pairs", True,
    )  # fmt: skip
    numbers = [ids(windows, dtype=torch.int32) for _ in range(5)]
    text = Windows(*numbers, ids(), ids())
    noise = None if tree else (ids(windows, 5, dtype=torch.int32), meta(windows, 5))
    call = train._Call(a)
    for propose in (False, True):
        scratch = call.scratch(64, propose)
        each = -(-windows // 64)
        call.launch(text, noise, scratch, meta(64), each, 0, each, 0.1, 0.0, propose)


def calls() -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}
    for dtype in DTYPES:
        said = dtype_name(dtype)
        for features in WIDTHS:
            if dtype == torch.float64 and features not in (100, 2000):
                continue
            at = f"{features} {said}"
            found[f"skipgram {at}"] = partial(objective, features, dtype)
            found[f"cbow tree {at}"] = partial(objective, features, dtype, True, 10)
            found[f"sorted rows {at}"] = partial(sorted_rows, features, dtype)
            found[f"bags {at}"] = partial(bags, features, dtype)
            if dtype != torch.float64:
                found[f"sparse adam {at}"] = partial(adam, features, dtype)
    # Rows of one chunk and of several: `settings.training`.
    for dtype in (torch.float32, torch.bfloat16):
        for features in (50, 100, 300):
            for model, tree in (("skipgram", False), ("skipgram", True), ("pairs", False),
                                ("cbow", False), ("cbow", True)):  # fmt: skip
                for with_bags in (False, True):
                    said = f"{features} {str(dtype).removeprefix('torch.')}"
                    name = f"training {model}{' tree' * tree}{' bags' * with_bags} {said}"
                    found[name] = partial(training, features, dtype, model, tree, with_bags)
    return found
