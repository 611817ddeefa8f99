"""When two runs of a model agree.

The rule of agreement: outputs and gradients (of every parameter, and of every example input that
requires one) are compared tensor by tensor, by the norm of the difference relative to the norm of
the original. A tensor much smaller than the others is measured against a hundredth of the largest
of them, because a gradient that cancels to zero is rounding noise. The largest of these errors may
be what :data:`TOLERANCE` says for the coarsest floating dtype that takes part. Infinite values (a
masked score, say) must be in the same places; NaN never agrees with anything. Integer and boolean
outputs may differ in one element of a hundred, where rounding changes a choice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from seqkern.core.dtypes import dtype_name

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
"""Largest relative error, in norm, that counts as agreement."""

_SMALL = 1e-2  # a tensor with less than this part of the largest norm is measured against the part
_INTEGER_TOLERANCE = 1e-2


class Disagreement(Exception):
    """Two runs differ; the message names the tensor and by how much."""


@dataclasses.dataclass
class Results:
    """Named tensors of one run."""

    outputs: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]


def tolerance_for(model: torch.nn.Module, example_inputs: Any, results: Results) -> float:
    """The tolerance of the coarsest dtype among parameters, inputs, outputs and autocast."""
    dtypes = {tensor.dtype for tensor in model.parameters()}
    dtypes |= {tensor.dtype for _, tensor in named_tensors(example_inputs, "")}
    dtypes |= {tensor.dtype for tensor in results.outputs.values()}
    devices = {tensor.device.type for tensor in results.outputs.values()}
    dtypes |= {
        torch.get_autocast_dtype(device) for device in devices if torch.is_autocast_enabled(device)
    }
    return max((TOLERANCE[dtype] for dtype in dtypes if dtype in TOLERANCE), default=0.0)


def largest_deviation(before: Results, after: Results, tolerance: float) -> tuple[float, str]:
    """The largest relative error and its tensor; raises Disagreement if it is too large."""
    worst, where = 0.0, next(iter(before.outputs))
    for old, new in ((before.outputs, after.outputs), (before.gradients, after.gradients)):
        _check_structure(old, new)
        largest = max((_norm(tensor) for tensor in old.values()), default=0.0)
        for name, tensor in old.items():
            error = _error(tensor, new[name], largest, name)
            if tensor.is_floating_point() or tensor.is_complex():
                if not error <= tolerance:  # a NaN fails, too
                    raise Disagreement(
                        f"{name} deviates by {error:.1e}, more than the {tolerance:.0e} allowed"
                    )
                if error > worst:
                    worst, where = error, name
            elif error > _INTEGER_TOLERANCE:
                raise Disagreement(
                    f"{name} differs in {error:.1%} of its elements, "
                    f"more than the {_INTEGER_TOLERANCE:.0%} allowed"
                )
    return worst, where


def _check_structure(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> None:
    """Raise Disagreement unless names, shapes and dtypes agree."""

    def describe(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
        return {
            name: f"{dtype_name(tensor.dtype)}{list(tensor.shape)}"
            for name, tensor in tensors.items()
        }

    was, is_now = describe(old), describe(new)
    for name in [*was, *is_now]:
        if was.get(name) != is_now.get(name):
            raise Disagreement(
                f"{name} was {was.get(name, 'absent')} and became {is_now.get(name, 'absent')}"
            )


def _norm(tensor: torch.Tensor) -> float:
    """Euclidean norm of the finite elements, in double precision; 0 for an integer tensor."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0.0
    return _in_double(tensor.masked_fill(~tensor.isfinite(), 0)).norm().item()


def _error(old: torch.Tensor, new: torch.Tensor, largest: float, name: str) -> float:
    """Relative error in norm; for an integer tensor the part of the elements that differs."""
    if not (old.is_floating_point() or old.is_complex()):
        return (old != new).double().mean().item() if old.numel() else 0.0
    if old.isnan().any():
        raise ValueError(f"{name} of the original model holds NaN; verify with other inputs")
    finite = old.isfinite()
    if not torch.equal(old[~finite], new[~finite]):
        return float("inf")
    difference = (_in_double(new[finite]) - _in_double(old[finite])).norm().item()
    scale = max(_norm(old), _SMALL * largest)
    return difference / scale if scale else (0.0 if difference == 0 else float("inf"))


def _in_double(tensor: torch.Tensor) -> torch.Tensor:
    """In double precision on the CPU; not every accelerator has double precision."""
    return tensor.cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)


def named_tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor inside nested tuples, lists, mappings and dataclasses, with its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, tuple) and hasattr(value, "_fields"):  # named, as PackedSequence is
        for key, item in zip(value._fields, value, strict=True):
            yield from named_tensors(item, f"{name}.{key}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from named_tensors(item, f"{name}[{index}]")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}[{key!r}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from named_tensors(getattr(value, entry.name), f"{name}.{entry.name}")
