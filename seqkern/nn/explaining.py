"""`seqkern.explain` for recurrent modules and functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkern.backends import Explanation, explains
from seqkern.nn import functional
from seqkern.recurrent import choice
from seqkern.recurrent.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

_FUNCTIONS = [getattr(functional, name) for name in functional.__all__]


@explains(RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell)
def explain_module(module: Any, input: Tensor | PackedSequence, hx: Any = None) -> Explanation:
    """The arguments are those of the module's forward."""
    tensors = [*_tensors(hx), *module.parameters()]
    return choice.explanation(repr(module), _data(input), tensors)


@explains(*_FUNCTIONS, *functional.__all__)
def explain_function(
    function: Any, input: Tensor, hx: Any = None, *weights: Any, **options: Any
) -> Explanation:
    """The arguments are those of the function."""
    name = function if isinstance(function, str) else function.__name__
    tensors = [*_tensors(hx), *_tensors(weights), *_tensors(tuple(options.values()))]
    return choice.explanation(name, _data(input), tensors)


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
