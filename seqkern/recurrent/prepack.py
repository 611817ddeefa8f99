"""Packing the recurrent weights once, for serving.

Every call of a layer first brings its recurrent weights into the order in which the kernel reads
them. That is a small part of a long sequence and a large part of a single step. `prepack_` does it
once and keeps the result.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seqkern.core import library
from seqkern.core.dispatch import ACCEPTED_DTYPES

Module = TypeVar("Module", bound=nn.Module)


class Prepackable:
    """What a recurrent module adds to be prepacked. The packed weights are no part of the
    state_dict; moving, casting, loading, copying and pickling the module drop them."""

    # Each weight that was packed, and what it was packed into. A class attribute, so that a module
    # made from torch's by assigning __class__ has it too.
    _packed_weights: list[tuple[Tensor, Tensor]] | None = None

    def _recurrent_weights(self) -> list[tuple[Tensor, int]]:
        """Each w_hh with its number of gates, in the order of the layers and directions."""
        raise NotImplementedError

    def _packed_for(self, weights: Sequence[Tensor]) -> list[Tensor | None] | None:
        """For each w_hh of a call what it was packed into, None where another tensor has taken
        the place of the one that was packed (`torch.func.functional_call`, a new Parameter)."""
        if self._packed_weights is None:
            return None
        return [
            packed if weight is source else None
            for weight, (source, packed) in zip(weights, self._packed_weights, strict=True)
        ]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.pop("_packed_weights", None)
        return super()._apply(*args, **kwargs)  # type: ignore[misc]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.pop("_packed_weights", None)
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]

    def __getstate__(self) -> dict[str, Any]:
        # Python 3.10 has no object.__getstate__.
        inherited = getattr(super(), "__getstate__", None)
        state = dict(self.__dict__ if inherited is None else inherited())
        state.pop("_packed_weights", None)
        return state


def prepack_(module: Module) -> Module:
    """Packs the recurrent weights of every seqkern layer and cell in `module`, in place.

    From then on they run faster, without gradients: call the module under `torch.no_grad()` or
    `torch.inference_mode()`; a call that would need gradients raises RuntimeError. The packed
    weights are a copy. Changing a weight in place afterwards (an optimizer's step, `p.data.add_`)
    is NOT seen until `prepack_` is called again. `load_state_dict`, `.to()` and their like drop the
    copy, so that the module is as before `prepack_`; so do deepcopy and pickle for their result. A
    weight that is another tensor than the one packed (a new Parameter, a parametrization,
    `torch.func.functional_call`) is used as it is, as if its layer were not prepacked.

    Args:
        module: a model with at least one seqkern recurrent layer or cell, on the CPU.

    Returns:
        `module`.

    Raises:
        ValueError: there is nothing to prepack in `module`.
        RuntimeError: the CPU kernels are missing or cannot run a layer's device or dtype.
    """
    found = _prepackable(module)
    if not found:
        raise ValueError(
            f"prepack_: {type(module).__name__} contains no recurrent layer or cell of seqkern.nn; "
            "use seqkern.swap first"
        )
    library.require_cpu()
    weights = {name: layer._recurrent_weights() for name, layer in found.items()}
    for name, pairs in weights.items():
        for w_hh, _ in pairs:
            if not w_hh.is_cpu or w_hh.dtype not in ACCEPTED_DTYPES:
                raise RuntimeError(
                    f"prepack_: {name or 'the module'} has {w_hh.dtype} weights on {w_hh.device}; "
                    "the kernels run float32, float64, bfloat16 and float16 on the CPU"
                )
    for name, layer in found.items():
        layer._packed_weights = [(w_hh, _pack(w_hh, gates)) for w_hh, gates in weights[name]]
    return module


def unprepack_(module: Module) -> Module:
    """Undoes `prepack_` in place: drops the packed weights; `module` computes gradients again.

    Args:
        module: any module; those in it that are not prepacked stay as they are.

    Returns:
        `module`.
    """
    for layer in _prepackable(module).values():
        layer.__dict__.pop("_packed_weights", None)
    return module


def freeze_(module: Module) -> Module:
    """Deprecated: the former name of `prepack_`.

    Args:
        module: as in `prepack_`.

    Returns:
        `module`.

    Raises:
        ValueError, RuntimeError: as `prepack_`.
    """
    _warn_of_renaming("freeze_", "prepack_")
    return prepack_(module)


def unfreeze_(module: Module) -> Module:
    """Deprecated: the former name of `unprepack_`.

    Args:
        module: as in `unprepack_`.

    Returns:
        `module`.
    """
    _warn_of_renaming("unfreeze_", "unprepack_")
    return unprepack_(module)


def _warn_of_renaming(old: str, new: str) -> None:
    warnings.warn(
        f"seqkern.{old} is deprecated: use seqkern.{new}", DeprecationWarning, stacklevel=3
    )


def _prepackable(module: nn.Module) -> dict[str, Prepackable]:
    return {name: m for name, m in module.named_modules() if isinstance(m, Prepackable)}


def _pack(w_hh: Tensor, gates: int) -> Tensor:
    w_hh = w_hh.detach()
    if w_hh.dtype == torch.float16:  # runs through float32
        w_hh = w_hh.float()
    return torch.ops.seqkern.recurrent_pack.default(w_hh, gates)
