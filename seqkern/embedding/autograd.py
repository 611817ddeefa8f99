"""The compiled operators of word vectors as differentiable functions.

The autograd.Function stands outside the operator, and a call that needs no gradient does not pass
through it. Differentiating a gradient once more differentiates the reference: the kernels' backward
has no backward of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.core.double_backward import differentiable_backward, reference_gradients
from seqkern.core.dtypes import accumulation_dtype
from seqkern.core.saving import Unchecked, direct, traced
from seqkern.embedding import reference
from seqkern.embedding.registration import triton_operators

_objective = triton_operators.by_backend("embedding_objective")
_objective_backward = triton_operators.by_backend("embedding_objective_backward")
_objective_backward_sparse = triton_operators.by_backend("embedding_objective_backward_sparse")
_update = triton_operators.by_backend("embedding_objective_update_")
_bags = triton_operators.by_backend("embedding_bags")
_bags_backward = triton_operators.by_backend("embedding_bags_backward")
_bags_backward_sparse = triton_operators.by_backend("embedding_bags_backward_sparse")

_grad_enabled = torch.is_grad_enabled
_compiling = torch.compiler.is_compiling


def objective(
    in_weight: Tensor,
    out_weight: Tensor,
    inputs: Tensor,
    targets: Tensor,
    negatives: Tensor | None,
    paths: reference.Paths | None,
    terms: int,
    mean: bool,
    padding_idx: int,
    sparse: bool,
    backend: str,
) -> Tensor:
    """`reference.objective` by the kernels of a backend, "cpu" or "triton".

    Args:
        terms: rows of out_weight that an example reads at most: 1 + K, or the longest path.
        sparse: the gradients are coalesced sparse tensors.

    Raises:
        RuntimeError: the operator refuses the arguments; it knows only its own names for them.
    """
    offsets, nodes, codes = (None, None, None) if paths is None else paths
    if _grad_enabled() and (in_weight.requires_grad or out_weight.requires_grad):
        loss: Tensor = (_traced_objective if _compiling() else _objective_apply)(
            in_weight, out_weight, inputs, targets, negatives, offsets, nodes, codes,
            terms, mean, padding_idx, sparse, backend,
        )  # fmt: skip
        return loss
    return _objective[backend](
        in_weight, out_weight, inputs, targets, negatives, offsets, nodes, codes,
        terms, mean, padding_idx, False,
    )[0]  # fmt: skip


class _Objective(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        in_weight: Tensor,
        out_weight: Tensor,
        inputs: Tensor,
        targets: Tensor,
        negatives: Tensor | None,
        offsets: Tensor | None,
        nodes: Tensor | None,
        codes: Tensor | None,
        terms: int,
        mean: bool,
        padding_idx: int,
        sparse: bool,
        backend: str,
    ) -> Tensor:
        batch = (inputs, targets, negatives, offsets, nodes, codes)
        loss, scale, hidden, grad_inputs, coefficients = _objective[backend](
            in_weight, out_weight, *batch, terms, mean, padding_idx, True
        )
        ctx.save_for_backward(*batch, scale, hidden, grad_inputs, coefficients)
        ctx.tables = Unchecked(in_weight, out_weight)  # the rows of the batch have been used
        ctx.options = (terms, mean, padding_idx)
        ctx.sparse, ctx.backend = sparse, backend
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        *batch, scale, hidden, grad_inputs, coefficients = ctx.saved_tensors
        need = ctx.needs_input_grad
        no_more = (None,) * 11
        if differentiable_backward((grad_loss,)):
            run = _Specification(batch, ctx.options)
            found = reference_gradients(run, ctx.tables.unchanged(), need, (grad_loss,))
            return (*found, *no_more)
        in_weight, out_weight = ctx.tables.as_they_are
        arguments = (
            grad_loss, scale, hidden, grad_inputs, coefficients, in_weight, out_weight, *batch,
            *ctx.options, need[0] | need[1] << 1,
        )  # fmt: skip
        if ctx.sparse:
            in_rows, in_values, out_rows, out_values = _objective_backward_sparse[ctx.backend](
                *arguments
            )
            return (
                _coalesced(in_rows, in_values, in_weight) if need[0] else None,
                _coalesced(out_rows, out_values, out_weight) if need[1] else None,
                *no_more,
            )
        grads = _objective_backward[ctx.backend](*arguments)
        return (grads[0] if need[0] else None, grads[1] if need[1] else None, *no_more)


_objective_apply = direct(_Objective)
_traced_objective = traced(_Objective)


class _Specification:
    """The reference as a function of the tensors that have gradients."""

    def __init__(self, batch: list[Any], options: tuple[int, bool, int]) -> None:
        self.inputs, self.targets, self.negatives, *paths = batch
        self.paths = None if paths[0] is None else reference.Paths(*paths)
        self.terms, self.mean, self.padding_idx = options

    def __call__(self, in_weight: Tensor, out_weight: Tensor) -> tuple[Tensor]:
        return (
            reference.objective(
                in_weight,
                out_weight,
                self.inputs,
                self.targets,
                self.negatives,
                self.paths,
                mean=self.mean,
                padding_idx=self.padding_idx,
                longest=self.terms,
            ),
        )


def update_(
    in_weight: Tensor,
    out_weight: Tensor,
    inputs: Tensor,
    targets: Tensor,
    negatives: Tensor | None,
    paths: reference.Paths | None,
    terms: int,
    mean: bool,
    padding_idx: int,
    lr: float,
    backend: str,
) -> Tensor:
    """One step of gradient descent on the summed loss, in place; returns the mean loss."""
    offsets, nodes, codes = (None, None, None) if paths is None else paths
    in_weight, out_weight = in_weight.detach(), out_weight.detach()
    loss: Tensor = _update[backend](
        in_weight, out_weight, inputs, targets, negatives, offsets, nodes, codes,
        terms, mean, padding_idx, lr,
    )  # fmt: skip
    if not torch.compiler.is_compiling():
        # The operator is not one that autograd knows, so the version has to be bumped here.
        torch.autograd.graph.increment_version((in_weight, out_weight))
    return loss


def bag_sum(
    weight: Tensor,
    offsets: Tensor,
    rows: Tensor,
    words: Tensor,
    mean: bool,
    sparse: bool,
    backend: str,
) -> Tensor:
    """`reference.bag_sum` by the kernels of a backend, "cpu" or "triton".

    Raises:
        RuntimeError: the operator refuses the arguments; it knows only its own names for them.
    """
    if _grad_enabled() and weight.requires_grad:
        vectors: Tensor = (_traced_bag_sum if _compiling() else _bag_sum_apply)(
            weight, offsets, rows, words, mean, sparse, backend
        )
        return vectors
    return _bags[backend](weight, offsets, rows, words, mean)


class _BagSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        offsets: Tensor,
        rows: Tensor,
        words: Tensor,
        mean: bool,
        sparse: bool,
        backend: str,
    ) -> Tensor:
        ctx.save_for_backward(offsets, rows, words)
        ctx.table = Unchecked(weight)  # whose values no derivative depends on
        ctx.mean, ctx.sparse, ctx.backend = mean, sparse, backend
        return _bags[backend](weight, offsets, rows, words, mean)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        offsets, rows, words = ctx.saved_tensors
        (weight,) = ctx.table.as_they_are
        no_more = (None,) * 6
        if differentiable_backward((grad,)):

            def run(weight: Tensor) -> tuple[Tensor]:
                return (reference.bag_sum(weight, offsets, rows, words, mean=ctx.mean),)

            found = reference_gradients(run, (weight,), ctx.needs_input_grad, (grad,))
            return (*found, *no_more)
        grad = grad.to(accumulation_dtype(weight.dtype))
        if ctx.mean:
            grad = grad / (offsets[words + 1] - offsets[words]).clamp(min=1)[:, None]
        arguments = (grad.contiguous(), weight, offsets, rows, words)
        if ctx.sparse:
            touched, values = _bags_backward_sparse[ctx.backend](*arguments)
            return (_coalesced(touched, values, weight), *no_more)
        return (_bags_backward[ctx.backend](*arguments), *no_more)


_bag_sum_apply = direct(_BagSum)
_traced_bag_sum = traced(_BagSum)


def _coalesced(rows: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """A sparse gradient of rows that rise, each there once."""
    return torch.sparse_coo_tensor(
        rows[None], values, weight.shape, is_coalesced=True, check_invariants=False
    )
