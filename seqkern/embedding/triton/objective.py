"""The operators of skip-gram and CBOW on a GPU: the loss with what its gradients need, the
gradients, and the step of gradient descent that needs no gradient.

The functions have the signatures and results of the operators of the same names (see
csrc/library.cpp and `fake`) and the same saved tensors, so a gradient does not care what ran the
forward. All raise RuntimeError for arguments that do not fit together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.core.triton.support import on_device_of
from seqkern.embedding.triton import rows, settings
from seqkern.embedding.triton.arguments import (
    Batch,
    check,
    check_apart,
    kept,
    programs,
    refuse_wrong_indices,
)
from seqkern.embedding.triton.kernels.objective import (
    objective_examples_kernel,
    objective_means_kernel,
    objective_rows_kernel,
)
from seqkern.embedding.triton.kernels.operands import Saved, Table
from seqkern.embedding.triton.rows import Entries


def _run(batch: Batch, save: bool) -> tuple[Tensor, Tensor, Saved]:
    """The mean loss, 1 / the examples that count (0 where none does), and what is saved."""
    examples, features = batch.examples, batch.features
    shapes = ((examples, features), (examples, features), (examples, batch.terms))
    saved = Saved(*(batch.new(*(shape if save else (0,))) for shape in shapes))
    totals = batch.new(3, examples)
    if examples:
        input_rows, config = settings.tile(features, batch.inputs.shape[1])
        term_rows, config = settings.tile(features)
        strides = batch.in_weight.stride(0), batch.out_weight.stride(0)
        unit = settings.unit(features, *strides)
        objective_examples_kernel[programs(examples)](
            Table(batch.in_weight, strides[0] // unit), Table(batch.out_weight, strides[1] // unit),
            batch.inputs, batch.targets, batch.negatives, batch.paths, totals,
            saved if save else None,
            batch.padding_idx, batch.in_weight.shape[0], batch.out_weight.shape[0], batch.words,
            0 if batch.nodes is None else batch.nodes.numel(), examples, batch.inputs.shape[1],
            batch.terms, features // unit,
            MEAN=batch.mean, UNIT=unit, INPUTS=input_rows, TERMS=term_rows, **config,
            **settings.ROOMY,
        )  # fmt: skip
    loss, scale = batch.new(), batch.new()
    fine = batch.new(dtype=torch.uint8)
    # The library's sum has a fixed order, too.
    sums = totals.sum(1, dtype=torch.float64)
    objective_means_kernel[(1,)](sums, loss, scale, fine, num_warps=1)
    refuse_wrong_indices(fine)
    return loss, scale, saved


def _keys(batch: Batch) -> tuple[Tensor, Tensor]:
    """The rows that inputs and terms add to, (E, C) and (E, terms)."""
    in_keys = batch.new(*batch.inputs.shape, dtype=torch.int32)
    out_keys = batch.new(batch.examples, batch.terms, dtype=torch.int32)
    if batch.examples:
        objective_rows_kernel[programs(batch.examples)](
            batch.inputs, batch.targets, batch.negatives, batch.paths, in_keys, out_keys,
            batch.padding_idx, batch.inputs.shape[1], batch.terms, INPUTS=16, TERMS=16, num_warps=1,
        )  # fmt: skip
    return in_keys, out_keys


def _entries(batch: Batch, saved: Saved, factor: Tensor) -> tuple[Entries, Entries]:
    """What goes into the two tables."""
    in_keys, out_keys = _keys(batch)
    return (
        Entries(saved.grad_inputs, in_keys, factor, each=batch.inputs.shape[1]),
        Entries(saved.hidden, out_keys, factor, each=batch.terms, weights=saved.coefficients),
    )


def _gradients(
    grad_loss: Tensor,
    scale: Tensor,
    hidden: Tensor,
    grad_inputs: Tensor,
    coefficients: Tensor,
    batch: Batch,
) -> tuple[Entries, Entries]:
    """The entries of a backward, its arguments checked."""
    dtype, device = batch.new(0).dtype, batch.in_weight.device
    rows = (batch.examples, batch.features)
    saved = Saved(
        kept("hidden", hidden, dtype, rows, device),
        kept("grad_inputs", grad_inputs, dtype, rows, device),
        kept("coefficients", coefficients, dtype, (batch.examples, batch.terms), device),
    )
    for name, number in (("grad_loss", grad_loss), ("scale", scale)):
        check(
            number.numel() == 1 and number.device == device,
            f"{name} should be one number on {device}",
        )
    return _entries(batch, saved, (grad_loss * scale).to(dtype))


# ---- the operators ----


def embedding_objective(
    in_weight: Tensor, out_weight: Tensor, *batch_and_save: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    *rest, save = batch_and_save
    with on_device_of(in_weight):
        loss, scale, saved = _run(Batch.of(in_weight, out_weight, *rest), save)
    return loss, scale, *saved


def embedding_objective_backward(
    grad_loss: Tensor,
    scale: Tensor,
    hidden: Tensor,
    grad_inputs: Tensor,
    coefficients: Tensor,
    in_weight: Tensor,
    out_weight: Tensor,
    *batch_and_needs: Any,
) -> tuple[Tensor, Tensor]:
    *rest, needs = batch_and_needs
    batch = Batch.of(in_weight, out_weight, *rest)
    with on_device_of(in_weight):
        into_in, into_out = _gradients(grad_loss, scale, hidden, grad_inputs, coefficients, batch)
        return (
            rows.dense(into_in, in_weight) if needs & 1 else in_weight.new_empty(0),
            rows.dense(into_out, out_weight) if needs & 2 else out_weight.new_empty(0),
        )


def embedding_objective_backward_sparse(
    grad_loss: Tensor,
    scale: Tensor,
    hidden: Tensor,
    grad_inputs: Tensor,
    coefficients: Tensor,
    in_weight: Tensor,
    out_weight: Tensor,
    *batch_and_needs: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *rest, needs = batch_and_needs
    batch = Batch.of(in_weight, out_weight, *rest)

    def found(entries: Entries, table: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        if wanted:
            return rows.sparse(entries, table)
        return table.new_empty(0, dtype=torch.int64), table.new_empty(0, table.shape[1])

    with on_device_of(in_weight):
        into_in, into_out = _gradients(grad_loss, scale, hidden, grad_inputs, coefficients, batch)
        return (*found(into_in, in_weight, needs & 1), *found(into_out, out_weight, needs & 2))


def embedding_objective_update_(
    in_weight: Tensor, out_weight: Tensor, *batch_and_lr: Any
) -> Tensor:
    *rest, lr = batch_and_lr
    batch = Batch.of(in_weight, out_weight, *rest)
    check_apart("in_weight", in_weight)
    check_apart("out_weight", out_weight)
    with on_device_of(in_weight):
        loss, _, saved = _run(batch, True)
        factor = torch.full((), -lr, dtype=loss.dtype, device=loss.device)
        into_in, into_out = _entries(batch, saved, factor)
        rows.add(into_out, out_weight)
        rows.add(into_in, in_weight)
    return loss
