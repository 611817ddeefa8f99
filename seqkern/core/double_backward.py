"""Second derivatives: a kernel's backward has no backward of its own, so differentiating
it once more differentiates the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seqkern.core.dispatch import without_autocast

_grad_enabled = torch.is_grad_enabled
_transforming = torch._C._are_functorch_transforms_active


def differentiable_backward(grads: Sequence[Tensor | None]) -> bool:
    """Whether this backward call is itself differentiated: by autograd (create_graph), by a
    function transform (vmap), or by forward mode, with a tangent on a gradient.

    Not so in a compiled function, whose backward is traced once and never differentiated again.
    """
    if not (_grad_enabled() or _transforming() or forward_ad._current_level >= 0):
        return False  # the common case first
    if torch.compiler.is_compiling():
        return False
    if _grad_enabled() or _transforming():
        return True
    return any(
        grad is not None and forward_ad.unpack_dual(grad).tangent is not None for grad in grads
    )


def reference_gradients(
    run: Callable[..., tuple[Tensor, ...]],
    tensors: Sequence[Tensor | None],
    need: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients of `run(*tensors)` in a form that autograd can differentiate again.

    Args:
        need: for each of `tensors` whether its gradient is wanted (more entries are ignored).
        grads: the gradients of the results of `run`, None for one that does not count.
    """
    again = _grad_enabled()
    device = next(t.device.type for t in tensors if t is not None)
    with torch.enable_grad(), without_autocast(device):
        # One tensor may be two arguments (both biases of a layer, key and value); as aliases each
        # gets its own gradient.
        aliases = [
            t.view_as(t) if t is not None and wanted else t
            for t, wanted in zip(tensors, need, strict=False)
        ]
        outputs = run(*aliases)
        pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
        sources = [a for a, wanted in zip(aliases, need, strict=False) if wanted]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in pairs],
                [s for s in sources if s is not None],
                [g for _, g in pairs],
                create_graph=again,
                allow_unused=True,
            )
        )
    return [next(found) if wanted else None for wanted in need[: len(tensors)]]
