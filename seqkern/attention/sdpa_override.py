"""seqkern's attention in the place of PyTorch's, for code that calls PyTorch's function.

`torch.nn.functional.scaled_dot_product_attention` is the operator
`aten::scaled_dot_product_attention`, whoever calls it and by whatever name, from Python or from
C++. `override_sdpa` gives it another kernel, above autograd: so the call is what it would be as one
of seqkern's function: any rank, grouped heads, dropout, gradients of masks, traced by
torch.compile.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from seqkern.attention.dense import scaled_dot_product_attention

_OPERATOR = torch.ops.aten.scaled_dot_product_attention.default
# The first of each pair is where a tensor of inference mode begins, which autograd does not know.
_KEYS = ("CPU", "AutogradCPU", "CUDA", "AutogradCUDA")

_lock = threading.Lock()
_handles: set[override_sdpa] = set()
_library: Library | None = None
_here = threading.local()


class override_sdpa:
    """Serves every call of `torch.nn.functional.scaled_dot_product_attention`, in all threads, by
    `seqkern.nn.functional.scaled_dot_product_attention`.

    As a function it holds until `remove()`, as a context manager until the end of the block::

        handle = seqkern.override_sdpa()
        handle.remove()
        with seqkern.override_sdpa():
            ...

    It reaches code that imported the function by name, and calls that PyTorch does not send to its
    flash attention: with dropout, with a mask that has a gradient, of 3-D tensors, with values of
    another size, with grouped heads. What runs a call is chosen as always (`seqkern.use_backend`,
    `seqkern.explain`); where that is PyTorch's own operator, as on a GPU by default, it runs.
    Calls of nested tensors and under `torch.vmap` stay PyTorch's. A function that `torch.compile`
    has compiled keeps what it was compiled with.

    Several may be in force; PyTorch's kernel is back when the last one is removed.
    """

    def __init__(self) -> None:
        global _library
        with _lock:
            if _library is None:
                _library = Library("aten", "IMPL")
                for key in _KEYS:
                    _library.impl("scaled_dot_product_attention", _attention, key)
                _forget_kernels()
            _handles.add(self)

    def remove(self) -> None:
        """Ends it. Does nothing the second time."""
        global _library
        with _lock:
            _handles.discard(self)
            if not _handles:
                _library = None  # whose kernels go with it
                _forget_kernels()

    def __enter__(self) -> override_sdpa:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


def _forget_kernels() -> None:
    """Tracers ask the operator's object in Python which kernel is next, and it remembers."""
    _OPERATOR._dispatch_cache.clear()


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    options = {"scale": scale, "enable_gqa": enable_gqa}
    if getattr(_here, "serving", False):  # seqkern has chosen PyTorch's
        return _OPERATOR.decompose(query, key, value, attn_mask, dropout_p, is_causal, **options)
    _here.serving = True
    try:
        return scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )
    finally:
        _here.serving = False
