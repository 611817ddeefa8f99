"""Which class a module gets when it is swapped, and which one it had before.

Three kinds of classes have a counterpart:

- torch.nn's own, by `SWAPS`;
- users' subclasses of these, as long as they do not override what seqkern replaces. The counterpart
  derives from theirs first and then from seqkern's, so that their methods, their `super()` and
  `isinstance` go on working;
- classes that torch derives from those two at run time: for parametrizations, for FSDP2. The same
  members are put in front of the counterpart.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable
from typing import Any

import torch

from seqkern import nn as seqkern_nn
from seqkern.swapping.forward_names import names_read

Class = type[torch.nn.Module]

SWAPS: dict[Class, Class] = {
    torch.nn.RNN: seqkern_nn.RNN,
    torch.nn.LSTM: seqkern_nn.LSTM,
    torch.nn.GRU: seqkern_nn.GRU,
    torch.nn.RNNCell: seqkern_nn.RNNCell,
    torch.nn.LSTMCell: seqkern_nn.LSTMCell,
    torch.nn.GRUCell: seqkern_nn.GRUCell,
    torch.nn.MultiheadAttention: seqkern_nn.MultiheadAttention,
    torch.nn.TransformerEncoderLayer: seqkern_nn.TransformerEncoderLayer,
    torch.nn.TransformerDecoderLayer: seqkern_nn.TransformerDecoderLayer,
    torch.nn.TransformerEncoder: seqkern_nn.TransformerEncoder,
    torch.nn.TransformerDecoder: seqkern_nn.TransformerDecoder,
    torch.nn.Transformer: seqkern_nn.Transformer,
}
"""Which class takes the place of which."""

# In a class that was made here: the class that it is the counterpart of.
_ORIGINAL = "_seqkern_original_class"

# What users may override although seqkern's classes define it or torch.nn's forward calls it: it
# has run, does not affect behaviour, or arranges memory for cuDNN.
_HARMLESS = {"__init__", "__annotate__", "__annotate_func__", "flatten_parameters"}

# These intercept all that a forward reads, and the call of the forward, which seqkern's encoder
# skips in its layers.
_IN_BETWEEN = {"__getattr__", "__getattribute__", "__call__"}


class NoCounterpart(Exception):
    """A module whose class cannot be exchanged; says why."""


def give_class(module: torch.nn.Module, cls: Class) -> None:
    """Assigns ``module.__class__`` so that what torch.compile has compiled of the module notices.

    torch 2.11 looks at a module's class again only when its attributes have changed.
    """
    module.__class__ = cls
    attributes = vars(module)
    attributes["_seqkern_class_changed"] = True
    del attributes["_seqkern_class_changed"]


def base_of(cls: type) -> Class | None:
    """The class of `SWAPS` that `cls` is or derives from."""
    return next((base for base in cls.__mro__ if base in SWAPS), None)


def counterpart(module: torch.nn.Module) -> Class | None:
    """seqkern's class for the module; None if seqkern knows none, or it has one already.

    Raises:
        NoCounterpart: the module or its class overrides what seqkern replaces, or Python cannot
            derive a class from it or give that to the module.
    """
    cls = type(module)
    base = base_of(cls)
    if base is None or issubclass(cls, SWAPS[base]):
        return None
    _check_object(module, base)
    found = _derived_counterpart(cls, module)
    if found is not SWAPS[base]:
        try:  # slots can forbid it
            module.__class__ = found
            module.__class__ = cls
        except TypeError as error:
            raise NoCounterpart(f"its class cannot be exchanged: {error}") from None
    return found


def original(cls: type) -> Class | None:
    """What `cls` is the counterpart of, also if torch has derived another class from it since;
    None if it is no counterpart."""
    for old, new in SWAPS.items():
        if cls is new:
            return old
    was = vars(cls).get(_ORIGINAL)
    if not _made_by_torch(cls):
        return was
    bases = tuple(original(parent) or parent for parent in cls.__bases__)
    if bases == cls.__bases__:
        return None
    # FSDP remembers the classes that it made. Parametrizations come and go.
    if was is not None and was.__bases__ == bases and _members(was) == _members(cls):
        return was
    return _made(cls, bases, _members(cls))


def user_counterpart(cls: Any, parameters: Iterable[str] = ()) -> Class:
    """The counterpart of a user's subclass, the same class for as long as it is in use.

    Args:
        cls: a class that derives from one of `SWAPS`.
        parameters: the names of the module's parameters, where there is a module.

    Raises:
        NoCounterpart: see `counterpart`.
    """
    base: Any = base_of(cls)
    defined = {
        name for parent in cls.__mro__ if parent not in base.__mro__ for name in vars(parent)
    }
    _refuse(
        f"a subclass of {name_of(base)} that",
        base,
        replaced=defined & {*_only_torch_reads(base, defined), *parameters, *_IN_BETWEEN},
        used=defined & _defined_by(SWAPS[base], base),
    )

    for child in type.__subclasses__(cls):
        if vars(child).get(_ORIGINAL) is cls:
            return child

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        return _reduced(super(made, self).__reduce_ex__(protocol), made, cls)

    members = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": __reduce_ex__,
        _ORIGINAL: cls,
    }
    made = _made(cls, (cls, SWAPS[base]), members)
    return made


def rebuilt(cls: Any, places: tuple[int, ...], *call: Any) -> Any:
    """Unpickles an object of `user_counterpart(cls)`: `call` is a function and its arguments, and
    the class belongs at the given positions. It becomes an object of `cls` itself if that now
    overrides what seqkern replaces."""
    try:
        made = user_counterpart(cls)
    except NoCounterpart:
        made = cls
    function, *arguments = (made if at in places else part for at, part in enumerate(call))
    return function(*arguments)


def name_of(cls: type) -> str:
    """The name by which users know a class: torch.nn.LSTM, not torch.nn.modules.rnn.LSTM."""
    for prefix, namespace in (("torch.nn", torch.nn), ("seqkern.nn", seqkern_nn)):
        if getattr(namespace, cls.__name__, None) is cls:
            return f"{prefix}.{cls.__name__}"
    if _made_by_torch(cls):
        return f"{cls.__name__} on {name_of(cls.__bases__[-1])}"
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
    return name if _ORIGINAL not in vars(cls) else f"{name} on {name_of(cls.__bases__[-1])}"


def _derived_counterpart(cls: Any, module: torch.nn.Module) -> Class:
    """The counterpart of a class that derives from one of `SWAPS`."""
    if cls in SWAPS:
        return SWAPS[cls]
    if not _made_by_torch(cls):
        return user_counterpart(cls, module._parameters)
    bases = tuple(
        parent if base_of(parent) is None else _derived_counterpart(parent, module)
        for parent in cls.__bases__
    )
    return _made(cls, bases, {**_members(cls), _ORIGINAL: cls})


def _made_by_torch(cls: type) -> bool:
    """Whether torch derived the class at run time: it is not found under its name in its module."""
    namespace = sys.modules.get(cls.__module__)
    return cls.__module__.startswith("torch.") and getattr(namespace, cls.__name__, None) is not cls


def _members(cls: type) -> dict[str, Any]:
    ignored = ("__dict__", "__weakref__", _ORIGINAL)
    return {name: value for name, value in vars(cls).items() if name not in ignored}


def _made(like: type, bases: tuple[type, ...], members: dict[str, Any]) -> Any:
    try:
        return types.new_class(like.__name__, bases, exec_body=lambda body: body.update(members))
    except Exception as error:  # whatever their metaclass or __init_subclass__ raises
        reason = f"no class can be derived from it ({type(error).__name__}: {error})"
        raise NoCounterpart(reason) from error


def _check_object(module: torch.nn.Module, base: Class) -> None:
    """Checks for what was set on this one object in place of a method, or under a name that
    seqkern's class needs."""
    own = {*vars(module), *module._parameters, *module._buffers, *module._modules}
    methods = {name for name in vars(module) if callable(getattr(base, name, None))}
    _refuse(
        "this one object",
        base,
        replaced=_only_torch_reads(base, methods) if methods else set(),
        used=own & _defined_by(SWAPS[base], base),
    )


