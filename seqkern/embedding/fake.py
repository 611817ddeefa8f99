"""Shapes and dtypes of the compiled operators' results, for torch.compile and export.

Registered only where the compiled library is loaded: without it the operators do not exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.core import library
from seqkern.core.dtypes import accumulation_dtype


def embedding_objective(
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
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss () and scale (); with `save` hidden and grad_inputs (E, d), coefficients (E, terms)."""
    wide = accumulation_dtype(in_weight.dtype)
    number = in_weight.new_empty((), dtype=wide)
    examples, features = inputs.shape[0], in_weight.shape[1]
    shapes = [(examples, features)] * 2 + [(examples, terms)] if save else [(0,)] * 3
    hidden, grad_inputs, coefficients = (in_weight.new_empty(s, dtype=wide) for s in shapes)
    return number, torch.empty_like(number), hidden, grad_inputs, coefficients


def embedding_objective_backward(
    grad_loss: Tensor,
    scale: Tensor,
    hidden: Tensor,
    grad_inputs: Tensor,
    coefficients: Tensor,
    in_weight: Tensor,
    out_weight: Tensor,
    *batch: Any,
) -> tuple[Tensor, Tensor]:
    """Dense gradients of both tables; (0,) for one that `needs` (bits 1, 2) leaves out."""
    needs = batch[-1]
    return (
        in_weight.new_empty(in_weight.shape if needs & 1 else (0,)),
        out_weight.new_empty(out_weight.shape if needs & 2 else (0,)),
    )


def embedding_objective_backward_sparse(
    grad_loss: Tensor,
    scale: Tensor,
    hidden: Tensor,
    grad_inputs: Tensor,
    coefficients: Tensor,
    in_weight: Tensor,
    out_weight: Tensor,
    *batch: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row numbers (U,) and gradients (U, d) of both tables; the batch decides about U."""
    needs = batch[-1]
    in_rows, in_values = _sparse_rows(in_weight, bool(needs & 1))
    out_rows, out_values = _sparse_rows(out_weight, bool(needs & 2))
    return in_rows, in_values, out_rows, out_values


def embedding_objective_update_(in_weight: Tensor, out_weight: Tensor, *batch: Any) -> Tensor:
    """loss (); the tables are changed."""
    return in_weight.new_empty((), dtype=accumulation_dtype(in_weight.dtype))


def embedding_bags(
    weight: Tensor, offsets: Tensor, rows: Tensor, words: Tensor, mean: bool
) -> Tensor:
    """(n, d), dtype of weight."""
    return weight.new_empty((words.shape[0], weight.shape[1]))


def embedding_bags_backward(
    grad: Tensor, weight: Tensor, offsets: Tensor, rows: Tensor, words: Tensor
) -> Tensor:
    """The dense gradient of weight."""
    return weight.new_empty(weight.shape)


def embedding_bags_backward_sparse(
    grad: Tensor, weight: Tensor, offsets: Tensor, rows: Tensor, words: Tensor
) -> tuple[Tensor, Tensor]:
    """Row numbers (U,) and gradients (U, d); the bags decide about U."""
    return _sparse_rows(weight)


def sparse_adam_(weight: Tensor, *arguments: Any) -> None:
    """Changes the first three of its tensors."""


def _sparse_rows(weight: Tensor, some: bool = True) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size() if some else 0
    rows = weight.new_empty((count,), dtype=torch.int64)
    return rows, weight.new_empty((count, weight.shape[1]))


if library.cpu.loaded:
    for _operator in (
        embedding_objective,
        embedding_objective_backward,
        embedding_objective_backward_sparse,
        embedding_objective_update_,
        embedding_bags,
        embedding_bags_backward,
        embedding_bags_backward_sparse,
        sparse_adam_,
    ):
        torch.library.register_fake(f"seqkern::{_operator.__name__}", _operator)
