"""Replaces PyTorch's modules by seqkern's, in a model that already exists.

A swap assigns ``module.__class__``. The object stays the same one, so its parameters, buffers,
hooks, training mode, the optimizer that holds its parameters, and its aliases in the model survive,
and the model itself may be the module that is swapped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from seqkern.recurrent.prepack import unprepack_
from seqkern.swapping.class_exchange import (
    SWAPS,
    NoCounterpart,
    base_of,
    counterpart,
    give_class,
    name_of,
    original,
)
from seqkern.swapping.verify import Verification, check_exchange, direct_attention_calls

# Modules of these families that SWAPS does not name are reported as left alone.
_FAMILIES = (*SWAPS, RNNBase, RNNCellBase)
_OURS = tuple(SWAPS.values())


@dataclass(frozen=True)
class Swapped:
    """One module that changed its class."""

    path: str
    """Where it sits in the model, as ``named_modules`` calls it; the empty string is the model."""
    old: type
    new: type


@dataclass(frozen=True)
class Left:
    """One module of a family that seqkern knows, left as it was."""

    path: str
    cls: type
    reason: str


@dataclass
class SwapReport:
    """What :func:`swap` or :func:`unswap` did. Printing it shows a table.

    Attributes:
        swapped: the modules that changed their class, in the order of ``named_modules``.
        left: the recurrent and attention modules that were left alone, each with the reason.
        verification: what the verification measured, where one was asked for.
        attention_calls: with example inputs, how often a forward pass calls PyTorch's
            ``scaled_dot_product_attention`` outside of the modules that were swapped, by the path
            of the module that does; PyTorch serves these calls.
        hint: how to find out what computes attention that is no module, where nothing was swapped
            and no inputs were given.
    """

    swapped: list[Swapped] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    verification: Verification | None = None
    attention_calls: dict[str, int] | None = None
    hint: str = ""

    def __str__(self) -> str:
        if not self.swapped and not self.left:
            first = f"nothing changed: the model holds no module to swap{self.hint}"
            return "\n".join([first, *self._calls()])
        rows = [
            (entry.path or "(the model)", name_of(entry.old), f"-> {name_of(entry.new)}")
            for entry in self.swapped
        ]
        rows += [
            (entry.path or "(the model)", name_of(entry.cls), f"left: {entry.reason}")
            for entry in self.left
        ]
        width = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{len(self.swapped)} swapped, {len(self.left)} left"]
        lines += [f"  {path:<{width[0]}}  {old:<{width[1]}}  {new}" for path, old, new in rows]
        return "\n".join([*lines, *self._calls()])

    __repr__ = __str__

    def _calls(self) -> list[str]:
        """The report's lines about attention that the model calls itself."""
        if not self.attention_calls:
            return []
        calls, paths = sum(self.attention_calls.values()), list(self.attention_calls)
        named = ", ".join(path or "the model" for path in paths[:4])
        more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
        return [
            f"{calls} calls of torch.nn.functional.scaled_dot_product_attention in a forward pass "
            f"(in {named}{more}) are served by PyTorch's own operator, which swap does not "
            "replace; seqkern.nn.functional.scaled_dot_product_attention takes the same arguments"
        ]


