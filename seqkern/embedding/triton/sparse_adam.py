"""The operator sparse_adam_ on a GPU: one pass over the rows that have a gradient.

Floor: of each of those rows its gradient, weight and both averages are read once and the last three
written, 7 d s bytes of d features of s bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqkern.core.triton.support import on_device_of
from seqkern.embedding.sparse_adam import TRITON_DTYPES
from seqkern.embedding.triton import settings
from seqkern.embedding.triton.arguments import check, kept, programs


@triton.jit(do_not_specialize=["beta1", "beta2", "eps", "step_size"])
def sparse_adam_kernel(
    weight, exp_avg, exp_avg_sq, rows, values, beta1, beta2, eps, step_size, features,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Programs: the rows that have a gradient. m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2,
    w <- w - step_size m / (sqrt(v) + eps), in float32, rounded once."""
    n = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, WIDTH)
    in_row = k < features
    g = tl.load(values + n * features + k, mask=in_row, other=0.0).to(tl.float32)
    at = tl.load(rows + n) * features + k
    m = tl.load(exp_avg + at, mask=in_row, other=0.0).to(tl.float32)
    v = tl.load(exp_avg_sq + at, mask=in_row, other=0.0).to(tl.float32)
    w = tl.load(weight + at, mask=in_row, other=0.0).to(tl.float32)
    m += (g - m) * (1.0 - beta1)
    v += (g * g - v) * (1.0 - beta2)
    w -= step_size * m / (tl.sqrt(v) + eps)
    tl.store(exp_avg + at, m.to(exp_avg.dtype.element_ty), mask=in_row)
    tl.store(exp_avg_sq + at, v.to(exp_avg_sq.dtype.element_ty), mask=in_row)
    tl.store(weight + at, w.to(weight.dtype.element_ty), mask=in_row)


def sparse_adam_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    rows: Tensor,
    values: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    step_size: float,
) -> None:
    """See csrc/embedding/cpu/sparse_adam_cpu.cpp. `rows` rise, each at most once: they are those of
    a coalesced gradient of this weight, and nobody waits for the GPU to look.

    Raises:
        RuntimeError: tensors do not fit together.
    """
    check(
        weight.dim() == 2 and weight.dtype in TRITON_DTYPES,
        f"weight should have 2 dimensions and a dtype of {TRITON_DTYPES}, but it is "
        f"{weight.dtype} of shape {list(weight.shape)}",
    )
    check(
        weight.shape[1] <= settings.WIDEST,
        f"weight should have up to {settings.WIDEST} features, got {weight.shape[1]}",
    )
    for name, table in (("weight", weight), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
        kept(name, table, weight.dtype, weight.shape, weight.device)
        check(table.is_contiguous(), f"{name} should be contiguous")
    rows = kept("rows", rows, torch.int64, (-1,), weight.device)
    shape = (rows.numel(), weight.shape[1])
    values = kept("values", values, weight.dtype, shape, weight.device)
    if values.numel() == 0:
        return
    config = settings.tile(weight.shape[1], 1)[1]
    with on_device_of(weight):
        sparse_adam_kernel[programs(rows.numel())](
            weight, exp_avg, exp_avg_sq, rows, values, beta1, beta2, eps, step_size,
            weight.shape[1], **config,
        )  # fmt: skip