def _defined_by(ours: type, base: type) -> set[str]:
    """What seqkern's class and its mixins define on top of torch.nn's."""
    return {
        name
        for parent in ours.__mro__
        if parent not in base.__mro__
        for name, value in vars(parent).items()
        if callable(value) or isinstance(value, property) or not name.startswith("__")
    } - _HARMLESS


def _only_torch_reads(base: Any, names: set[str]) -> set[str]:
    """Those of the names that torch.nn's forward reads or calls and seqkern's does not."""
    new: Any = SWAPS[base]
    theirs, ours = names_read(base), names_read(new)
    if theirs is None or ours is None:  # no source code, so unknown
        return {name for name in names - _HARMLESS if not name.startswith("__")}
    return names & (theirs - ours) - _HARMLESS


def _refuse(subject: str, base: Class, replaced: set[str], used: set[str]) -> None:
    """Raises if there is a name in one of the two sets."""
    replaced = replaced | {name for name in used if hasattr(base, name)}
    if replaced:
        names = ", ".join(sorted(replaced))
        raise NoCounterpart(f"{subject} overrides {names}, which seqkern replaces")
    if used:
        names = ", ".join(sorted(used))
        raise NoCounterpart(f"{subject} has {names} of its own, where seqkern needs that name")


def _reduced(reduced: Any, made: type, cls: type) -> Any:
    """What pickle and copy are told of an object: to make it by way of the user's class, because
    `made` cannot be found by its name."""
    if isinstance(reduced, str):
        return reduced
    function, arguments, *state = reduced
    call = (function, *arguments)
    places = tuple(at for at, part in enumerate(call) if part is made)
    if not places:
        return reduced
    return (rebuilt, (cls, places, *(cls if part is made else part for part in call)), *state)
