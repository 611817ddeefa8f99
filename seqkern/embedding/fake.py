"""Shapes and dtypes of the operators' results; see `seqkern.core.fakes`."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.core.dtypes import accumulation_dtype
from seqkern.core.fakes import Fakes


def embedding_objective(
    in_weight: Tensor, inputs: Tensor, terms: int, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss () and scale (); with `save` hidden and grad_inputs (E, d), coefficients (E, terms)."""
    wide = accumulation_dtype(in_weight.dtype)
    number = in_weight.new_empty((), dtype=wide)
    examples, features = inputs.shape[0], in_weight.shape[1]
    shapes = [(examples, features)] * 2 + [(examples, terms)] if save else [(0,)] * 3
    hidden, grad_inputs, coefficients = (in_weight.new_empty(s, dtype=wide) for s in shapes)
    return number, torch.empty_like(number), hidden, grad_inputs, coefficients


def embedding_objective_backward(
    in_weight: Tensor, out_weight: Tensor, needs: int
) -> tuple[Tensor, Tensor]:
    """Dense gradients of both tables; (0,) for one that `needs` (bits 1, 2) leaves out."""
    return (
        in_weight.new_empty(in_weight.shape if needs & 1 else (0,)),
        out_weight.new_empty(out_weight.shape if needs & 2 else (0,)),
    )


def embedding_objective_backward_sparse(
    in_weight: Tensor, out_weight: Tensor, needs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row numbers (U,) and gradients (U, d) of both tables; the batch decides about U."""
    in_rows, in_values = _sparse_rows(in_weight, bool(needs & 1))
    out_rows, out_values = _sparse_rows(out_weight, bool(needs & 2))
    return in_rows, in_values, out_rows, out_values


def embedding_objective_update_(in_weight: Tensor) -> Tensor:
    """loss (); the tables are changed."""
    return in_weight.new_empty((), dtype=accumulation_dtype(in_weight.dtype))


def embedding_bags(weight: Tensor, words: Tensor) -> Tensor:
    """(n, d), dtype of weight."""
    return weight.new_empty((words.shape[0], weight.shape[1]))


def embedding_bags_backward(weight: Tensor) -> Tensor:
    """The dense gradient of weight."""
    return weight.new_empty(weight.shape)


def embedding_bags_backward_sparse(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers (U,) and gradients (U, d); the bags decide about U."""
    return _sparse_rows(weight)


def embedding_train_(input_rows: Tensor) -> Tensor:
    """(4,): words, kept, pairs and the sum of the loss; the tables are changed."""
    return input_rows.new_empty(4, dtype=torch.float64)


def sparse_adam_() -> None:
    """Changes the first three of its tensors."""


def _sparse_rows(weight: Tensor, some: bool = True) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size() if some else 0
    rows = weight.new_empty((count,), dtype=torch.int64)
    return rows, weight.new_empty((count, weight.shape[1]))


FAKES = Fakes(
    embedding_objective,
    embedding_objective_backward,
    embedding_objective_backward_sparse,
    embedding_objective_update_,
    embedding_bags,
    embedding_bags_backward,
    embedding_bags_backward_sparse,
    embedding_train_,
    sparse_adam_,
)
