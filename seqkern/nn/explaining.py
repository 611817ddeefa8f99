"""`seqkern.explain` for modules and functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkern.attention import checks as attention_checks
from seqkern.attention import choice as attention_choice
from seqkern.attention.ops import without_equal
from seqkern.backends import Explanation, explains
from seqkern.nn import functional
from seqkern.recurrent import choice
from seqkern.recurrent.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

_OTHERS = ("scaled_dot_product_attention", "varlen_attention", "skipgram_loss", "cbow_loss")
_RECURRENT = [name for name in functional.__all__ if name not in _OTHERS]


@explains(RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell)
def explain_module(module: Any, input: Tensor | PackedSequence, hx: Any = None) -> Explanation:
    """The arguments are those of the module's forward."""
    tensors = [*_tensors(hx), *module.parameters()]
    projected = getattr(module, "proj_size", 0) > 0
    return choice.explanation(repr(module), _data(input), tensors, projected)


@explains(*(getattr(functional, name) for name in _RECURRENT), *_RECURRENT)
def explain_function(
    function: Any, input: Tensor, hx: Any = None, *weights: Any, **options: Any
) -> Explanation:
    """The arguments are those of the function."""
    name = function if isinstance(function, str) else function.__name__
    own = [*_tensors(weights), *_tensors(tuple(options.values()))]
    # w_ih, w_hh, ...: with a projection the state is narrower than the cell.
    projected = name == "lstm" and len(own) > 1 and own[1].shape[0] != 4 * own[1].shape[1]
    return choice.explanation(name, _data(input), [*_tensors(hx), *own], projected)


@explains("scaled_dot_product_attention", functional.scaled_dot_product_attention)
def explain_attention(
    function: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    causal: str | None = None,
    window: tuple[int, int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    return_lse: bool = False,
    sinks: Tensor | None = None,
) -> Explanation:
    """The arguments are those of the function."""
    name = function if isinstance(function, str) else function.__name__
    attention_checks.types("explain", query=query, key=key, value=value, attn_mask=attn_mask)
    _, sides, cap = attention_checks.options(dropout_p, is_causal, causal, window, softcap)
    extras = without_equal(alibi_slopes, sinks, cap, sides, return_lse)
    tensors = (key, value, attn_mask, alibi_slopes, sinks)
    return attention_choice.explanation(name, query, tensors, extras)


@explains("varlen_attention", functional.varlen_attention)
def explain_varlen_attention(
    function: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *lengths: Any,
    alibi_slopes: Tensor | None = None,
    sinks: Tensor | None = None,
    **options: Any,
) -> Explanation:
    """The arguments are those of the function."""
    name = function if isinstance(function, str) else function.__name__
    attention_checks.types("explain", query=query, key=key, value=value)
    tensors = (key, value, alibi_slopes, sinks)
    return attention_choice.explanation(name, query, tensors, "cu_seqlens")


def _data(input: Any) -> Tensor:
    data = input.data if isinstance(input, PackedSequence) else input
    if not isinstance(data, Tensor):
        raise TypeError(
            f"explain: input must be a Tensor or a PackedSequence, got {type(input).__name__}"
        )
    return data


def _tensors(nested: Any) -> list[Tensor]:
    """All floating-point tensors in a nest of sequences."""
    if isinstance(nested, Tensor):
        return [nested] if nested.is_floating_point() else []
    if isinstance(nested, Sequence) and not isinstance(nested, str):
        return [tensor for item in nested for tensor in _tensors(item)]
    return []
