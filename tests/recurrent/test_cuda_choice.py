"""Who may run the compiled CUDA kernels, and which operators a backend's name leads to: no kernel
runs here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import seqkern
from seqkern.core import library
from seqkern.core.triton import support
from seqkern.recurrent import autograd, kinds, registration, stack, stack_autograd
from seqkern.recurrent.choice import refusals
from tests.recurrent import single_layer


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if torch had a GPU and the CUDA library were loaded; tensors are fake."""
    monkeypatch.setattr(library, "cuda", library.Library(Path("_cuda.so")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    with FakeTensorMode():
        yield


def tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_gpu_keeps_pytorchs_operator_until_ours_is_measured(on_a_gpu, dtype):
    explanation = seqkern.explain("lstm_cell", tensor(2, 4, dtype=dtype))
    assert explanation.backend == "torch"
    assert explanation.reasons["cuda"] == (
        "could, but 'torch' is preferred: its kernels have not been measured on a GPU yet"
    )
    with seqkern.use_backend("cuda"):
        assert seqkern.explain("lstm_cell", tensor(2, 4, dtype=dtype)).backend == "cuda"


def test_what_has_no_kernel_is_refused_with_the_reason(on_a_gpu, monkeypatch):
    x = tensor(3, 2, 4)
    assert refusals(x, ())["cuda"] == ""
    assert "torch.float64: bfloat16" in refusals(tensor(3, 4, dtype=torch.float64), ())["cuda"]
    assert "projected state (proj_size)" in refusals(x, (), projected=True)["cuda"]
    module = seqkern.nn.LSTM(4, 8, proj_size=3)
    assert "proj_size" in seqkern.explain(module, x).reasons["cuda"]
    states = tensor(2, 3), tensor(2, 8)
    weights = tensor(32, 4), tensor(32, 3), None, None, tensor(3, 8)
    with seqkern.use_backend("cuda"):
        assert seqkern.explain(module, x).backend == ""
        with pytest.raises(RuntimeError, match="backend 'cuda' cannot run this call: no kernel fo"):
            single_layer.lstm_layer(x, *states, *weights)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    assert refusals(x, ())["cuda"] == "its kernels need sm_80 or later, cuda:0 is sm_75"


def test_a_functional_call_with_a_projection(on_a_gpu):
    x, states = tensor(3, 2, 4), (tensor(1, 2, 3), tensor(1, 2, 8))
    weights = [tensor(32, 4), tensor(32, 3), tensor(32), tensor(32), tensor(3, 8)]
    assert "proj_size" in seqkern.explain("lstm", x, states, weights).reasons["cuda"]
    plain = [tensor(32, 4), tensor(32, 8), tensor(32), tensor(32)]
    assert "proj_size" not in seqkern.explain("lstm", x, states, plain).reasons["cuda"]


@pytest.mark.parametrize("kind", kinds.CELLS, ids=lambda k: k.name)
def test_stacks_are_one_call(on_a_gpu, monkeypatch, kind):
    called = []

    def recorded(*arguments):
        called.append(arguments)
        return run(*arguments)

    run = stack_autograd._forward
    monkeypatch.setattr(stack_autograd, "_forward", recorded)
    rows = kind.gates * 8
    weights = []
    for place in range(6):
        w_ih = tensor(rows, 4 if place < 2 else 16)
        weights += [w_ih, tensor(rows, 8), tensor(rows), tensor(rows)]
    with seqkern.use_backend("cuda"):
        output, *final = stack.run(
            kind, tensor(5, 2, 4), None, weights, True, 3, 0.1, False, True, False, None, None
        )
    assert output.shape == (5, 2, 16) and len(final) == kind.states
    assert all(f.shape == (6, 2, 8) for f in final)
    assert len(called) == 1


def test_a_cpu_has_none():
    assert "run on a CUDA GPU, the input is on cpu" in refusals(torch.empty(2, 4), ())["cuda"]
    module, x = seqkern.nn.LSTM(4, 8), torch.randn(3, 2, 4)
    says = "backend 'cuda' cannot run this call: its kernels run on a CUDA GPU"
    with seqkern.use_backend("cuda"), pytest.raises(RuntimeError, match=says):
        module(x)


def test_without_the_library_the_reason_is_its_own(on_a_gpu, monkeypatch):
    monkeypatch.setattr(library, "cuda", library.Library(Path("_cuda.so"), "it is not built"))
    reason = refusals(tensor(2, 4), ())["cuda"]
    assert reason == "the CUDA library is not loaded: it is not built"


@pytest.mark.skipif(bool(support.missing), reason="triton is not installed")
@pytest.mark.parametrize("kind", [kinds.LSTM, kinds.GRU, kinds.RNN_TANH], ids=lambda k: k.name)
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_a_backend_takes_its_operators_forward_and_backward(monkeypatch, kind, backend):
    """Whatever backend is named where the gradient is computed."""
    called = []

    def recorded(name, run):
        def call(*arguments):
            called.append(name)
            return run(*arguments)

        return call

    for name in registration.LAYERS:
        operators = getattr(autograd, f"_{name}")
        compiled = operators["cpu"]
        for key in ("cpu", "triton"):
            monkeypatch.setitem(operators, key, recorded(f"{name} {key}", compiled))
    layer = kind.triton if backend == "triton" else kind.kernel
    x = torch.randn(3, 2, 4, requires_grad=True)
    weights = (torch.randn(kind.gates * 5, 4), torch.randn(kind.gates * 5, 5), None, None, None)
    output, _ = layer(x, (None,) * kind.states, weights, None, None, False)
    with seqkern.use_backend("torch"):
        output.sum().backward()
    function = kind.name.partition("_")[0]
    key = "triton" if backend == "triton" else "cpu"  # the compiled one, on the CPU here
    assert called == [f"{function}_forward {key}", f"{function}_backward {key}"]


def test_the_kernels_ask_what_pytorchs_products_may(monkeypatch):
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert torch.ops.seqkern.allows_tf32() is True
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        assert torch.ops.seqkern.allows_tf32() is False
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
