"""`seqkern.override_sdpa`: every call of PyTorch's function is one of seqkern's."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention as imported_by_name

import seqkern
from seqkern.attention import sdpa_override
from seqkern.nn.functional import scaled_dot_product_attention as sdpa


@pytest.fixture
def served(monkeypatch) -> list[tuple]:
    """The calls that seqkern's function gets from the operator."""
    calls = []

    def record(*arguments):
        calls.append(arguments)
        return sdpa(*arguments)

    monkeypatch.setattr(sdpa_override, "scaled_dot_product_attention", record)
    return calls


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


def qkv(dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    shapes = ((2, 4, 7, 8), (2, 4, 9, 8), (2, 4, 9, 8))
    return tuple(torch.randn(s).to(dtype).requires_grad_() for s in shapes)


CASES: dict[str, tuple[tuple[Tensor, ...], dict[str, Any]]] = {
    "plain": (qkv(), {}),
    "causal": (qkv(), {"is_causal": True}),
    "scale": (qkv(), {"scale": 0.3}),
    "two dimensions": ((leaf(7, 8), leaf(9, 8), leaf(9, 8)), {}),
    "three dimensions": ((leaf(4, 7, 8), leaf(4, 9, 8), leaf(4, 9, 8)), {}),
    "values of another size": ((leaf(2, 4, 7, 8), leaf(2, 4, 9, 8), leaf(2, 4, 9, 5)), {}),
    "grouped": ((leaf(2, 4, 7, 8), leaf(2, 2, 9, 8), leaf(2, 2, 9, 8)), {"enable_gqa": True}),
    "boolean mask": (qkv(), {"attn_mask": torch.rand(7, 9) > 0.3}),
    "learned mask": (qkv(), {"attn_mask": leaf(7, 9)}),
    "bfloat16": (qkv(torch.bfloat16), {}),
    "float16": (qkv(torch.float16), {}),
}


def results(function, tensors, options) -> list[Tensor]:
    output = function(*tensors, **options)
    leaves = [t for t in (*tensors, *options.values()) if isinstance(t, Tensor) and t.requires_grad]
    return [output.detach(), *torch.autograd.grad(output.float().square().sum(), leaves)]


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_our_function(served, name):
    expected = results(sdpa, *CASES[name])
    for function in (F.scaled_dot_product_attention, imported_by_name):
        with seqkern.override_sdpa():
            found = results(function, *CASES[name])
        assert all(map(torch.equal, found, expected)) and len(served) == 1
        served.clear()


@pytest.mark.parametrize("name", CASES)
def test_compiled(served, name):
    torch._dynamo.reset()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def attend(*tensors, **options):
        return F.scaled_dot_product_attention(*tensors, **options)

    with seqkern.override_sdpa():
        found = results(attend, *CASES[name])
        assert served
    for mine, right in zip(found, results(sdpa, *CASES[name]), strict=True):
        torch.testing.assert_close(mine, right)


def test_inference_mode_and_no_grad(served):
    q, k, v = (t.detach() for t in qkv())
    expected = sdpa(q, k, v)
    with seqkern.override_sdpa():
        with torch.inference_mode():
            inputs = [t.clone() for t in (q, k, v)]
            assert torch.equal(F.scaled_dot_product_attention(*inputs), expected)
        with torch.no_grad():
            assert torch.equal(F.scaled_dot_product_attention(q, k, v), expected)
    assert len(served) == 2


def test_it_ends(served):
    q, k, v = qkv()
    handle = seqkern.override_sdpa()
    with seqkern.override_sdpa():
        F.scaled_dot_product_attention(q, k, v)
    F.scaled_dot_product_attention(q, k, v)
    assert len(served) == 2
    handle.remove()
    handle.remove()
    before = F.scaled_dot_product_attention(q, k, v)
    with pytest.raises(ZeroDivisionError), seqkern.override_sdpa():
        raise ZeroDivisionError
    assert torch.equal(F.scaled_dot_product_attention(q, k, v), before)
    assert len(served) == 2


def test_all_threads_are_reached(served):
    q, k, v = qkv()
    with seqkern.override_sdpa():
        thread = threading.Thread(target=F.scaled_dot_product_attention, args=(q, k, v))
        thread.start()
        thread.join()
    assert len(served) == 1


@pytest.mark.parametrize("name", ["plain", "three dimensions", "grouped", "learned mask"])
def test_pytorchs_operator_may_be_chosen(name):
    expected = results(F.scaled_dot_product_attention, *CASES[name])
    with seqkern.override_sdpa(), seqkern.use_backend("torch"):
        found = results(F.scaled_dot_product_attention, *CASES[name])
    assert all(map(torch.equal, found, expected))


def test_dropout_and_its_seed(served):
    q, k, v = qkv()
    with seqkern.override_sdpa():
        torch.manual_seed(1)
        found = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    torch.manual_seed(1)
    assert torch.equal(found, sdpa(q, k, v, dropout_p=0.5)) and served


def test_modules_and_autocast(served):
    module, x = torch.nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(2, 5, 16)
    with seqkern.override_sdpa():
        module(x, x, x, need_weights=False)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.scaled_dot_product_attention(*qkv()).dtype == torch.bfloat16
    assert len(served) == 2


def test_what_stays_pytorchs(served):
    tensors = [torch.randn(3, 2, 4, 7, 8) for _ in range(3)]
    nested = torch.nested.nested_tensor([torch.randn(2, 5, 8), torch.randn(2, 5, 8)])
    with seqkern.override_sdpa():
        assert torch.vmap(F.scaled_dot_product_attention)(*tensors).shape == (3, 2, 4, 7, 8)
        assert F.scaled_dot_product_attention(nested, nested, nested).is_nested
    assert not served


def test_bad_arguments_raise_as_ever():
    q, k, v = qkv()
    with seqkern.override_sdpa():
        with pytest.raises(RuntimeError):
            F.scaled_dot_product_attention(q, k[..., :5], v)
        assert torch.equal(F.scaled_dot_product_attention(q, k, v), sdpa(q, k, v))
