"""A call for every configuration in which the Triton kernels of attention ship.

A row of the tables in `settings` is a width of head (64, 128, 256), how numbers are
multiplied, and whether the tile is crowded. For each: the plain call, the causal one, and
everything at once; then each option alone, where it compiles to something of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from seqkern.attention.triton.backward import backward
from seqkern.attention.triton.forward import forward
from seqkern.core.triton import tuning

# float16 has the tiles of bfloat16; "tf32" is float32 where torch allows TF32.
PRECISIONS = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "tf32": torch.float32,
}
LENGTH = 1024
ODD = LENGTH + 1  # rows of so many elements start at addresses of which nothing is known
FEW = 8  # queries whose backward sums its rows anew, in 16 bits
HEADS, KEY_HEADS = 4, 2


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _bias(*shape: int) -> Callable[[torch.dtype], Tensor]:
    return lambda dtype: _meta(*shape, dtype=dtype)


def _odd_bias(dtype: torch.dtype) -> Tensor:
    return _meta(1, HEADS, LENGTH, ODD, dtype=dtype)[..., :LENGTH]


def extras(dtype: torch.dtype, queries: int, keys: int) -> dict[str, Any]:
    """Everything that a call can have."""
    return {
        "mask": _meta(2, 1, queries, keys, dtype=torch.bool),
        "bias": _meta(1, HEADS, queries, keys, dtype=dtype),
        "alibi_slopes": _meta(HEADS),
        "sinks": _meta(HEADS),
        "seed": _meta(dtype=torch.int64),
        "softcap": 5.0,
        "dropout_p": 0.1,
        "is_causal": True,
        "window": (100, 20),
    }


# Options alone: what they are, and which gradients they add to those of query, key and value
# (8: of the bias, 16: of the slopes).
ALONE: dict[str, tuple[dict[str, Any], int]] = {
    "window": ({"window": (100, 20)}, 0),
    "padding": ({"mask": _meta(2, 1, 1, LENGTH, dtype=torch.bool)}, 0),
    "padding of each head": ({"mask": _meta(2, HEADS, 1, LENGTH, dtype=torch.bool)}, 0),
    "dense mask": ({"mask": _meta(2, 1, LENGTH, LENGTH, dtype=torch.bool)}, 0),
    "mask of odd rows": ({"mask": _meta(2, 1, LENGTH, ODD, dtype=torch.bool)[..., :LENGTH]}, 0),
    "bias": ({"bias": _bias(2, HEADS, LENGTH, LENGTH)}, 8),
    "bias of odd rows": ({"bias": _odd_bias}, 8),
    "shared bias": ({"bias": _bias(1, HEADS, LENGTH, LENGTH)}, 8),
    "bias of keys": ({"bias": _bias(1, 1, 1, LENGTH)}, 8),
    "bias of queries": ({"bias": _bias(1, 1, LENGTH, 1)}, 8),
    "slopes": ({"alibi_slopes": _meta(HEADS)}, 16),
    "softcap": ({"softcap": 5.0}, 0),
    "sinks": ({"sinks": _meta(HEADS)}, 0),
    "dropout": ({"seed": _meta(dtype=torch.int64), "dropout_p": 0.1}, 0),
}
# Each of these at the width that models have most, and without decoding at some others; all at once
# stand for them at the rest.
ALONE_AT = [(64, "bfloat16")]
ALSO_ALONE_AT = [(128, "bfloat16"), (256, "bfloat16"), (64, "float32")]
# Widths that are padded, of key and value.
OTHER_WIDTHS = [(16, 16), (40, 40), (80, 80), (96, 96), (192, 128), (64, 24)]
MOST_ALTERNATIVES = 2  # to a kernel's fixed tiles, see `settings`
GROUPS = (1, 4, 8, 64)  # heads of query that share one of key, in decoding


def tensors(width: int, dtype: torch.dtype, queries: int, keys: int) -> list[Tensor]:
    """query, key, value."""
    return _tensors(width, width, dtype, queries, keys, HEADS)


def _tensors(
    width: int, value_width: int, dtype: torch.dtype, queries: int, keys: int, heads: int
) -> list[Tensor]:
    shapes = (
        (2, heads, queries, width),
        (2, KEY_HEADS, keys, width),
        (2, KEY_HEADS, keys, value_width),
    )
    return [_meta(*shape, dtype=dtype) for shape in shapes]


def forwards(width: int, dtype: torch.dtype, queries: int = LENGTH, **options: Any) -> None:
    _forward(tensors(width, dtype, queries, LENGTH), options)


def backwards(width: int, dtype: torch.dtype, needs: int = 7, **options: Any) -> None:
    _backward(tensors(width, dtype, LENGTH, LENGTH), needs, options)


def _forward(given: list[Tensor], options: dict[str, Any]) -> None:
    forward(*given, *_arguments(options, given[0].dtype))


def _backward(given: list[Tensor], needs: int, options: dict[str, Any]) -> None:
    query, _, value = given
    output = query.new_empty((*query.shape[:-1], value.shape[-1]))
    lse = query.new_empty(
        (query.shape[1], query.shape[0]) if query.dim() == 3 else query.shape[:3],
        dtype=torch.float32,
    )
    backward(output, None, *given, output, lse, *_arguments(options, query.dtype), needs)


def _arguments(options: dict[str, Any], dtype: torch.dtype) -> list[Any]:
    names = ("mask", "bias", "alibi_slopes", "sinks", "cu_seqlens_q", "cu_seqlens_k", "seed")
    given = (options.get(name) for name in names)
    return [
        *(t(dtype) if callable(t) and not isinstance(t, Tensor) else t for t in given),
        0.1,
        options.get("softcap", 0.0),
        options.get("dropout_p", 0.0),
        options.get("is_causal", False),
        *options.get("window", (-1, -1)),
    ]


def _for_queries(count: int, options: dict[str, Any]) -> dict[str, Any]:
    """The same options of a call of so many queries."""

    def cut(t: Any) -> Any:
        if isinstance(t, Tensor) and t.dim() == 4:
            return t[:, :, :count]
        if callable(t) and not isinstance(t, Tensor):
            return lambda dtype: t(dtype)[:, :, :count]
        return t

    return {name: cut(t) for name, t in options.items()}


def _of_one_head(width: int, dtype: torch.dtype) -> None:
    """A key and a value for all heads, expanded, which no tensor descriptor describes."""
    query, key, value = tensors(width, dtype, LENGTH, LENGTH)
    _forward([query, *(t[:, :1].expand(-1, KEY_HEADS, -1, -1) for t in (key, value))], {})


def _packed(width: int, dtype: torch.dtype, decodes: bool, **options: Any) -> tuple[Any, ...]:
    starts = torch.tensor([0, 300, 300, 1000])
    of_queries = torch.tensor([0, 1, 2, 3]) if decodes else starts
    query = _meta(int(of_queries[-1]), HEADS, width, dtype=dtype)
    key, value = (_meta(1000, KEY_HEADS, width, dtype=dtype) for _ in range(2))
    return [query, key, value], {"cu_seqlens_q": of_queries, "cu_seqlens_k": starts, **options}


def _all() -> Iterator[tuple[str, str, Callable[[], object]]]:
    """(name, precision, call)."""

    def both(
        what: str, at: str, shape: tuple[int, int], options: dict[str, Any], more: int = 0
    ) -> Iterator[tuple[str, str, Callable[[], object]]]:
        dtype = PRECISIONS[at]
        given = partial(_tensors, *shape, dtype)
        width = shape[0] if shape[0] == shape[1] else f"{shape[0]}, {shape[1]}"
        name = f"{width} {at} {what}"
        yield f"forward {name}", at, lambda: _forward(given(LENGTH, LENGTH, HEADS), options)
        yield (
            f"backward {name}",
            at,
            lambda: _backward(given(LENGTH, LENGTH, HEADS), 7 | more, options),
        )
        one = _for_queries(1, options)
        yield f"decode {name}", at, lambda: _forward(given(1, LENGTH, HEADS), one)
        if dtype.itemsize == 2:
            few = _for_queries(FEW, options)
            yield (
                f"backward {name}, few queries",
                at,
                lambda: _backward(given(FEW, LENGTH, HEADS), 7 | more, few),
            )

    def packed(width: int, at: str) -> Iterator[tuple[str, str, Callable[[], object]]]:
        given, options = _packed(width, PRECISIONS[at], False, is_causal=True)
        yield f"forward {width} {at} packed", at, partial(_forward, given, options)
        yield f"backward {width} {at} packed", at, partial(_backward, given, 7, options)
        one_head = partial(_of_one_head, width, PRECISIONS[at])
        yield f"forward {width} {at} expanded keys", at, one_head

    for width in (64, 128, 256):
        for at, dtype in PRECISIONS.items():
            if at == "float16" and width > 64:
                continue
            if at == "bfloat16":  # the plain forward of 16 bits loads by tensor descriptors
                yield from both("plain", at, (width, width), {})
            yield from both("causal", at, (width, width), {"is_causal": True})
            if at != "float16":
                everything = extras(dtype, LENGTH, LENGTH)
                yield from both("everything", at, (width, width), everything, 24)
    for width, at in ALONE_AT:
        for what, (options, more) in ALONE.items():
            yield from both(what, at, (width, width), options, more)
            if more:
                dtype = PRECISIONS[at]
                only = partial(backwards, width, dtype, more, **options)
                yield f"backward {width} {at} {what}, its gradient only", at, only
        yield from packed(width, at)
        given, options = _packed(width, PRECISIONS[at], True, is_causal=True)
        yield f"decode {width} {at} packed", at, partial(_forward, given, options)
    for shape in OTHER_WIDTHS:
        yield from both("causal", "bfloat16", shape, {"is_causal": True})
    for group in GROUPS:
        shared = _tensors(128, 128, torch.bfloat16, 1, LENGTH, KEY_HEADS * group)
        yield f"decode 128 bfloat16 group of {group}", "bfloat16", partial(_forward, shared, {})
    for number in range(1, 1 + MOST_ALTERNATIVES):
        for width in (64, 128):
            for what, options in (("plain", {}), ("causal", {"is_causal": True})):
                for name, at, call in both(what, "bfloat16", (width, width), options):
                    if not name.startswith("decode") and not name.endswith("few queries"):
                        yield f"{name}, alternative {number}", at, partial(_tuned, number, call)
    for width, at in ALSO_ALONE_AT:
        for what, (options, more) in ALONE.items():
            for name, precision, call in both(what, at, (width, width), options, more):
                if not name.startswith("decode"):
                    yield name, precision, call
        yield from packed(width, at)


def _tuned(number: int, call: Callable[[], object]) -> object:
    """Calls as if tuning had found this candidate, or the last one, to be the fastest."""

    def choose(kernel: str, candidates: tuple[Any, ...], *_: Any, **__: Any) -> Any:
        return candidates[min(number, len(candidates) - 1)]

    with mock.patch.object(tuning, "choose", choose), tuning.tune():
        return call()


def calls() -> dict[str, Callable[[], object]]:
    return {name: partial(_multiplying, at, call) for name, at, call in _all()}


def _multiplying(precision: str, call: Callable[[], object]) -> object:
    """Calls with TF32 allowed or not."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        return call()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
