"""`__torch_function__` around attention: who else handles a call.

PyTorch shows a call of `torch.nn.functional.scaled_dot_product_attention` to the
TorchFunctionModes that are active, the latest first, and then to the arguments whose type overrides
`__torch_function__`. Ours shows them the same call, once, and as a call of PyTorch's own function,
whatever `torch.nn.functional` holds at the call: the dispatch tables of other libraries are keyed
by it. A handler that passes the call on, by `func(*args, **kwargs)` or `super()`, gets seqkern's
attention: while others handle it, a mode of ours is below theirs on the stack and takes PyTorch's
place.

PyTorch's function refuses the keyword arguments that only ours has. So a call with one of them is
shown as a call of seqkern's function, and none gets lost.

Nested tensors and CausalBias override `__torch_function__`, too, but seqkern knows what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_variadic

from seqkern.attention.causal_bias import is_causal_bias
from seqkern.attention.torch_backend import torch_attention

_overridden = has_torch_function_variadic
_modes = torch._C._len_torch_function_stack
PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def is_overridden(*tensors: Any) -> bool:
    """Whether a mode or the type of an argument handles a call with these arguments (what is no
    tensor does not count). Costs 0.1 us where all are plain tensors and no mode is active."""
    # In a compiled function the first checks only the tensors.
    if not _overridden(*tensors) and not _modes():
        return False
    return bool(overriding(tensors)) or _a_mode_handles()


def _a_mode_handles() -> bool:
    if _modes() != 1:
        return _modes() > 0
    # torch.set_default_device and `with device:` handle only what creates tensors.
    from torch.utils._device import DeviceContext

    return not isinstance(torch._C._get_function_stack_at(0), DeviceContext)


def overriding(tensors: Sequence[Any]) -> list[Any]:
    """Those of the tensors whose types override `__torch_function__`."""
    if not torch._C._is_torch_function_enabled():  # one of them is passing it on
        return []
    with torch._C.DisableTorchFunctionSubclass():  # which these queries must not trigger
        return [t for t in tensors if isinstance(t, Tensor) and _overrides(t)]


def _overrides(tensor: Tensor) -> bool:
    if type(tensor) in PLAIN_TYPES or tensor.is_nested or is_causal_bias(tensor):
        return False
    return type(tensor).__torch_function__ is not torch._C._disabled_torch_function_impl


class InPlaceOfTorchs(TorchFunctionMode):
    """Runs `run` where others call PyTorch's attention."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch_attention:
            return func(*args, **kwargs)
        overriders = overriding((*args, *kwargs.values()))
        if not overriders:
            return self.run(*args, **kwargs)
        classes = _in_order(overriders)
        with self:  # for when they pass it on
            for each in classes:
                result = each.__torch_function__(func, classes, args, kwargs)
                if result is not NotImplemented:
                    return result
        raise TypeError(
            "no implementation found for 'torch.nn.functional.scaled_dot_product_attention' on "
            f"types that implement __torch_function__: {list(classes)}"
        )


def _in_order(tensors: Sequence[Any]) -> tuple[Any, ...]:
    """Their types from the left to the right, but a subclass before its base."""
    classes: list[Any] = []
    for cls in map(type, tensors):
        if cls not in classes:
            bases = [place for place, other in enumerate(classes) if issubclass(cls, other)]
            classes.insert(bases[0] if bases else len(classes), cls)
    return tuple(classes)


@contextmanager
def _below_all_others(mode: TorchFunctionMode) -> Iterator[None]:
    """The mode at the bottom of the stack: it is called last."""
    push, pop = torch._C._push_on_torch_function_stack, torch._C._pop_torch_function_stack
    others = [pop() for _ in range(_modes())]
    for each in (mode, *reversed(others)):
        push(each)
    try:
        yield
    finally:
        for _ in range(len(others) + 1):
            pop()
        for each in reversed(others):
            push(each)


def dispatch(
    ours: InPlaceOfTorchs,
    function: Callable[..., Any],
    tensors: tuple[Any, Any, Any],
    options: dict[str, Any],
    extras: dict[str, Any],
) -> Any:
    """A call that `is_overridden`, given to every handler of it.

    Args:
        ours: what runs in the end.
        function: seqkern's own, for a call with extras.
        tensors: query, key and value.
        options: the other arguments of PyTorch's function, where they are not the defaults.
        extras: those that only `function` has, where they are not the defaults.
    """
    if extras:
        overriders = overriding((*tensors, *options.values(), *extras.values()))
        return handle_torch_function(function, overriders, *tensors, **options, **extras)
    if not _modes():
        return ours.__torch_function__(torch_attention, (), tensors, options)
    with _below_all_others(ours):
        return torch_attention(*tensors, **options)
