"""What the Triton kernels of attention are handed: tensors as pointers with strides, and numbers.

A kernel takes NamedTuples of these; what a call does not have is None, and compiles to nothing.
Strides count elements and are 0 where a tensor of one row, head, ... serves all. What changes from
call to call (lengths, windows, dropout) comes in `Operands.numbers` and `Operands.lines`, as plain
integers, because Triton compiles anew where a number in a tuple becomes 1 or divisible by 16; the
kernel makes tuples of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqkern.attention.choice import TRITON_WIDEST

LOG2_E = math.log2(math.e)
# Offsets inside a tile are 32-bit numbers (the start of a tile is a 64-bit one), as are positions.
_LONGEST_STRIDE = 2**23
# Features that a thread loads at once, and the bytes at multiples of which they have to start.
_GROUP = 8
ALIGNED = 16
_MOST_POSITIONS = 2**30
_MOST_PROGRAMS = 2**31 - 1


class Rows(NamedTuple):
    """(B, H, rows, width), or packed (rows of all sequences, H, width).

    The width is contiguous and a multiple of 8, or of 16, as are the strides, and `at` is one of 16
    bytes, so that a thread loads 8 features by one address. Where every feature has an address of
    its own these take up to 1300 bytes more than a thread has registers for.
    """

    at: Any
    batch: int
    head: int
    row: int


class Lines(NamedTuple):
    """(B, H, rows), or packed (H, rows of all sequences): lse, delta."""

    at: Any
    batch: int
    head: int


class Pairs(NamedTuple):
    """(B, H, N, M) of a mask or a bias, each stride 0 where the dimension is 1.

    Attributes:
        row: None, not 0, where all queries share one row, as they do with masks of padding.
    """

    at: Any
    batch: int
    head: int
    row: int | None
    column: int


class Numbers(NamedTuple):
    """(B, H): slopes; (H,): sinks, and slopes of all sequences, with batch 0."""

    at: Any
    batch: int


class Scores(NamedTuple):
    """From q . k to the logit in units of log 2.

    Attributes:
        scale: times log2(e); with a softcap the scale over the softcap.
        cap: the softcap times log2(e), or None.
    """

    mask: Pairs | None
    bias: Pairs | None
    slopes: Numbers | None
    scale: float
    cap: float | None


class Window(NamedTuple):
    """How far a query sees to the left and to the right of its place; None: all the way."""

    left: int | None
    right: int | None


class Place(NamedTuple):
    """Which sequence and head a kernel's program works on, and what a query may see there.

    Attributes:
        b, h, kv: the indices of the sequence, the head of query and that of key. The head may be
            one for each row of the program's tile, (rows, 1), and so may bh.
        bh: b * heads + h, for the random numbers of dropout.
        first_q, first_k: the rows in memory where the sequence starts.
        queries, keys: how many the sequence has.
        low, high: see `tiles.limits`.
        window: says which of low and high are limits.
    """

    b: Any
    h: Any
    kv: Any
    bh: Any
    first_q: Any
    first_k: Any
    queries: Any
    keys: Any
    low: Any
    high: Any
    window: Window


class Dropout(NamedTuple):
    """The seed (the host's: a pointer to it, which a CUDA graph may write anew before each replay),
    the threshold below which a random word drops, as signed 32 bits, and what the weights that are
    kept are multiplied by."""

    seed: Any
    threshold: int
    factor: float


class Packed(NamedTuple):
    """Where each sequence starts, (S + 1,) int32 on the device."""

    queries: Any
    keys: Any


class Sizes(NamedTuple):
    """Of one sequence, or of the longest one."""

    queries: int
    keys: int
    heads: int
    group: int  # heads of query that share one of key


@dataclass(frozen=True)
class Operands:
    """One call, ready to be launched. `made` keeps copies alive for it."""

    query: Rows
    key: Rows
    value: Rows
    scores: Scores
    window: Window
    dropout: Dropout | None
    packed: Packed | None
    sizes: Sizes
    batch: int
    lengths: tuple[Tensor, Tensor] | None  # of packed sequences: queries and keys, on the host
    rows: int  # of lse in memory for each head: N, or all sequences'
    is_causal: bool
    folded: bool  # scores are q . k times a positive factor and nothing else
    crowded: bool  # what a score passes through takes registers
    width: int
    value_width: int
    made: tuple[Any, ...]

    @property
    def numbers(self) -> tuple[Any, ...]:
        """Sizes, Window and Dropout, one by one."""
        return (*self.sizes, *self.window, *(self.dropout or (None,) * 3))

    @property
    def lines(self) -> tuple[int, int]:
        """Strides of batch and head in lse and what is laid out like it, all contiguous."""
        return (self.sizes.heads * self.rows if self.packed is None else 0, self.rows)


def operands(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    alibi_slopes: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seed: Tensor | None,
    scale: float,
    softcap: float,
    dropout_p: float,
    is_causal: bool,
    window_left: int,
    window_right: int,
) -> Operands:
    """Brings the arguments of the operator `attention_forward` into form.

    Raises:
        RuntimeError: they do not fit together, or are more than the kernels can count.
    """
    packed = _packed(query, key, cu_seqlens_q, cu_seqlens_k)
    dims = 4 if packed is None else 3
    for name, t in (("query", query), ("key", key), ("value", value)):
        _check(t.dim() == dims, f"{name} must have {dims} dimensions, got {list(t.shape)}")
        _check(t.dtype == query.dtype, f"{name} must have query's dtype {query.dtype}: {t.dtype}")
        _check(t.device == query.device, f"{name} must be on {query.device}, got {t.device}")
        _check(
            0 < t.shape[-1] <= TRITON_WIDEST,
            f"{name} must have 1 to {TRITON_WIDEST} features: {t.shape[-1]}",
        )
    heads, kv_heads = query.shape[1], key.shape[1]
    _check(
        heads % kv_heads == 0 if kv_heads else heads == 0,
        f"the heads of key must divide those of query, got {kv_heads} and {heads}",
    )
    keys_shape = (*key.shape[:-1], query.shape[-1])
    _check(
        tuple(key.shape) == keys_shape
        and value.shape[:-1] == key.shape[:-1]
        and (packed is not None or query.shape[0] == key.shape[0]),
        f"query, key and value do not fit together: {list(query.shape)}, {list(key.shape)}, "
        f"{list(value.shape)}",
    )
    if packed is None:
        batch, queries, keys = query.shape[0], query.shape[2], key.shape[2]
        starts, lengths, rows = None, None, queries
    else:
        starts, lengths = packed
        batch = lengths[0].numel()
        queries, keys = (int(n.max()) if batch else 0 for n in lengths)
        rows = query.shape[0]
        _check(mask is None and bias is None, "packed sequences take neither mask nor bias")
    _check(max(queries, keys) < _MOST_POSITIONS, f"at most {_MOST_POSITIONS} queries and keys")
    full = (batch, heads, queries, keys)
    tensors = [_with_rows(t) for t in (query, key, value)]
    excluded, added = _pairs("mask", mask, full), _pairs("bias", bias, full)
    slopes = _numbers("alibi_slopes", alibi_slopes, batch, heads)
    factor = scale * LOG2_E
    scores = Scores(
        excluded,
        added,
        slopes,
        scale / softcap if softcap else factor,
        softcap * LOG2_E if softcap else None,
    )
    limit = queries + keys
    window = Window(
        min(window_left, limit) if window_left >= 0 else None,
        min(window_right, limit) if window_right >= 0 else None,
    )
    return Operands(
        _rows(tensors[0], packed is not None),
        _rows(tensors[1], packed is not None),
        _rows(tensors[2], packed is not None),
        scores,
        window,
        _dropout(seed, dropout_p, query.device),
        starts,
        Sizes(queries, keys, heads, heads // max(kv_heads, 1)),
        batch,
        lengths,
        rows,
        is_causal,
        bias is None and alibi_slopes is None and not softcap and factor > 0,
        bool(dropout_p) or any(t is not None for t in (mask, bias, alibi_slopes)),
        tensors[0].shape[-1],
        tensors[2].shape[-1],
        (tensors, excluded, added, slopes, starts),
    )


def rows_of(tensor: Tensor, packed: bool, made: list[Tensor]) -> Rows:
    """A tensor of any strides to be read as rows; a copy of it goes to `made`."""
    tensor = _with_rows(tensor)
    made.append(tensor)
    return _rows(tensor, packed)


def written(tensor: Tensor, packed: bool) -> Rows:
    """A result of a kernel, made by `with_whole_groups`, as rows."""
    return _rows(tensor, packed)


def with_whole_groups(result: Tensor) -> Tensor:
    """What a kernel fills in place of a result, which has no gaps in memory: itself, or a tensor
    with features up to the next multiple of 8, of which `narrow_into` then copies the result's."""
    missing = -result.shape[-1] % _GROUP
    if not missing:
        return result
    return result.new_empty((*result.shape[:-1], result.shape[-1] + missing))


def narrow_into(result: Tensor, wide: Tensor) -> None:
    if wide is not result:
        result.copy_(wide[..., : result.shape[-1]])


def sinks_of(sinks: Tensor | None, heads: int) -> Numbers | None:
    return _numbers("sinks", sinks, 1, heads)


def programs(count: int) -> tuple[int]:
    """A one-dimensional grid: the other dimensions of a grid end at 65535."""
    _check(count <= _MOST_PROGRAMS, f"at most {_MOST_PROGRAMS} tiles, this call has {count}")
    return (count,)


def padded(width: int) -> int:
    """The width of a tile that holds rows of `width`: a power of 2, and what a product needs."""
    return max(16, 1 << (width - 1).bit_length())


def precision(query: Tensor) -> str:
    """How float32 numbers are multiplied: exactly, unless torch may use TF32."""
    exactly = query.dtype != torch.float32 or not torch.backends.cuda.matmul.allow_tf32
    return "ieee" if exactly else "tf32"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(message)


def _with_rows(t: Tensor) -> Tensor:
    """Itself where it can be `Rows`, else a copy that can, with zeros for the features it lacks."""
    width = t.shape[-1]
    if width % _GROUP:
        wide = t.new_zeros((*t.shape[:-1], width + -width % _GROUP))
        wide[..., :width] = t
        return wide
    group = math.gcd(width, 2 * _GROUP)
    strides = [s for n, s in zip(t.shape[:-1], t.stride()[:-1], strict=True) if n > 1]
    fits = (
        t.stride(-1) == 1
        and t.stride(-2) <= _LONGEST_STRIDE
        and all(s % group == 0 for s in strides)
        and t.data_ptr() % ALIGNED == 0
    )
    return t if fits else _copy(t)


def _copy(t: Tensor) -> Tensor:
    return t.clone(memory_format=torch.contiguous_format)


def _rows(t: Tensor, packed: bool) -> Rows:
    if packed:
        return Rows(t, 0, t.stride(1), t.stride(0))
    return Rows(t, t.stride(0), t.stride(1), t.stride(2))


def _pairs(name: str, t: Tensor | None, full: tuple[int, ...]) -> Pairs | None:
    if t is None:
        return None
    _check(
        t.dim() == 4 and all(m in (1, n) for m, n in zip(t.shape, full, strict=True)),
        f"{name} must have the shape {list(full)}, each dimension that or 1, got {list(t.shape)}",
    )
    if any(s > _LONGEST_STRIDE for n, s in zip(t.shape[2:], t.stride()[2:], strict=True) if n > 1):
        t = _copy(t)
    batch, head, row, column = (
        0 if n == 1 else s for n, s in zip(t.shape, t.stride(), strict=True)
    )
    numbers = t.view(torch.uint8) if t.dtype == torch.bool else t
    return Pairs(numbers, batch, head, None if t.shape[2] == 1 else row, column)


def _numbers(name: str, t: Tensor | None, batch: int, heads: int) -> Numbers | None:
    if t is None:
        return None
    shapes = ((heads,), (batch, heads))
    _check(
        tuple(t.shape) in shapes and t.dtype == torch.float32,
        f"{name} must be float32 of shape {shapes[0]} or {shapes[1]}, got {t.dtype} "
        f"{list(t.shape)}",
    )
    t = t.contiguous()
    return Numbers(t, heads if t.dim() == 2 else 0)


def _dropout(seed: Tensor | None, dropout_p: float, device: torch.device) -> Dropout | None:
    if not dropout_p:
        return None
    if seed is None or seed.dtype != torch.int64 or seed.numel() != 1:
        got = None if seed is None else f"{seed.dtype} {list(seed.shape)}"
        raise RuntimeError(f"seed must be an int64 number where dropout_p is not 0, got {got}")
    threshold = min(int(dropout_p * 2**32), 2**32 - 1)
    factor = 1 / (1 - dropout_p) if dropout_p < 1 else 0.0
    # As a signed number. The seed is on the device unless somebody made it elsewhere.
    return Dropout(seed.to(device), (threshold ^ 1 << 31) - (1 << 31), factor)


def _packed(
    query: Tensor, key: Tensor, cu_seqlens_q: Tensor | None, cu_seqlens_k: Tensor | None
) -> tuple[Packed, tuple[Tensor, Tensor]] | None:
    """(starts, (queries, keys) of each sequence)."""
    if cu_seqlens_q is None and cu_seqlens_k is None:
        return None
    _check(
        cu_seqlens_q is not None and cu_seqlens_k is not None,
        "cu_seqlens_q and cu_seqlens_k must both be given or both be None",
    )
    found = []
    for name, cu, rows in (
        ("cu_seqlens_q", cu_seqlens_q, query.shape[0]),
        ("cu_seqlens_k", cu_seqlens_k, key.shape[0]),
    ):
        assert cu is not None
        _check(
            cu.dim() == 1 and cu.numel() > 0 and cu.dtype in (torch.int32, torch.int64),
            f"{name} must be (sequences + 1,) int32 or int64, got {cu.dtype} {list(cu.shape)}",
        )
        _check(rows < 2**31, f"at most {2**31 - 1} rows, got {rows}")
        starts = cu.cpu()
        lengths = starts.diff()
        _check(
            int(starts[0]) == 0
            and int(starts[-1]) == rows
            and (lengths.numel() == 0 or int(lengths.min()) >= 0),
            f"{name} must rise from 0 to {rows}, the rows there are",
        )
        found.append((cu.to(query.device, torch.int32), lengths))
    (starts_q, queries), (starts_k, keys) = found
    batch, others = queries.numel(), keys.numel()
    _check(batch == others, f"cu_seqlens_q and cu_seqlens_k differ in length: {batch}, {others}")
    return Packed(starts_q, starts_k), (queries, keys)
