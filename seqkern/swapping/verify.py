"""Checks that a model computes the same after its modules were exchanged, and how much faster.

What agreement means is said in :mod:`seqkern.swapping.comparison`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from seqkern.core.timing import Shortest, interleave_cpu
from seqkern.swapping.comparison import Disagreement, largest_deviation, tolerance_for
from seqkern.swapping.direct_calls import attention_calls
from seqkern.swapping.example_run import Run
from seqkern.swapping.module_timing import Slower, captured_calls, outermost, slower_modules
from seqkern.swapping.repeatability import changing_parametrizations
from seqkern.swapping.snapshot import Snapshot

SECONDS_TO_TIME = 2.0
"""Roughly how long the two versions are timed against each other."""


class VerificationError(RuntimeError):
    """A swapped model raised an error or does not agree with the original; the swap has been
    undone. The message names the tensor and by how much it differs."""


@dataclasses.dataclass(frozen=True)
class Verification:
    """What a successful verification measured. Printing it gives a sentence, and a line for each
    further thing that a user should know."""

    deviation: float
    """The largest relative error of all outputs and gradients."""
    where: str
    """The tensor that has it."""
    tolerance: float
    """What would have been allowed."""
    times: Shortest
    """Of the model before (first) and after the exchange (second)."""
    backward: bool
    """Whether the backward pass took part. It does, unless nothing requires a gradient or the
    model is on a GPU in eval mode, where cuDNN's recurrent layers have none."""
    slower: tuple[Slower, ...] = ()
    """The exchanged modules that take longer than before, the worst first."""
    held: tuple[str, ...] = ()
    """Parametrized tensors that do not repeat: reading them changes them or draws random numbers.
    For the comparison they were held at one value."""

    @property
    def seconds_before(self) -> float:
        """Shortest time of the model before the exchange."""
        return self.times.first

    @property
    def seconds_after(self) -> float:
        """Shortest time after it."""
        return self.times.second

    @property
    def speedup(self) -> float:
        """Time before the exchange over time after it, processor time where the machine is busy."""
        return 1 / self.times.ratio

    def __str__(self) -> str:
        passes = "forward and backward" if self.backward else "forward only"
        lines = [
            f"verified {passes}: largest deviation {self.deviation:.1e} in {self.where} "
            f"(allowed {self.tolerance:.0e}); {self.seconds_before * 1e3:.2f} ms before, "
            f"{self.seconds_after * 1e3:.2f} ms after, {self.speedup:.2f} times as fast"
        ]
        if self.times.busy:
            lines[0] += " by processor time"
            lines.append(
                "the machine is busy with other work, so the ratio is that of the processor's time "
                f"(all threads), {self.times.first_cpu * 1e3:.2f} ms before and "
                f"{self.times.second_cpu * 1e3:.2f} ms after; it is rough, too: threads that wait "
                "for each other count"
            )
        if self.held:
            lines.append(
                f"{', '.join(self.held)}: a parametrization that does not repeat, because reading "
                "it changes it or draws random numbers, and torch.nn reads it more often than "
                "seqkern; it was held at one value for the comparison, though not for the times"
            )
        lines += map(str, self.slower)
        return "\n".join(lines)


def check_exchange(
    model: torch.nn.Module,
    example_inputs: Any,
    exchange: Callable[[], object],
    restore: Callable[[], object],
    exchanged: Mapping[str, torch.nn.Module],
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
        restore: undoes ``exchange``. Which of the two was called last is unspecified.
        exchanged: by its path each module that ``exchange`` changes.

    Returns:
        The largest deviation and the times.

    Raises:
        VerificationError: the exchanged model raised an error or does not agree.
        ValueError: the model has lazy parameters still to be initialised, or its outputs hold no
            tensor, or the original model gives NaN.
    """
    model = _unwrapped(model)
    _refuse_lazy(model)
    snapshot = Snapshot(model)
    held = changing_parametrizations(model)
    on_cuda = any(parameter.is_cuda for parameter in model.parameters())
    # cuDNN's recurrent layers, which the original may use, have no backward in eval mode.
    backward = model.training or not on_cuda
    run = Run(model, example_inputs, backward, held)
    as_it_is = Run(model, example_inputs, backward)  # to be timed with all that it computes

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
            prepare(restore)
            try:
                largest_deviation(before, run(), tolerance)
            except Disagreement as own:
                raise VerificationError(
                    "the swap was undone: the original model does not repeat, so nothing can be "
                    f"said of the swapped one; when it is run again from the same state, {own}"
                ) from None
            raise VerificationError(f"the swap was undone: {error}") from None

        turns: dict[str, Any] = {
            "prepare_first": lambda: prepare(restore),
            "prepare_second": lambda: prepare(exchange),
        }
        times = interleave_cpu(as_it_is, as_it_is, SECONDS_TO_TIME, **turns)
        prepare(restore)
        modules = {path: exchanged[path] for path in outermost(list(exchanged))}
        slower = slower_modules(
            modules,
            captured_calls(modules, lambda: run.forward(run.arguments())),
            backward=bool(before.gradients),
            prepare_before=turns["prepare_first"],
            prepare_after=turns["prepare_second"],
        )
    finally:
        snapshot.restore()
    return Verification(
        deviation, where, tolerance, times, bool(before.gradients), tuple(slower), tuple(held)
    )


def direct_attention_calls(
    model: torch.nn.Module, example_inputs: Any, ours: tuple[type[torch.nn.Module], ...]
) -> dict[str, int]:
    """How often each module of a model calls PyTorch's attention by itself, by its path; the model
    is afterwards as it was."""
    model = _unwrapped(model)
    _refuse_lazy(model)
    snapshot = Snapshot(model)
    try:
        return attention_calls(model, Run(model, example_inputs, backward=False), ours)
    finally:
        snapshot.restore()


def _refuse_lazy(model: torch.nn.Module) -> None:
    """Running the model would initialise them, which no snapshot takes back."""
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise ValueError("the model has lazy parameters; run it once before verifying a swap")


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside DistributedDataParallel, whose gradient exchange must not be triggered."""
    while isinstance(model, DistributedDataParallel):
        model = model.module
    return model


def _switch_dropout_off(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(vars(module).get("dropout"), float):  # recurrent and attention layers
            vars(module)["dropout"] = 0.0
