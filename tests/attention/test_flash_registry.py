"""PyTorch's registry of flash attention: seqkern's kernels behind PyTorch's operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import attention as torch_attention
from torch.nn import functional as F

from seqkern.attention import flash_registry
from seqkern.core import library
from seqkern.nn.functional import scaled_dot_product_attention as sdpa

KINDS = {
    "dense": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
    "boolean mask": {"attn_mask": torch.rand(70, 70) > 0.3},
    "floating mask": {"attn_mask": torch.randn(2, 1, 70, 70)},
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture
def active() -> Iterator[None]:
    torch_attention.activate_flash_attention_impl(flash_registry.NAME)
    yield
    torch_attention.restore_flash_attention_impl()


@pytest.fixture
def calls(monkeypatch, active) -> list[str]:
    """Which operators of ours PyTorch's calls reach."""
    seen = []
    for name in ("forward", "backward"):
        own = getattr(flash_registry, f"{name}_operator")

        def recorded(backend, name=name, own=own):
            seen.append(name)
            return own(backend)

        monkeypatch.setattr(flash_registry, f"{name}_operator", recorded)
    return seen


def tensors(dtype: torch.dtype = torch.float32, batch_first: bool = False) -> list[Tensor]:
    """(2, 4, 70, 16), contiguous or as a model makes them of (2, 70, 64)."""
    shape = (2, 70, 4, 16) if batch_first else (2, 4, 70, 16)
    found = [torch.randn(shape).to(dtype) for _ in range(3)]
    return [(x.transpose(1, 2) if batch_first else x).requires_grad_() for x in found]


def results(function, inputs: list[Tensor], **options) -> list[Tensor]:
    output = function(*inputs, **options)
    return [output, *torch.autograd.grad(output.double().square().sum(), inputs)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_results_are_ours(calls, kind, dtype):
    inputs, options = tensors(dtype), KINDS[kind]
    if kind == "floating mask":
        options = {"attn_mask": options["attn_mask"].to(dtype)}
    found = results(F.scaled_dot_product_attention, inputs, **options)
    assert calls == ["forward", "backward"]
    tolerance = {} if dtype in (torch.float32, torch.float64) else {"rtol": 2e-2, "atol": 2e-2}
    for mine, right in zip(found, results(sdpa, inputs, **options), strict=True):
        torch.testing.assert_close(mine, right, **tolerance)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_compiled_before_and_after(backend, batch_first):
    """A graph holds PyTorch's operator: what it has compiled before is served, too."""
    torch._dynamo.reset()
    inputs = tensors(batch_first=batch_first)
    run = torch.compile(
        lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), backend=backend
    )
    before = results(run, inputs)
    torch_attention.activate_flash_attention_impl("seqkern")
    try:
        ours = results(run, inputs)
    finally:
        torch_attention.restore_flash_attention_impl()
    expected = results(sdpa, inputs, is_causal=True)
    for mine, theirs, right in zip(ours, before, expected, strict=True):
        torch.testing.assert_close(mine, right)
        torch.testing.assert_close(theirs, right, rtol=1e-3, atol=1e-4)
    again = results(run, inputs)
    assert all(map(torch.equal, again, before))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_lies_as_pytorch_says(active, dtype, batch_first):
    """torch.compile plans with what PyTorch's meta kernels say of the operators."""
    q, k, v = (x.detach() for x in tensors(dtype, batch_first))
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    found = forward(q, k, v)
    grads = backward(q, q, k, v, *found, 0.0, False)
    meta = [x.to("meta") for x in (q, k, v)]
    planned = forward(*meta)
    planned_grads = backward(meta[0], *meta, *planned, 0.0, False)
    for mine, plan in zip((*found, *grads), (*planned, *planned_grads), strict=True):
        assert (mine.shape, mine.stride()) == (plan.shape, plan.stride())
    assert {x.dtype for x in (found[0], *grads)} == {dtype}


def test_nothing_is_active_after_an_import():
    assert flash_registry.NAME in torch_attention.list_flash_attention_impls()
    assert torch_attention.current_flash_attention_impl() is None


def test_an_exported_program_is_served(calls):
    class Attend(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)

    q, k, v = (x.detach() for x in tensors())
    program = torch.export.export(Attend(), (q, k, v))
    calls.clear()
    assert torch.equal(program.module()(q, k, v), sdpa(q, k, v))
    assert calls == ["forward"]


def test_modules_are_served(calls):
    module, x = torch.nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(2, 5, 16)
    module(x, x, x, need_weights=False)
    assert calls == ["forward"]


def test_second_derivatives_are_refused_as_by_pytorch(active):
    q, k, v = tensors()
    (grad,) = torch.autograd.grad(
        F.scaled_dot_product_attention(q, k, v).sum(), q, create_graph=True
    )
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_without_kernels_it_cannot_be_activated(monkeypatch):
    missing = dataclasses.replace(library.cpu, reason="it was not built")
    monkeypatch.setattr(flash_registry.library, "cpu", missing)
    with pytest.raises(RuntimeError, match="it was not built"):
        torch_attention.activate_flash_attention_impl("seqkern")
    assert torch_attention.current_flash_attention_impl() is None
