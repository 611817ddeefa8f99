"""Does a model still compute the same after its modules were exchanged, and how much faster?

What agreement means is said in :mod:`seqkern.comparison`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from seqkern.comparison import (
    Disagreement,
    Results,
    largest_deviation,
    named_tensors,
    tolerance_for,
)
from seqkern.snapshot import Snapshot
from seqkern.timing import interleave, timed

SECONDS_TO_TIME = 2.0
"""Roughly how long the two versions are timed against each other."""


class VerificationError(RuntimeError):
    """The model does not compute the same as before the exchange."""


@dataclasses.dataclass(frozen=True)
class Verification:
    """What a successful verification measured. Printing it gives one sentence."""

    deviation: float
    """The largest relative error of all outputs and gradients."""
    where: str
    """The tensor that has it."""
    tolerance: float
    """What would have been allowed."""
    seconds_before: float
    """Shortest time of the model before the exchange."""
    seconds_after: float
    """Shortest time after it."""
    backward: bool
    """Whether the backward pass took part. It does, unless nothing requires a gradient or the
    model is on a GPU in eval mode, where cuDNN's recurrent layers have none."""

    @property
    def speedup(self) -> float:
        """Time before the exchange over time after it."""
        return self.seconds_before / self.seconds_after

    def __str__(self) -> str:
        passes = "forward and backward" if self.backward else "forward only"
        return (
            f"verified {passes}: largest deviation {self.deviation:.1e} in {self.where} "
            f"(allowed {self.tolerance:.0e}); {self.seconds_before * 1e3:.2f} ms before, "
            f"{self.seconds_after * 1e3:.2f} ms after, {self.speedup:.2f} times as fast"
        )


def check_exchange(
    model: torch.nn.Module,
    example_inputs: Any,
    exchange: Callable[[], object],
    restore: Callable[[], object],
) -> Verification:
    """Compare a model with itself after ``exchange()``; ``restore()`` takes that back.

    Both versions run on copies of the same inputs, from the same state of the random generators
    (torch's, Python's and NumPy's), with every dropout probability at 0 and the training mode as
    it is. Generators, buffers, dropout and the other attributes of the modules are put back
    afterwards, and ``.grad`` is never touched. Attributes that the model changes in place without
    registering them as buffers are the one thing that is not put back.

    Args:
        model: the model, not yet exchanged.
        example_inputs: one argument, a tuple or list of positional arguments, or a dict of keyword
            arguments. Their ``requires_grad`` is honoured.
        exchange: changes the model; called several times, in turn with ``restore``.
        restore: undoes ``exchange``. Which of the two was called last is left open.

    Returns:
        The largest deviation and the times.

    Raises:
        VerificationError: the exchanged model raised an error or does not agree.
        ValueError: the model has lazy parameters still to be initialised, or its outputs hold no
            tensor, or the original model gives NaN.
    """
    model = _unwrapped(model)
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise ValueError("the model has lazy parameters; run it once before verifying a swap")
    snapshot = Snapshot(model)
    on_cuda = any(parameter.is_cuda for parameter in model.parameters())
    # cuDNN's recurrent layers, which the original may use, have no backward in eval mode.
    run = _Run(model, example_inputs, backward=model.training or not on_cuda)

    def prepare(change: Callable[[], object]) -> None:
        change()
        snapshot.restore()
        _switch_dropout_off(model)

    try:
        prepare(restore)
        before = run()
        if not before.outputs:
            raise ValueError("the model returned no tensors, so there is nothing to compare")
        prepare(exchange)
        try:
            after = run()
        except Exception as error:
            raise VerificationError(
                f"the swap was undone: the swapped model raised {type(error).__name__}: {error}"
            ) from error
        tolerance = tolerance_for(model, example_inputs, before)
        try:
            deviation, where = largest_deviation(before, after, tolerance)
        except Disagreement as error:
            raise VerificationError(f"the swap was undone: {error}") from None

        seconds = timed(run)  # warm by now, and a fair guess for both
        times = interleave(
            run,
            run,
            rounds=max(3, min(50, round(SECONDS_TO_TIME / (2 * seconds)))),
            prepare_first=lambda: prepare(restore),
            prepare_second=lambda: prepare(exchange),
        )
    finally:
        snapshot.restore()
    return Verification(
        deviation, where, tolerance, min(times.first), min(times.second), bool(before.gradients)
    )


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside DistributedDataParallel, whose gradient exchange must not be set off."""
    while isinstance(model, DistributedDataParallel):
        model = model.module
    return model


def _switch_dropout_off(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(vars(module).get("dropout"), float):  # recurrent and attention layers
            vars(module)["dropout"] = 0.0


class _Run:
    """Runs the model, and its backward for a fixed random weighting of its outputs."""

    def __init__(self, model: torch.nn.Module, example_inputs: Any, backward: bool) -> None:
        self._model = model
        self._example_inputs = example_inputs
        self._backward = backward
        self._weights: dict[str, torch.Tensor] = {}  # by output; drawn once, they cost time

    def __call__(self) -> Results:
        arguments = tree_map(_copy, self._example_inputs)
        with torch.enable_grad():
            outputs = dict(named_tensors(self._call(arguments), "output"))
        inputs = named_tensors(arguments, "the input")
        sources = {
            f"the gradient of {name}": tensor
            for name, tensor in [*self._model.named_parameters(), *inputs]
            if tensor.requires_grad
        }
        ends = {name: tensor for name, tensor in outputs.items() if tensor.requires_grad}
        gradients = {}
        if self._backward and sources and ends:
            # torch.autograd.grad, and not backward(), so that .grad and the hooks on it rest.
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

    def _call(self, arguments: Any) -> Any:
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
