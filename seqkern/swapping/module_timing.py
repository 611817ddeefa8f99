"""How fast each exchanged module of a model is by itself, and what would make a slower one
faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map

from seqkern.core.timing import interleave_cpu
from seqkern.swapping.example_run import Call, Run

SECONDS = 2.0
"""Roughly how long all modules together are timed."""
SLOWER = 1.05
"""From which ratio on a module counts as slower."""


@dataclass(frozen=True)
class Slower:
    """A module that takes longer than before."""

    path: str
    """Where it sits in the model; the empty string is the model."""
    kind: str
    """The name of its class."""
    ratio: float
    """Its time after the exchange over its time before."""
    advice: str

    def __str__(self) -> str:
        where = f"{self.path} ({self.kind})" if self.path else f"the model ({self.kind})"
        return f"slower: {where} takes {self.ratio:.2f} times as long as before; {self.advice}"


def outermost(paths: list[str]) -> list[str]:
    """Those that are not inside another one."""
    return [
        path
        for path in paths
        if not any(path != other and (not other or path.startswith(f"{other}.")) for other in paths)
    ]


def captured_calls(
    modules: Mapping[str, torch.nn.Module], run: Callable[[], object]
) -> dict[str, Call]:
    """The arguments of the first call of each module while `run()` runs the model."""
    found: dict[str, Call] = {}
    handles = []

    def hook(path: str) -> Callable[..., None]:
        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path not in found:
                found[path] = Call(tree_map(_detached, args), tree_map(_detached, kwargs))

        return keep

    try:
        for path, module in modules.items():
            handles.append(module.register_forward_pre_hook(hook(path), with_kwargs=True))
        with torch.compiler.set_stance("force_eager"):  # compiled code must not learn of the hooks
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def slower_modules(
    modules: Mapping[str, torch.nn.Module],
    calls: Mapping[str, Call],
    *,
    backward: bool,
    prepare_before: Callable[[], object],
    prepare_after: Callable[[], object],
    interleaved: Callable[..., Any] = interleave_cpu,
) -> list[Slower]:
    """The modules that take longer after the exchange than before, each timed by itself on the
    arguments of its call: in turns, the shortest of several rounds, by processor time where the
    machine is busy."""
    found = []
    for path, call in calls.items():
        run = Run(modules[path], call, backward)

        def ratio(run: Run = run) -> float:
            times = interleaved(
                run,
                run,
                seconds=SECONDS / (2 * len(calls)),
                prepare_first=prepare_before,
                prepare_second=prepare_after,
            )
            return times.ratio

        # The machine may have been busy: a slow module is measured again before it is reported.
        least = ratio()
        if least > SLOWER:
            least = min(least, ratio())
        if least > SLOWER:
            module = modules[path]
            prepare_after()
            kind = type(module).__name__
            found.append(Slower(path, kind, least, advice(module, call, backward)))
    return sorted(found, key=lambda slower: -slower.ratio)


def advice(module: torch.nn.Module, call: Call, backward: bool) -> str:
    """What makes a slower module faster, or leaves it to PyTorch."""
    if isinstance(module, torch.nn.MultiheadAttention):
        given = call.args[4] if len(call.args) > 4 else call.kwargs.get("need_weights", True)
        if given:
            return "need_weights=False saves computing the weights, if they are not used"
    recurrent = (torch.nn.RNNBase, torch.nn.modules.rnn.RNNCellBase)
    if isinstance(module, recurrent) and not (backward and module.training):
        return "seqkern.prepack_ packs its weights once, for calls without gradients"
    return "seqkern.unswap of this module, or seqkern.use_backend('torch'), leaves it to PyTorch"


def _detached(leaf: Any) -> Any:
    """A tensor without its graph, so that the model's activations are not kept alive."""
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().requires_grad_(leaf.requires_grad)
    return leaf