def swap(model: torch.nn.Module, *, verify: Any = None) -> SwapReport:
    """Turn every ``torch.nn`` module that seqkern has a kernel for into seqkern's, in place.

    Instances of torch.nn's recurrent layers and cells, MultiheadAttention and Transformer classes
    change, and those of subclasses that override nothing which seqkern replaces: these get a class
    of the same name that derives from theirs and from seqkern's. What
    ``torch.nn.utils.parametrizations`` and FSDP2's ``fully_shard`` put in front of a class stays in
    front. Other subclasses are left alone and reported, with the methods that prevent it; so are
    TorchScript and quantized modules. Modules that are seqkern's already stay as they are: calling
    twice is harmless. A model wrapped by ``torch.compile`` or ``DistributedDataParallel`` is
    swapped inside its wrapper.

    Args:
        model: the model, or a single module.
        verify: example inputs: one argument, a tuple or list of positional arguments, or a dict of
            keyword arguments. With them, the model runs forward and backward before and after the
            swap, with dropout off; the largest deviation and the speed ratio are printed, which
            module is slower than before and what would help, and what serves the attention that
            the model calls by itself. Weights, gradients, buffers, attributes and random generators
            are afterwards as they were. See :mod:`seqkern.swapping.comparison` for what counts as
            agreement.

    Returns:
        A report of what was swapped and what was left and why.

    Raises:
        TypeError: ``model`` is not a ``torch.nn.Module``.
        seqkern.VerificationError: the swapped model raised an error or gave other numbers; the swap
            has been undone.
    """
    modules = _modules(model, "swap")
    report = SwapReport()
    for path, module in modules.items():
        reason = _reason_to_leave(module)
        new = None
        try:
            new = None if reason else counterpart(module)
        except NoCounterpart as error:
            reason = str(error)
        if reason is not None:
            report.left.append(Left(path, type(module), reason))
        elif new is not None:
            report.swapped.append(Swapped(path, type(module), new))

    def exchange() -> None:
        for entry in report.swapped:
            give_class(modules[entry.path], entry.new)

    def restore() -> None:
        for entry in report.swapped:
            give_class(modules[entry.path], entry.old)

    if verify is None:
        exchange()
        if not report.swapped:
            report.hint = (
                "; swap(model, verify=inputs) says whether it calls "
                "torch.nn.functional.scaled_dot_product_attention by itself, and what serves that"
            )
    elif not report.swapped:
        report.attention_calls = direct_attention_calls(model, verify, _OURS)
        print("\n".join(["nothing was swapped, so there is nothing to verify", *report._calls()]))
    else:
        try:  # whatever stops the verification, an interrupt included, leaves the model as it was
            exchanged = {entry.path: modules[entry.path] for entry in report.swapped}
            report.verification = check_exchange(model, verify, exchange, restore, exchanged)
            exchange()
            report.attention_calls = direct_attention_calls(model, verify, _OURS)
        except BaseException:
            restore()
            raise
        print("\n".join([str(report.verification), *report._calls()]))
    return report


def unswap(model: torch.nn.Module) -> SwapReport:
    """Turn every seqkern module of a model back into PyTorch's, in place.

    The inverse of :func:`swap`: a module gets the very class back that it had. Modules that were
    built as ``seqkern.nn`` modules turn too, so that the model can be pickled for a machine without
    seqkern. What :func:`seqkern.prepack_` has packed is dropped.

    Args:
        model: the model, or a single module.

    Returns:
        A report of what was turned back.

    Raises:
        TypeError: ``model`` is not a ``torch.nn.Module``.
    """
    report = SwapReport()
    modules = _modules(model, "unswap")
    unprepack_(model)
    for path, module in modules.items():
        new = original(type(module))
        if new is not None:
            report.swapped.append(Swapped(path, type(module), new))
            give_class(module, new)
    return report


def _modules(model: torch.nn.Module, caller: str) -> dict[str, torch.nn.Module]:
    """Every module of the model by its path; one that has several names appears once."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{caller}: model must be a torch.nn.Module, got {name_of(type(model))}")
    return dict(model.named_modules())


def _reason_to_leave(module: torch.nn.Module) -> str | None:
    """Why a module of a family that seqkern knows is nothing to exchange; None for all others."""
    cls = type(module)
    names = {known.__name__ for known in SWAPS}
    if isinstance(module, torch.jit.ScriptModule):
        if getattr(module, "original_name", None) in names:
            return "compiled by TorchScript; swap the model before scripting it"
        return None
    if cls.__module__.startswith("torch.ao.") and cls.__name__ in names:
        return "quantized; seqkern has no quantized kernels"
    if isinstance(module, _FAMILIES) and base_of(cls) is None:
        return "seqkern has nothing to put in its place"
    return None
