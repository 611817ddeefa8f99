"""Recurrent layers by the compiled CUDA kernels on a GPU: forward and every gradient, as near to
the float64 reference as PyTorch's own. `tests/cuda_host/test_recurrent_layers.py` has the same
kernels on the emulator; here the plan decides how a loop is spread."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import seqkern
from seqkern.core import library
from tests.recurrent import layer_cases, stack_cases
from tests.recurrent.layer_cases import KINDS, Case, by_backend, grid
from tests.recurrent.stack_cases import Stack

pytestmark = pytest.mark.cuda
HALF = (torch.bfloat16, torch.float16)
SMALL = [
    Case(1, 1, 3, 1),
    Case(7, 3, 4, 33),
    Case(40, 2, 2, 5, states=False, bias=False),
    Case(12, 41, 3, 18, reverse=True),
    Case(0, 0, 3, 17, sizes=(35, 34, 17, 8, 2)),
    Case(0, 0, 3, 17, sizes=(35, 34, 17, 8, 2), reverse=True),
]
# One resident launch over the whole device, several groups of blocks, weights beyond residence,
# many rows.
LARGE = [
    Case(30, 16, 64, 768),
    Case(30, 16, 64, 1024, reverse=True),
    Case(20, 128, 64, 256),
    Case(8, 4, 32, 2500),
    Case(0, 0, 64, 512, sizes=tuple(range(64, 0, -2))),
    Case(0, 0, 64, 512, sizes=tuple(range(64, 0, -2)), reverse=True),
]

# Both directions side by side, or one after the other where a direction fills the GPU; layers as a
# wave, or one after the other where a layer does.
STACKS = [
    Stack(19, 3, 4, 33, layers=4, bidirectional=False),
    Stack(0, 0, 3, 17, layers=2, bidirectional=False, sizes=(35, 34, 17, 8, 2)),
    Stack(30, 16, 64, 256, layers=4, bidirectional=False),
    Stack(12, 16, 64, 1536, layers=2, bidirectional=False),
    Stack(7, 3, 4, 33),
    Stack(12, 41, 3, 18, layers=2, states=False),
    Stack(0, 0, 3, 17, layers=2, sizes=(35, 34, 17, 8, 2)),
    Stack(30, 16, 64, 512),
    Stack(0, 0, 64, 256, sizes=tuple(range(64, 0, -2))),
    Stack(8, 4, 32, 2500),
]


@pytest.fixture(autouse=True)
def _the_library_is_there() -> None:
    assert library.cuda.loaded, library.cuda.reason


def check(kind: str, case: Case, dtype: torch.dtype) -> None:
    layer_cases.check(partial(by_backend, backend="cuda"), kind, case, dtype, "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("kind, case", grid(SMALL))
def test_small(kind, case, dtype):
    check(kind, case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_large(kind, case, dtype):
    check(kind, case, dtype)


def check_stack(kind: str, case: Stack, dtype: torch.dtype) -> None:
    def ours(*arguments):
        with seqkern.use_backend("cuda"):
            return stack_cases.results(*arguments)

    stack_cases.check(ours, kind, case, dtype, "cuda")


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("kind, case", stack_cases.grid(STACKS))
def test_stacks(kind, case, dtype):
    if kind == "RNN_RELU" and dtype != torch.float32 and case.layers > 1:
        pytest.skip("rounding decides on which side of the kink a unit is")
    check_stack(kind, case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", stack_cases.KINDS)
def test_stacks_for_the_sanitizer(kind, dtype):
    check_stack(kind, Stack(6, 9, 4, 40), dtype)
    check_stack(kind, Stack(11, 9, 4, 40, layers=3, bidirectional=False), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_for_the_sanitizer(kind, dtype):
    """One call of every kernel: `make gpu-test` runs these under compute-sanitizer."""
    check(kind, Case(8, 9, 4, 40), dtype)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_the_same_to_the_last_bit(backend):
    layer = seqkern.nn.LSTM(64, 512, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(50, 16, 64, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad(), seqkern.use_backend(backend):
        first, *others = (layer(x)[0] for _ in range(20))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_gradient_may_come_from_another_thread(backend):
    """autograd walks the graph in threads of its own, where nobody named a backend."""
    layer = seqkern.nn.GRU(8, 16, device="cuda")
    x = torch.randn(5, 2, 8, device="cuda", requires_grad=True)
    with seqkern.use_backend(backend):
        output, _ = layer(x)
    (found,) = torch.autograd.grad(output.sum(), x)
    with seqkern.use_backend("torch"):
        (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "module, shape",
    [
        (seqkern.nn.LSTM(8, 16, 2, bidirectional=True), (5, 3, 8)),
        (seqkern.nn.RNN(8, 16), (5, 3, 8)),
        (seqkern.nn.LSTMCell(8, 16), (3, 8)),
        (seqkern.nn.GRUCell(8, 16), (3, 8)),
    ],
    ids=repr,
)
def test_modules(module, shape):
    module = module.cuda()
    x = torch.randn(shape, device="cuda")
    found, expected = ([], [])
    for backend, results in (("cuda", found), ("torch", expected)):
        with torch.no_grad(), seqkern.use_backend(backend):
            result = module(x)
        results.append(result[0] if isinstance(result, tuple) else result)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "backend, options",
    [
        ("cuda", {}),
        ("cuda", {"bidirectional": True}),
        ("cuda", {"num_layers": 3}),
        ("triton", {}),
    ],
    ids=str,
)
def test_a_cuda_graph(backend, options):
    """Of launches whose programs wait for each other: each replay counts from zero."""
    layer = seqkern.nn.LSTM(16, 256, device="cuda", **options)
    x = torch.randn(20, 4, 16, device="cuda")
    with torch.no_grad(), seqkern.use_backend(backend):
        expected = layer(x)[0]  # also loads the kernels, which a capture must not
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = layer(x)[0]
        for _ in range(3):
            output.zero_()
            graph.replay()
            torch.cuda.synchronize()
            torch.testing.assert_close(output, expected)
