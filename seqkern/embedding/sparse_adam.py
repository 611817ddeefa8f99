"""torch.optim.SparseAdam with a step that is one pass over the rows that have a gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from seqkern import dispatch, library
from seqkern.backends import Explanation
from seqkern.embedding import fake  # noqa: F401  (registers the operator's fake kernel)

if library.cpu.loaded:
    _step = torch.ops.seqkern.sparse_adam_.default


class SparseAdam(torch.optim.SparseAdam):
    """`torch.optim.SparseAdam`: the same arguments, state_dict and numbers.

    PyTorch's step takes about fifteen passes over the gradient's rows (gathers, products, sums,
    scattered additions), which is most of the time of a training step of word vectors; this one
    reads gradient, weight and both averages of a row once and writes three of them back.
    bfloat16 tables are computed in float32 and rounded once, where PyTorch rounds every operation.

    A parameter that the kernel does not take (on another device, of another dtype, not contiguous,
    without exactly 2 dimensions, whose gradient has sparse_dim other than 1) goes to PyTorch's
    step; `seqkern.explain(optimizer)` says whether and why.

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
                if _backend(param) == "cpu":
                    self._fused(group, param)
                else:
                    left.append(param)
        if left:
            self._by_pytorch(left)
        return loss

    def _fused(self, group: dict[str, Any], param: Tensor) -> None:
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
        _step(
            *tables,
            grad._indices()[0],
            values.contiguous(),
            beta1,
            beta2,
            group["eps"],
            float(group["lr"]) * corrected,
        )
        # The operator is not one that autograd knows, so nobody else says that they have changed.
        torch.autograd.graph.increment_version(tables)

    def _by_pytorch(self, params: list[Tensor]) -> None:
        """PyTorch's step for these parameters, while the others seem to have no gradient."""
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
            # Past the profiling wrapper and the hooks, which have run for this step already.
            torch.optim.SparseAdam.step.__wrapped__(self)  # type: ignore[attr-defined]
        finally:
            for param, grad in others:
                param.grad = grad


def _rises(rows: Tensor) -> bool:
    """Whether the rows rise, each there once. PyTorch forgets that a gradient is coalesced when it
    accumulates it into `.grad`, and to coalesce it once more would sort and copy all of it."""
    return bool((rows[1:] > rows[:-1]).all())


def _refusal(param: Tensor) -> str:
    """Why the kernel cannot take a parameter; "" where it can."""
    if param.dtype not in dispatch.KERNEL_DTYPES:
        return f"no kernel for {param.dtype}: float32, float64, bfloat16"
    reason = dispatch.cpu_refusal(param, ())
    if reason:
        return reason
    if param.dim() != 2 or not param.is_contiguous():
        return f"a parameter is not a contiguous matrix but {list(param.shape)}"
    if param.grad is not None and param.grad.is_sparse and param.grad.sparse_dim() != 1:
        return "a gradient has more than one sparse dimension"
    return ""


def _refusals(reason: str) -> dict[str, str]:
    absent = dispatch.no_kernel("SparseAdam")
    return {
        "cpu": reason,
        "triton": absent,
        "cuda": absent,
        "torch": "",
        "reference": "PyTorch's own optimizer is the specification",
    }


def _backend(param: Tensor) -> str:
    refused = _refusals(_refusal(param))
    return dispatch.pick(refused, "torch" if refused["cpu"] else "cpu")


def explain_optimizer(optimizer: SparseAdam) -> Explanation:
    """Which backend runs the step: "cpu" where it can for every parameter."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    reason = next((said for said in map(_refusal, params) if said), "")
    return dispatch.explained(
        "SparseAdam",
        _refusals(reason),
        "torch" if reason else "cpu",
        lambda backend: (
            f"one pass over the rows that have a gradient, ISA level {library.isa()} in use"
            if backend == "cpu"
            else "PyTorch's step, for every parameter that the kernel does not take"
        ),
        lambda backend, chosen: "PyTorch's step takes many passes over the rows",
    )
