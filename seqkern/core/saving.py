"""Nothing may change what an autograd.Function saves: in place on a result, or under a compiler.

PyTorch notices, by a tensor's version, when what a backward pass needs has been changed, and
raises. Two cases go beyond that here. PyTorch's unfused layers return copies of what they save, so
a program may change a result in place; `kept` allows the same without an unneeded copy. And Dynamo,
which traces into an autograd.Function, drops the version check, so gradients would be silently
wrong; `traced` hides the Function behind an operator, where autograd itself runs it while the graph
is traced, with its check.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqkern._version import __version__

_library = torch.library.Library("seqkern", "FRAGMENT")
_lazy_clone: Callable[[Tensor], Tensor] = getattr(torch, "_lazy_clone", torch.clone)


def kept(result: Tensor) -> Tensor:
    """A result of a Function's forward, as the forward may save it and its caller may change it.

    On the CPU it shares its memory with the result until one of the two is written. Traced by a
    compiler it is a copy, which the compiler removes where neither is written. On a GPU it is the
    result itself, and changing that raises in the backward pass, as with PyTorch's own (cuDNN's
    layers, flash attention): memory that is shared in this way would ignore `record_stream`.
    """
    if type(result) is not Tensor:  # a compiler's fake tensor
        return result.clone()
    return _lazy_clone(result) if result.is_cpu else result


def copy_of(mask: Tensor) -> Tensor:
    """A mask that PyTorch's operators do not save, so that its caller may change it: what is
    broadcast stays so. Not a twin like `kept`: its memory may be a NumPy array's, too. A compiler
    gets the mask itself, and raises where it is changed."""
    if type(mask) is not Tensor:
        return mask
    repeated = [stride == 0 for stride in mask.stride()]
    if not any(repeated):
        return mask.clone()
    once = mask[tuple(slice(1) if again else slice(None) for again in repeated)]
    return once.clone().expand(mask.shape)


class Unchecked:
    """Inputs whose values only a second derivative needs: biases, which PyTorch does not save
    either. `save_for_backward` would refuse the first derivative, too, when one has changed."""

    __slots__ = ("as_they_are", "_versions")

    def __init__(self, *tensors: Tensor | None) -> None:
        self.as_they_are = tensors
        try:
            self._versions = [None if t is None else t._version for t in tensors]
        except RuntimeError:  # inference tensors have no version
            self._versions = [_version(t) for t in tensors]

    def unchanged(self) -> tuple[Tensor | None, ...]:
        """The tensors; raises RuntimeError if one has changed."""
        for tensor, version in zip(self.as_they_are, self._versions, strict=True):
            if tensor is not None and _version(tensor) != version:
                raise RuntimeError(
                    "one of the variables needed for a second derivative has been modified by an "
                    f"inplace operation: an input of shape {list(tensor.shape)} is at version "
                    f"{_version(tensor)}; expected version {version} instead"
                )
        return self.as_they_are


def _version(tensor: Tensor | None) -> int | None:
    return None if tensor is None or tensor.is_inference() else tensor._version


def direct(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """`function.apply` for calls under no function transform and no compiler: its check in Python
    for transforms takes as long as a small step."""
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


def _fingerprint(function: type) -> str:
    module = sys.modules[function.__module__]
    try:
        text = inspect.getsource(module)
    except OSError:  # installed without sources
        text = __version__
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def traced(function: type[torch.autograd.Function], schema: str | None = None) -> Any:
    """The operator that applies a Function, for calls that `torch.compiler.is_compiling`.

    A compiled graph holds what the Function itself calls, forward and backward: the operator is
    gone when autograd has been traced.

    Args:
        function: its forward's arguments after ctx and its results are annotated.
        schema: arguments and results, for what annotations cannot say: a list of tensors, which
            `function` takes as its last arguments.

    Returns:
        A function that calls the operator `seqkern::NAME_autograd_FINGERPRINT`, with positional
        arguments only. The fingerprint is that of the module's text: PyTorch keeps compiled graphs
        on disk under the names of the operators in them, and would run a graph of another version
        of seqkern. `torch.export` gets `seqkern::NAME_autograd`, the same by a name that stays:
        its programs are files, which later versions load.
    """
    name = f"{function.__name__.lstrip('_').lower()}_autograd"
    if schema is None:
        signature = inspect.signature(function.forward)
        arguments = list(signature.parameters.values())[1:]

        def prototype(*_: Any) -> None:
            raise NotImplementedError

        prototype.__signature__ = signature.replace(parameters=arguments)  # type: ignore
        schema = torch.library.infer_schema(prototype, mutates_args=())

    def apply(*arguments: Any) -> Any:
        if isinstance(arguments[-1], list):
            return list(function.apply(*arguments[:-1], *arguments[-1]))
        return function.apply(*arguments)

    def defined(name: str) -> Any:
        _library.define(name + schema)
        _library.impl(name, apply, "CompositeImplicitAutograd")
        return getattr(torch.ops.seqkern, name).default

    of_this_text, lasting = defined(f"{name}_{_fingerprint(function)}"), defined(name)

    def call(*arguments: Any) -> Any:
        return (lasting if torch.compiler.is_exporting() else of_this_text)(*arguments)

    return call
