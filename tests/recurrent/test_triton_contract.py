"""What the recurrent layers owe on a GPU beyond their numbers, by Triton's kernels and by the
compiled ones; the checks are in `tests.device_contract`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import seqkern
from seqkern.core import library
from tests import device_contract as contract
from tests.device_contract import Work, sized
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True, params=["triton", pytest.param("cuda", marks=pytest.mark.cuda)])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cuda":
        assert library.cuda.loaded, library.cuda.reason
    with seqkern.use_backend(request.param):
        yield request.param


def layer(
    kind: str, size: int, device: torch.device, dtype: torch.dtype, **options: object
) -> Work:
    torch.manual_seed(7)
    module = getattr(seqkern.nn, kind)(6, size, **options).to(device, dtype)
    directions = 1 + module.bidirectional
    x = torch.randn(sized(50, 4), 3, 6).to(device, dtype).requires_grad_()
    h = torch.randn(module.num_layers * directions, 3, size).to(device, dtype).requires_grad_()
    if kind != "LSTM":
        return Work([x, h], lambda x, h: module(x, h), list(module.parameters()))

    def call(x: Tensor, h: Tensor, c: Tensor) -> list[Tensor]:
        output, states = module(x, (h, c))
        return [output, *states]

    return Work([x, h, h.detach().clone().requires_grad_()], call, list(module.parameters()))


def lstm(device: torch.device) -> Work:
    """On a GPU, programs that wait for each other."""
    return layer("LSTM", sized(96, 20), device, torch.float32)


def large_lstm(device: torch.device) -> Work:
    """Beyond what one program keeps or streams, or a group of them shares."""
    return layer("LSTM", sized(1040, 40), device, torch.bfloat16)


def gru(device: torch.device) -> Work:
    return layer("GRU", sized(200, 20), device, torch.float32, num_layers=2, bidirectional=True)


WORKS = {"lstm": lstm, "large_lstm": large_lstm, "gru": gru}


@contract.every_check(WORKS)
def test_contract(check, make):
    check(make)


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
def test_the_same_bits(make):
    contract.gives_the_same_bits(make)


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_autocast(kind, lower):
    ours, theirs = (getattr(m, kind)(6, sized(96, 20)).to(DEVICE) for m in (seqkern.nn, nn))
    x = torch.randn(sized(50, 4), 3, 6, device=DEVICE)
    # oneDNN has no LSTM in float16 for most CPUs; without it PyTorch takes its own.
    with torch.backends.mkldnn.flags(enabled=lower == torch.bfloat16):
        contract.autocast_is_torchs(ours, theirs, [x], lower)


def test_second_derivatives_under_autocast():
    module = seqkern.nn.LSTM(6, 8).to(DEVICE)
    x = torch.randn(4, 3, 6, device=DEVICE, requires_grad=True)
    contract.second_derivatives_ignore_autocast(lambda x: [module(x)[0]], [x])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_for_the_sanitizer(kind):
    """Forward and backward: `make gpu-test` runs these under compute-sanitizer."""
    work = layer(kind, 20, torch.device(DEVICE), torch.float32)
    assert all(t.isfinite().all() for t in work.run(*work.inputs))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gradients_that_overflow_skip_a_step(kind, backend):
    module = getattr(seqkern.nn, kind)(6, sized(96, 20)).to(DEVICE)
    x = torch.randn(sized(50, 4), 3, 6, device=DEVICE).half()
    contract.overflow_skips_a_step(module, [x], [backend, "torch"])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_float16_overflows_where_torchs_does(kind, backend):
    """Sums over all rows for the biases of the gates; what stays below 65,504 stays a number. The
    state's weights are zero, so no row adds to another one's gradient."""
    module = getattr(seqkern.nn, kind)(2, 8).to(DEVICE, torch.float16)
    with torch.no_grad():
        for weight in module.parameters():
            weight.zero_()
        module.bias_ih_l0.fill_(1.0)
    x = torch.randn(2, 300, 2, device=DEVICE).half()

    def gradient(module: nn.Module, x: Tensor) -> Tensor:
        output, _ = module(x)
        weights = torch.ones_like(output)
        weights[..., :4] = 20000.0
        return torch.autograd.grad(output, module.bias_ih_l0, weights)[0].view(-1, 8)

    ours = gradient(module, x)
    with seqkern.use_backend("torch"):
        theirs = gradient(module, x)
    with seqkern.use_backend("reference"):
        exact = gradient(module.double(), x.double())
    beyond = exact.abs() > torch.finfo(torch.float16).max
    assert torch.equal(ours.isinf(), beyond) and torch.equal(~theirs.isfinite(), beyond)
    assert torch.equal(ours[beyond].sign(), exact[beyond].to(ours.dtype).sign())
    torch.testing.assert_close(ours[~beyond], theirs[~beyond], rtol=4e-3, atol=4e-3)
    assert 0 < beyond.sum() < beyond.numel()
