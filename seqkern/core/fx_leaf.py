"""Modules that `torch.fx` does not trace into.

A tracer of torch.fx (`symbolic_trace`, FX quantization, feature extraction) takes the modules of
torch.nn for leaves of its graph, by the name of the Python module that their class is from. It
would trace ours, whose code depends on shapes and types and cannot be traced. So their `forward`,
where it is given a Proxy, records the call in the graph.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx.proxy import Proxy, TraceError

Forward = TypeVar("Forward", bound=Callable[..., Any])

_PLAIN = frozenset({Tensor, type(None), bool})  # the type of most arguments


def leaf(forward: Forward) -> Forward:
    """Makes modules with this `forward` leaves. It costs a call half a microsecond, which is for
    modules that are made of others."""

    @functools.wraps(forward)
    def recorded_or_run(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not all(type(value) in _PLAIN for value in (*args, *kwargs.values())):
            node = record_call(self, args, kwargs)
            if node is not None:
                return node
        return forward(self, *args, **kwargs)

    return recorded_or_run  # type: ignore[return-value]


def record_call(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> Any:
    """The Proxy of a call of the module, now in the tracer's graph; None if no argument is a Proxy.

    Where `leaf` would take too long, a `forward` begins with it, if its arguments are not all of
    them plain tensors. Options that have their default values are left out of the graph.

    Raises:
        TraceError: the module is not inside the model that is traced, or has hooks: they have run
            already, and would run again whenever the graph does.
    """
    kwargs = kwargs or {}
    proxy = next(_proxies((args, kwargs)), None)
    if proxy is None:
        return None
    name = type(module).__name__
    tracer: Any = proxy.tracer
    path = tracer.path_of_module(module) if hasattr(tracer, "path_of_module") else ""
    if not path:
        raise TraceError(f"{name} is a leaf of torch.fx: trace a module that contains it")
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
    if any(hooks):
        kind = "backward" if module._backward_hooks else "forward"
        raise TraceError(
            f"{path} ({name}) has {kind} hooks, which would run now and again when the graph does: "
            f"trace with a Tracer whose is_leaf_module is True for {name}, or remove the hooks"
        )
    default = inspect.signature(module.forward).parameters
    options = {name: value for name, value in kwargs.items() if value is not default[name].default}
    return tracer.create_proxy("call_module", path, args, options)


def _proxies(nested: Any) -> Iterator[Proxy]:
    if isinstance(nested, Proxy):
        yield nested
    elif isinstance(nested, (tuple, list)):
        for item in nested:
            yield from _proxies(item)
    elif isinstance(nested, dict):
        yield from _proxies(tuple(nested.values()))
