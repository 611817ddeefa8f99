"""Which backend a call runs on, how to choose one, and how to ask why.

A backend is one way to run an operator:

- ``cpu``: the kernels in the compiled library ``_cpu``;
- ``triton``, ``cuda``: the GPU kernels;
- ``torch``: PyTorch's own operator (oneDNN, cuDNN, MPS, whatever it has for the device);
- ``reference``: the equations in plain PyTorch, slow, the specification.

``auto`` takes seqkern's kernels on the CPU; on a GPU, PyTorch's operator where it has one,
otherwise Triton; and the reference where none of these can run the call. Each domain decides for
its own operators and registers with `explains` a function that says what it decided.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seqkern.core.errors import SettingError
from seqkern.core.thread_setting import Choice, ThreadSetting

BACKENDS = ("cpu", "triton", "cuda", "torch", "reference")
CHOICES = ("auto", *BACKENDS)
ENVIRONMENT_VARIABLE = "SEQKERN_BACKEND"


def _unknown(name: str, source: str) -> str:
    return f"{source}: unknown backend {name!r}, choose from {', '.join(CHOICES)}"


def _default() -> str:
    name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if name not in CHOICES:
        raise SettingError(_unknown(name, ENVIRONMENT_VARIABLE))
    return name


requested = ThreadSetting(_default())


class use_backend(Choice[str]):
    """Chooses the backend of every seqkern call in this thread.

    As a function it holds until the next choice, as a context manager until the end of the block::

        seqkern.use_backend("torch")
        with seqkern.use_backend("reference"):
            ...

    Args:
        name: "auto", "cpu", "triton", "cuda", "torch" or "reference". A call that the named backend
            cannot run raises RuntimeError with the reason; only "auto" falls back to another one.

    The environment variable SEQKERN_BACKEND, read at import, gives the default for all threads.

    Raises:
        ValueError: `name` is not a backend.
    """

    def __init__(self, name: str) -> None:
        if name not in CHOICES:
            raise ValueError(_unknown(name, "use_backend"))
        super().__init__(requested, name)


@dataclass(frozen=True)
class Explanation:
    """The answer of `explain`: prints as a table.

    Attributes:
        call: what was asked about.
        backend: the backend that runs the call; "" where none can.
        reasons: for every backend why it runs or does not run the call.
    """

    call: str
    backend: str
    reasons: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.call} runs on: {self.backend or 'no backend'}"]
        for name, reason in self.reasons.items():
            mark = ">" if name == self.backend else " "
            lines.append(f"{mark} {name:<10} {reason}")
        return "\n".join(lines)


Explainer = Callable[..., Explanation]
_explainers: dict[Any, Explainer] = {}


def explains(*operations: Any) -> Callable[[Explainer], Explainer]:
    """Registers a function for `explain`, under names, functions or module classes.

    The function is called as `explainer(operation, *args, **kwargs)`.
    """

    def register(explainer: Explainer) -> Explainer:
        _explainers.update(dict.fromkeys(operations, explainer))
        return explainer

    return register


def explain(operation: Any, *args: Any, **kwargs: Any) -> Explanation:
    """Says which backend would run a call and why each other one would not. Runs nothing.

    Args:
        operation: a seqkern module, a function of `seqkern.nn.functional`, or its name, or a
            `seqkern.optim.SparseAdam`.
        args, kwargs: the arguments of the call. What counts is their device, dtype and
            requires_grad, and the state in which `explain` is called (autocast, transforms,
            `use_backend`).

    Returns:
        The backend, and for every backend why it runs the call or does not; prints as a table.

    Raises:
        TypeError: `operation` is none of these.

    >>> print(seqkern.explain(seqkern.nn.LSTM(8, 16), torch.randn(5, 2, 8)))  # doctest: +SKIP
    """
    keys = (operation,) if isinstance(operation, str) or callable(operation) else ()
    for key in (*keys, *type(operation).__mro__):
        try:
            explainer = _explainers.get(key)
        except TypeError:  # not hashable, so not one of ours
            continue
        if explainer is not None:
            return explainer(operation, *args, **kwargs)
    names = ", ".join(sorted(key for key in _explainers if isinstance(key, str)))
    shown = repr(operation) if isinstance(operation, str) else type(operation).__name__
    raise TypeError(
        f"explain: operation must be a seqkern module, a function of seqkern.nn.functional, a "
        f"seqkern.optim.SparseAdam or one of the names {names}; got {shown}"
    )
