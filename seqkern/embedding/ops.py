"""The losses of skip-gram and CBOW, their fused step of gradient descent, and the sums of bags,
with the fastest backend that can run them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.core.dispatch import without_autocast
from seqkern.embedding import autograd, batch, checks, choice, reference
from seqkern.embedding.batch import Batch

_runs_directly = choice.runs_directly


def skipgram_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    context: Tensor,
    negatives: Tensor | None = None,
    *,
    paths: Any = None,
    padding_idx: int | None = None,
    sparse: bool = False,
) -> Tensor:
    """The mean loss of skip-gram over all pairs of a center word and a context word.

    A pair's loss is -log sigma(u_context . v_center) - sum_k log sigma(-u_k . v_center) with
    `negatives` k (Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their
    Compositionality", equation 4), or -sum_j log sigma(+-u_j . v_center) over the inner nodes j of
    the context word's path (equation 3); all of it in `seqkern.embedding.reference`.

    Args:
        in_weight: (V, d), the rows v. The CPU kernels take float32, float64 and bfloat16 (computed
            in float32), those for GPUs float16 too, the reference any floating dtype.
        out_weight: the rows u, in the same dtype: (V, d), or (inner nodes, d) with `paths`.
        center: int64 or int32, any shape (...).
        context: int64 or int32 (...), one context word for each center, or (..., C).
        negatives: int64 or int32 `(*context.shape, K)`; for a context (..., C) also (..., K), which
            all pairs of a center share.
        paths: instead of `negatives`: an object with the tensors offsets int64 (V + 1,), nodes
            int32 (L,) and codes uint8 (L,), such as `seqkern.text.huffman` returns: the path to the
            word w is nodes[offsets[w]:offsets[w + 1]].
        padding_idx: the index that is no word: such a pair does not count and such a negative is
            left out. It may be negative as in `torch.nn.functional.embedding`.
        sparse: both gradients are sparse tensors, coalesced: their rows rise, each there once.

    Returns:
        The loss without dimensions, float32 (float64 for float64 weights); 0 where no pair counts.
        Gradients are in the dtype of the weights, each row summed in the order of the batch, so
        that they do not depend on the number of threads. On a GPU a dense gradient in float32 or
        float64 is summed by atomic additions in no fixed order, unless
        torch.use_deterministic_algorithms is on.

    Raises:
        IndexError: an index is out of range; on a GPU it ends in a device-side assertion, as in
            torch.nn.Embedding.
        RuntimeError: shapes, dtypes or devices do not fit together, or the backend chosen with
            `seqkern.use_backend` cannot run the call.
        ValueError: not one of negatives and paths is given, or padding_idx is out of range.
    """
    examples = batch.skipgram(in_weight, out_weight, center, context, negatives, paths, padding_idx)
    return objective(in_weight, out_weight, examples, sparse)


def cbow_loss(
    in_weight: Tensor,
    out_weight: Tensor,
    center: Tensor,
    context: Tensor,
    negatives: Tensor | None = None,
    *,
    paths: Any = None,
    mean: bool = True,
    padding_idx: int | None = None,
    sparse: bool = False,
) -> Tensor:
    """The mean loss of CBOW over all center words.

    That of `skipgram_loss` with the mean of the context words' rows of in_weight (`mean` False:
    their sum) in the place of v, and the center word as the target (Mikolov et al. 2013, "Efficient
    Estimation of Word Representations in Vector Space").

    Args:
        center: int64 or int32, any shape (...).
        context: int64 or int32 (..., C); words equal to padding_idx are left out, and a center
            without others does not count.
        negatives: int64 or int32 (..., K).
        mean: whether the context words' rows are averaged; False: summed.
        in_weight, out_weight, paths, padding_idx, sparse: as in `skipgram_loss`.

    Returns:
        The loss without dimensions, as `skipgram_loss`.

    Raises:
        IndexError, RuntimeError, ValueError: as `skipgram_loss`.
    """
    examples = batch.cbow(
        in_weight, out_weight, center, context, negatives, paths, mean, padding_idx
    )
    return objective(in_weight, out_weight, examples, sparse)


def objective(in_weight: Tensor, out_weight: Tensor, examples: Batch, sparse: bool) -> Tensor:
    """`reference.objective` of checked tables and a batch."""
    b = examples
    backend = "cpu" if _runs_directly(in_weight) else choice.choose(in_weight, (out_weight,))
    if backend in choice.KERNELS:
        try:
            return autograd.objective(
                _with_rows(in_weight), _with_rows(out_weight), b.inputs, b.targets, b.negatives,
                b.paths, b.terms, b.mean, b.padding_idx, sparse, backend,
            )  # fmt: skip
        except RuntimeError:
            b.check_ranges(in_weight, out_weight)
            b.check_paths(out_weight)
            raise
    b.check_ranges(in_weight, out_weight)
    with without_autocast(in_weight.device.type):
        return reference.objective(
            in_weight, out_weight, b.inputs, b.targets, b.negatives, b.paths,
            mean=b.mean, padding_idx=b.padding_idx, sparse=sparse, longest=b.terms,
        )  # fmt: skip


def update_(in_weight: Tensor, out_weight: Tensor, examples: Batch, lr: float) -> Tensor:
    """One step of gradient descent on the **summed** loss of a batch, in place.

    weight <- weight - lr * d(sum of loss_e)/d(weight) for both tables, all of it at the tables as
    they were before; a row that occurs several times gets the sum of its gradients. With the
    kernels there are no gradient tensors.

    Returns:
        The mean loss before the step, as `objective` gives it, without a graph.
    """
    b = examples
    backend = "cpu" if _runs_directly(in_weight) else choice.choose(in_weight, (out_weight,))
    if backend in choice.KERNELS and _rows_contiguous(in_weight) and _rows_contiguous(out_weight):
        try:
            return autograd.update_(
                in_weight, out_weight, b.inputs, b.targets, b.negatives,
                b.paths, b.terms, b.mean, b.padding_idx, lr, backend,
            )  # fmt: skip
        except RuntimeError:
            b.check_ranges(in_weight, out_weight)
            b.check_paths(out_weight)
            raise
    return _update_by_gradients(in_weight, out_weight, b, lr)


def _update_by_gradients(
    in_weight: Tensor, out_weight: Tensor, examples: Batch, lr: float
) -> Tensor:
    """The same through autograd, where no kernel takes the tables."""
    tables = (in_weight.detach(), out_weight.detach())
    with torch.enable_grad():
        leaves = [table.clone().requires_grad_() for table in tables]
        loss = objective(leaves[0], leaves[1], examples, False)
        grads = torch.autograd.grad(loss, leaves)
    counts = (examples.inputs != examples.padding_idx).any(-1)
    counts = counts & (examples.targets != examples.padding_idx)
    for table, grad in zip(tables, grads, strict=True):
        table.sub_(grad * (lr * counts.sum().to(loss.dtype)))
    return loss.detach()


def bag_sum(
    weight: Tensor,
    offsets: Tensor,
    rows: Tensor,
    words: Tensor,
    *,
    mean: bool = True,
    sparse: bool = False,
) -> Tensor:
    """The vectors of words that are bags of rows; see `seqkern.embedding.reference.bag_sum`.

    Args:
        weight: (rows, d); dtypes as in `skipgram_loss`.
        offsets: int64 (V + 1,), where the bag of each word starts.
        rows: int32: the bag of word w is rows[offsets[w]:offsets[w + 1]].
        words: int64 or int32, any shape (...), in [0, V).
        sparse: the gradient is a sparse tensor, coalesced.

    Returns:
        (..., d), in the dtype of weight.

    Raises:
        IndexError: a word is out of range.
        RuntimeError: shapes, dtypes or devices do not fit together, or the chosen backend cannot
            run the call.
    """
    checks.table_("weight", weight)
    words = checks.indices("words", words, weight.device)
    flat = words.reshape(-1)
    backend = "cpu" if _runs_directly(weight) else choice.choose(weight, ())
    if backend in choice.KERNELS:
        try:
            vectors = autograd.bag_sum(
                _with_rows(weight), offsets, rows, flat, mean, sparse, backend
            )
        except RuntimeError:
            checks.in_range("words", words, offsets.shape[0] - 1, checks.NO_PADDING, "the bags")
            checks.bag_tensors(offsets, rows, weight.shape[0])
            raise
    else:
        checks.in_range("words", words, offsets.shape[0] - 1, checks.NO_PADDING, "the bags")
        with without_autocast(weight.device.type):
            vectors = reference.bag_sum(weight, offsets, rows, flat, mean=mean, sparse=sparse)
    return vectors.reshape(*words.shape, weight.shape[1])


def _rows_contiguous(table: Tensor) -> bool:
    return table.shape[1] <= 1 or table.stride(1) == 1


def _with_rows(table: Tensor) -> Tensor:
    """The table, with contiguous rows."""
    return table if _rows_contiguous(table) else table.contiguous()
