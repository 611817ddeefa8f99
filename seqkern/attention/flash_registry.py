"""PyTorch's own calls of its flash attention on the CPU, served by seqkern's kernels.

`torch.nn.attention.activate_flash_attention_impl("seqkern")` puts the two functions below in the
place of the operators to which `torch.nn.functional.scaled_dot_product_attention` leads where
nothing keeps it from flash attention, and `torch.nn.attention.restore_flash_attention_impl()` takes
them away. They stand below autograd and torch.compile, which see PyTorch's operators: so shapes,
dtypes and strides are those that PyTorch says its operators have.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.library import Library
from torch.nn.attention import register_flash_attention_impl

from seqkern.attention.autograd import backward_operator, forward_operator
from seqkern.attention.needs import KEY, QUERY, VALUE
from seqkern.core import library

NAME = "seqkern"
_FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
_NO_OTHERS = (None,) * 5  # slopes, sinks, both cu_seqlens, the seed of dropout


def register() -> None:
    """Makes the name known to PyTorch; nothing is activated."""
    register_flash_attention_impl(NAME, register_fn=_activate)


class _Activated:
    """What PyTorch keeps until the implementation is restored."""

    def __init__(self, operators: Library) -> None:
        self._operators: Library | None = operators

    def remove(self) -> None:
        self._operators = None  # the operators are PyTorch's again when nobody holds the library


def _activate() -> _Activated:
    if not library.cpu.loaded:
        raise RuntimeError(f"seqkern's kernels cannot serve attention: {library.cpu.reason}")
    operators = Library("aten", "IMPL", "CPU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a kernel is overridden, which was asked for
        operators.impl(_FORWARD, _forward, allow_override=True)
        operators.impl(f"{_FORWARD}_backward", _backward, allow_override=True)
    return _Activated(operators)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Output, (B, H, N, D) with the strides of the query, and log-sum-exp, (B, H, N), which lies as
    (B, N, H)."""
    if dropout_p:
        raise RuntimeError("flash attention on the CPU has no dropout")
    q, k, v = (_computed(x) for x in (query, key, value))
    bias = _bias(attn_mask, q)
    options = _options(query, is_causal, scale)
    output, lse = forward_operator("cpu")(q, k, v, None, bias, *_NO_OTHERS, *options)
    return _laid_out_as(query, output), lse.transpose(1, 2).contiguous().transpose(1, 2)


def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value, which lie as (B, N, H, D)."""
    grad, q, k, v, output = (_computed(x) for x in (grad_out, query, key, value, out))
    bias = _bias(attn_mask, q)
    options = _options(query, is_causal, scale)
    needs = QUERY | KEY | VALUE
    found = backward_operator("cpu")(
        grad, None, q, k, v, output, logsumexp.contiguous(), None, bias, *_NO_OTHERS, *options,
        needs,
    )[:3]  # fmt: skip
    d_query, d_key, d_value = (
        x.to(query.dtype).transpose(1, 2).contiguous().transpose(1, 2) for x in found
    )
    return d_query, d_key, d_value


def _computed(x: Tensor) -> Tensor:
    """float16 goes through float32."""
    return x.float() if x.dtype == torch.float16 else x


def _bias(attn_mask: Tensor | None, query: Tensor) -> Tensor | None:
    """PyTorch's mask, of 2 to 4 dimensions and always numbers that are added here."""
    if attn_mask is None:
        return None
    bias = attn_mask[(None,) * (4 - attn_mask.dim())]
    return bias if bias.dtype in (query.dtype, torch.float32) else bias.to(query.dtype)


def _options(query: Tensor, is_causal: bool, scale: float | None) -> tuple[object, ...]:
    """The operator's, from scale on."""
    scale = query.shape[3] ** -0.5 if scale is None else scale
    return (scale, 0.0, 0.0, is_causal, -1, -1)


def _laid_out_as(like: Tensor, x: Tensor) -> Tensor:
    if x.dtype == like.dtype and x.stride() == like.stride():
        return x
    laid_out = torch.empty_like(like)
    return x.to(like.dtype) if laid_out.stride() == x.stride() else laid_out.copy_(x)
