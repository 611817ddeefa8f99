"""torch.optim.SparseAdam with a step that is one pass over the rows that have a gradient."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor

from seqkern.core import dispatch, library
from seqkern.core.backends import Explanation
from seqkern.embedding import registration
from seqkern.embedding.choice import TRITON_WIDEST

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_step = registration.triton_operators.by_backend("sparse_adam_")


class SparseAdam(torch.optim.SparseAdam):
    """`torch.optim.SparseAdam` (Kingma & Ba 2015, applied to the rows that have a gradient): the
    same state_dict and numbers.

    Args:
        params, lr, betas, eps, maximize: as in torch.optim.SparseAdam.

    PyTorch's step takes about fifteen passes over the gradient's rows (gathers, products, sums,
    scattered additions), which is most of the time of a training step of word vectors; this one
    reads gradient, weight and both averages of a row once and writes three of them back.
    bfloat16 tables are computed in float32 and rounded once, where PyTorch rounds every operation.

    A parameter that no kernel takes (on a device without one, of another dtype, not contiguous,
    without exactly 2 dimensions, whose gradient has sparse_dim other than 1) goes to PyTorch's
    step; `seqkern.explain(optimizer)` says whether and why. On a GPU the kernel is Triton's, for
    float32, bfloat16 and float16.

    Raises:
        ValueError: as torch.optim.SparseAdam; RuntimeError from :meth:`step`.

    >>> optimizer = SparseAdam(model.parameters(), lr=1e-3)  # doctest: +SKIP
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step; the arguments, the result and the errors are those of PyTorch's.

        Raises:
            RuntimeError: a gradient is dense (PyTorch's words), or the backend chosen with
                `seqkern.use_backend` cannot run the step.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        left = []
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                if not param.grad.is_sparse:
                    raise RuntimeError(
                        "SparseAdam does not support dense gradients, please consider Adam instead"
                    )
                backend = _backend(param)
                if backend != "torch":
                    self._fused(group, param, backend)
                else:
                    left.append(param)
        if left:
            self._by_pytorch(left)
        return loss

    def _fused(self, group: dict[str, Any], param: Tensor, backend: str) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["step"] += 1
        assert param.grad is not None
        grad = param.grad
        if not grad.is_coalesced() and not _rises(grad._indices()[0]):
            grad = grad.coalesce()
        values = -grad._values() if group.get("maximize", False) else grad._values()
        if values.numel() == 0:
            return
        beta1, beta2 = group["betas"]
        corrected = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        tables = (param.detach(), state["exp_avg"], state["exp_avg_sq"])
        _step[backend](
            *tables,
            grad._indices()[0],
            values.contiguous(),
            beta1,
            beta2,
            group["eps"],
            float(group["lr"]) * corrected,
        )
        # The operator is not one that autograd knows, so the version has to be bumped here.
        torch.autograd.graph.increment_version(tables)

    def _by_pytorch(self, params: list[Tensor]) -> None:
        """PyTorch's step for these parameters, while the others are shown without a gradient."""
        wanted = {id(param) for param in params}
        others = [
            (param, param.grad)
            for group in self.param_groups
            for param in group["params"]
            if param.grad is not None and id(param) not in wanted
        ]
        for param, _ in others:
            param.grad = None
        try:
            # Past all wrappers: profiling and hooks, which have run for this step already, and
            # Dynamo's, which wraps them once the process has compiled something.
            inspect.unwrap(torch.optim.SparseAdam.step)(self)
        finally:
            for param, grad in others:
                param.grad = grad


def _rises(rows: Tensor) -> bool:
    """Whether the rows rise, each there once. PyTorch forgets that a gradient is coalesced when it
    accumulates it into `.grad`, and to coalesce it once more would sort and copy all of it."""
    return bool((rows[1:] > rows[:-1]).all())


def _cpu_refusal(param: Tensor) -> str:
    """Why the CPU kernel cannot take a parameter; "" where it can."""
    if param.dtype not in dispatch.KERNEL_DTYPES:
        return f"no kernel for {param.dtype}: float32, float64, bfloat16"
    return dispatch.cpu_refusal(param, ()) or _shape_refusal(param)


def _triton_refusal(param: Tensor) -> str:
    """Why the GPU kernel cannot take a parameter; "" where it can."""
    refused = registration.triton_operators.refusal(param.device) or dispatch.gpu_refusal(
        param, (), TRITON_DTYPES
    )
    if not refused and param.dim() == 2 and param.shape[1] > TRITON_WIDEST:
        return f"rows of up to {TRITON_WIDEST} features, these have {param.shape[1]}"
    return refused or _shape_refusal(param)


def _shape_refusal(param: Tensor) -> str:
    if param.dim() != 2 or not param.is_contiguous():
        return f"a parameter is not a contiguous matrix but {list(param.shape)}"
    if param.grad is not None and param.grad.is_sparse and param.grad.sparse_dim() != 1:
        return "a gradient has more than one sparse dimension"
    return ""


def _refusals(params: list[Tensor]) -> dict[str, str]:
    """For each backend why it cannot take all of these parameters."""
    return {
        "cpu": next(filter(None, map(_cpu_refusal, params)), ""),
        "triton": next(filter(None, map(_triton_refusal, params)), ""),
        "cuda": dispatch.no_kernel("SparseAdam"),
        "torch": "",
        "reference": "PyTorch's own optimizer is the specification",
    }


def _automatic(params: list[Tensor], refused: dict[str, str]) -> str:
    if not refused["cpu"]:
        return "cpu"
    on_gpus = all(param.is_cuda for param in params)
    return "triton" if on_gpus and not refused["triton"] else "torch"


def _backend(param: Tensor) -> str:
    refused = _refusals([param])
    return dispatch.pick(refused, _automatic([param], refused))


def explain_optimizer(optimizer: SparseAdam) -> Explanation:
    """Which backend runs the step: a kernel's where it can for every parameter."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    refused = _refusals(params)

    def strength(backend: str) -> str:
        if backend == "cpu":
            return f"one pass over the rows that have a gradient, ISA level {library.isa()} in use"
        if backend == "triton":
            return "one pass over the rows that have a gradient, not yet measured on a GPU"
        return "PyTorch's step, for every parameter that the kernel does not take"

    return dispatch.explained(
        "SparseAdam",
        refused,
        _automatic(params, refused),
        strength,
        lambda backend, chosen: "PyTorch's step takes many passes over the rows",
    )
