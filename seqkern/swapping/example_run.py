"""A module run on example inputs, forward and backward, as a verification compares and times it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_map

from seqkern.swapping.comparison import Results, named_tensors
from seqkern.swapping.repeatability import Held, holding


@dataclasses.dataclass(frozen=True)
class Call:
    """Positional and keyword arguments together."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Run:
    """Runs a module on copies of example inputs, and its backward for a fixed random weighting of
    its outputs.

    Args:
        example_inputs: one argument, a tuple or list of positional ones, a dict of keyword ones, or
            a `Call`.
        backward: whether the backward pass takes part, where something requires a gradient.
        held: by their names the parametrized tensors that keep one value; their gradients are taken
            with respect to that value.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        example_inputs: Any,
        backward: bool,
        held: Mapping[str, Held] | None = None,
    ) -> None:
        self._model = model
        self._example_inputs = example_inputs
        self._backward = backward
        self._held = held or {}
        self._weights: dict[str, torch.Tensor] = {}  # by output; drawn once, they cost time

    def __call__(self) -> Results:
        arguments = self.arguments()
        with torch.enable_grad(), holding(self._held) as leaves:
            outputs = dict(named_tensors(self.forward(arguments), "output"))
        inputs = named_tensors(arguments, "the input")
        sources = {
            f"the gradient of {name}": tensor
            for name, tensor in [*self._model.named_parameters(), *leaves.items(), *inputs]
            if tensor.requires_grad
        }
        ends = {name: tensor for name, tensor in outputs.items() if tensor.requires_grad}
        gradients = {}
        if self._backward and sources and ends:
            # torch.autograd.grad, and not backward(), which would change .grad and run the hooks on
            # it.
            values = torch.autograd.grad(
                list(ends.values()),
                list(sources.values()),
                [self._weight(name, end) for name, end in ends.items()],
                allow_unused=True,
            )
            gradients = {
                name: torch.zeros_like(source) if value is None else value.to_dense()
                for (name, source), value in zip(sources.items(), values, strict=True)
            }
        return Results({name: value.detach() for name, value in outputs.items()}, gradients)

    def arguments(self) -> Any:
        """Copies of the example inputs."""
        given = self._example_inputs
        if isinstance(given, Call):
            return Call(tree_map(_copy, given.args), tree_map(_copy, given.kwargs))
        return tree_map(_copy, given)

    def forward(self, arguments: Any) -> Any:
        """What the module returns for `arguments()`."""
        if isinstance(arguments, Call):
            return self._model(*arguments.args, **arguments.kwargs)
        if isinstance(arguments, Mapping):
            return self._model(**arguments)
        if type(arguments) in (tuple, list):  # not a PackedSequence, which is one argument
            return self._model(*arguments)
        return self._model(arguments)

    def _weight(self, name: str, output: torch.Tensor) -> torch.Tensor:
        """The gradient to send into an output: random, but 0 where the output is infinite."""
        weight = self._weights.get(name)
        if weight is None or (weight.shape, weight.dtype) != (output.shape, output.dtype):
            generator = torch.Generator().manual_seed(0)
            weight = torch.randn(output.shape, generator=generator).to(output.device, output.dtype)
            self._weights[name] = weight.masked_fill_(~output.detach().isfinite(), 0)
        return self._weights[name]


def _copy(leaf: Any) -> Any:
    """A copy of a tensor that requires a gradient if the original does; others as they are."""
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().clone().requires_grad_(leaf.requires_grad)
    return leaf
