"""`seqkern.explain` for the recurrent modules and functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from seqkern.core.backends import Explanation, explains
from seqkern.recurrent import choice, functional
from seqkern.recurrent.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell


@explains(RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell)
def explain_module(module: Any, input: Tensor | PackedSequence, hx: Any = None) -> Explanation:
    """The arguments are those of the module's forward."""
    tensors = [*_tensors(hx), *module.parameters()]
    projected = getattr(module, "proj_size", 0) > 0
    return choice.explanation(repr(module), _data(input), tensors, projected)


@explains(*(getattr(functional, name) for name in functional.__all__), *functional.__all__)
def explain_function(
    function: Any, input: Tensor, hx: Any = None, *weights: Any, **options: Any
) -> Explanation:
    """The arguments are those of the function."""
    name = function if isinstance(function, str) else function.__name__
    own = [*_tensors(weights), *_tensors(tuple(options.values()))]
    # w_ih, w_hh, ...: with a projection the state is narrower than the cell.
    projected = name == "lstm" and len(own) > 1 and own[1].shape[0] != 4 * own[1].shape[1]
    return choice.explanation(name, _data(input), [*_tensors(hx), *own], projected)


def _data(input: Any) -> Tensor:
    data = input.data if isinstance(input, PackedSequence) else input
    if not isinstance(data, Tensor):
        raise TypeError(
            f"explain: input must be a Tensor or a PackedSequence, got {type(input).__name__}"
        )
    return data


def _tensors(nested: Any) -> list[Tensor]:
    """All floating-point tensors in nested sequences."""
    if isinstance(nested, Tensor):
        return [nested] if nested.is_floating_point() else []
    if isinstance(nested, Sequence) and not isinstance(nested, str):
        return [tensor for item in nested for tensor in _tensors(item)]
    return []
