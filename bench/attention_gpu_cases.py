"""Attention on a GPU against PyTorch's FlashAttention-2, or what PyTorch takes where it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as of_torch

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention as of_seqkern

from .gpu import Case

LENGTHS = (2048, 4096, 8192, 16384)
DECODE_KEYS = (4096, 16384, 65536)


def cases(device: torch.device) -> Iterator[Case]:
    """Query rows times batch are 16384, and heads times their width 2048, in every case."""
    for keys in DECODE_KEYS:
        yield _decode(keys, device)
    yield from _masked((4, 16, 2048, 64), device)
    for length in LENGTHS:
        for width in (128, 64):
            for is_causal in (False, True):
                shape = (max(16384 // length, 1), 2048 // width, length, width)
                yield from _flash(shape, is_causal, device)


def tensors(shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """query, key, value that require grad."""
    kind = {"dtype": torch.bfloat16, "device": device}
    return [torch.randn(shape, **kind).requires_grad_() for _ in range(3)]


def _flash(shape: tuple[int, ...], is_causal: bool, device: torch.device) -> Iterator[Case]:
    given = tensors(shape, device)
    batch, heads, length, width = shape
    flops = 4.0 * batch * heads * length * length * width / (2 if is_causal else 1)
    ours = partial(_ours, is_causal=is_causal)
    theirs = partial(_flash_of_torch, is_causal=is_causal)
    what = f"bf16 d{width} {length}{' causal' if is_causal else ''}"
    inference = [t.detach() for t in given]
    yield Case(
        f"attention forward {what}", partial(ours, *inference), partial(theirs, *inference),
        flops=flops,
    )  # fmt: skip
    yield Case(
        f"attention training {what}", _trained(ours, given), _trained(theirs, given),
        flops=3.5 * flops,
    )  # fmt: skip


def _masked(shape: tuple[int, ...], device: torch.device) -> Iterator[Case]:
    given = tensors(shape, device)
    batch, heads, length, width = shape
    flops = 4.0 * batch * heads * length * length * width
    what = f"bf16 d{width} {length}"
    mask = torch.rand(shape[0], 1, length, length, device=device) < 0.8
    inference = [t.detach() for t in given]
    yield Case(
        f"attention dense mask forward {what}", partial(_ours, *inference, mask),
        partial(of_torch, *inference, mask), flops=flops,
    )  # fmt: skip
    bias = torch.randn(1, shape[1], length, length, device=device, dtype=torch.bfloat16)
    with_bias = [*given, bias.requires_grad_()]
    yield Case(
        f"attention bias gradient training {what}", _trained(_ours, with_bias),
        _trained(of_torch, with_bias), flops=3.5 * flops,
    )  # fmt: skip


def _decode(keys: int, device: torch.device) -> Case:
    kind = {"dtype": torch.bfloat16, "device": device}
    query = torch.randn(8, 32, 1, 128, **kind)
    key, value = (torch.randn(8, 8, keys, 128, **kind) for _ in range(2))
    return Case(
        f"attention decode bf16 d128 GQA 32/8 {keys}",
        partial(_ours, query, key, value, enable_gqa=True),
        partial(of_torch, query, key, value, enable_gqa=True),
        bytes=2.0 * key.numel() * 2,
    )


def _ours(*tensors: Tensor, **options: bool) -> Tensor:
    if not tensors[0].is_cuda:
        return of_seqkern(*tensors, **options)  # type: ignore[arg-type,return-value]
    with seqkern.use_backend("triton"):
        return of_seqkern(*tensors, **options)  # type: ignore[arg-type,return-value]


def _flash_of_torch(*tensors: Tensor, **options: bool) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return of_torch(*tensors, **options)


def _trained(attention: Callable[..., Tensor], given: list[Tensor]) -> Callable[[], Tensor]:
    """Forward and backward; what is compared is the gradient of the query."""

    def step() -> Tensor:
        output = attention(*given)
        return torch.autograd.grad(output, given, output.detach())[0]

    return step
