"""A call for every configuration in which the Triton kernels of attention ship."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from seqkern.attention.triton_backward import backward
from seqkern.attention.triton_forward import forward

# The tables give widths up to 64 the same tiles, and float16 those of bfloat16.
EVERY_OPTION = [
    (width, dtype) for dtype in (torch.bfloat16, torch.float32) for width in (64, 128, 256)
]
CAUSAL_ONLY = [(16, torch.bfloat16), (32, torch.bfloat16), (64, torch.float16)]


# Bytes a thread may spill. Wide heads of float32 that is multiplied exactly do not fit, see
# triton_settings, nor do all options at once with the widest heads; they are there to be right.
MAY_SPILL = {"128 float32": 1024, "256 float32": 2048, "256 bfloat16 everything": 512}


def tensors(width: int, dtype: torch.dtype, queries: int, keys: int) -> list[Tensor]:
    """query, key, value."""
    shapes = ((2, 4, queries, width), (2, 2, keys, width), (2, 2, keys, width))
    return [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]


def extras(dtype: torch.dtype, queries: int, keys: int) -> dict[str, Any]:
    """Everything that a call can have."""

    def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    return {
        "mask": meta(2, 1, queries, keys, dtype=torch.bool),
        "bias": meta(1, 4, queries, keys, dtype=dtype),
        "alibi_slopes": meta(4),
        "sinks": meta(4),
        "seed": meta(dtype=torch.int64),
        "softcap": 5.0,
        "dropout_p": 0.1,
        "is_causal": True,
        "window": (100, 20),
    }


def forwards(width: int, dtype: torch.dtype, queries: int = 1024, **options: Any) -> None:
    query, key, value = tensors(width, dtype, queries, 1024)
    found = _arguments(options)
    forward(query, key, value, *found[:3], options.get("sinks"), *found[3:])


def backwards(width: int, dtype: torch.dtype, needs: int = 7, **options: Any) -> None:
    query, key, value = tensors(width, dtype, 1024, 1024)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    backward(query, None, query, key, value, query, lse, *_arguments(options), needs)


def _arguments(options: dict[str, Any]) -> list[Any]:
    names = ("mask", "bias", "alibi_slopes", "cu_seqlens_q", "cu_seqlens_k", "seed")
    return [
        *(options.get(name) for name in names),
        0.1,
        options.get("softcap", 0.0),
        options.get("dropout_p", 0.0),
        options.get("is_causal", False),
        *options.get("window", (-1, -1)),
    ]


def calls() -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {}

    def add(what: str, width: int, dtype: torch.dtype, **options: Any) -> None:
        at = f"{width} {str(dtype).removeprefix('torch.')} {what}"
        found[f"forward {at}"] = partial(forwards, width, dtype, **options)
        needs = 31 if what == "everything" else 7
        found[f"backward {at}"] = partial(backwards, width, dtype, needs, **options)
        if what == "everything":
            options = extras(dtype, 1, 1024)
        found[f"decode {at}"] = partial(forwards, width, dtype, 1, **options)

    for width, dtype in EVERY_OPTION:
        add("causal", width, dtype, is_causal=True)
        add("everything", width, dtype, **extras(dtype, 1024, 1024))
    for width, dtype in CAUSAL_ONLY:
        add("causal", width, dtype, is_causal=True)
    return found
