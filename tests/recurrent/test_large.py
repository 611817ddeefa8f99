"""Tensors of more than 2^31 elements and 2^32 bytes, where an offset in 32 bits would wrap."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import seqkern

# The input repeats after 41 steps, so that numbers taken from 2048 steps off are other numbers.
PERIOD = 41
STEPS = 51 * PERIOD


def available_memory() -> int:
    """Bytes that this process may still use; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")  # a container's limit
    try:
        limit, used = (
            (group / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        free += [] if limit == "max" else [int(limit) - int(used)]
    except OSError:
        pass
    return min(free, default=0)


def needs_memory(gigabytes: int) -> pytest.MarkDecorator:
    there = available_memory() / 1e9
    return pytest.mark.skipif(
        there < gigabytes, reason=f"needs {gigabytes} GB of memory, {there:.1f} GB are available"
    )


def periodic(batch: int, width: int) -> torch.Tensor:
    x = torch.empty(STEPS, batch, width, dtype=torch.bfloat16)
    x.view(-1, PERIOD, batch, width).copy_(torch.randn(PERIOD, batch, width))
    return x


@pytest.mark.slow
@pytest.mark.xdist_group("gigabytes")
@needs_memory(6)
@pytest.mark.parametrize("width, hidden", [(1, 16), (16, 1)], ids=["output", "input"])
def test_inference(width, hidden):
    """Each piece gives what the whole gave there, begun in the state that the whole had there."""
    torch.set_num_threads(2)
    x = periodic(2**16, width)
    module = seqkern.nn.RNN(width, hidden, dtype=torch.bfloat16)
    with torch.no_grad():
        output, h_n = module(x)
        assert max(x.numel(), output.numel()) > 2**31 + (PERIOD + 1) * 2**20
        assert torch.equal(h_n[0], output[-1])
        for start in (0, STEPS // 2, STEPS - PERIOD):
            state = output[start - 1][None] if start else None
            expected, _ = module(x[start : start + PERIOD], state)
            torch.testing.assert_close(output[start : start + PERIOD], expected)


@pytest.mark.slow
@pytest.mark.xdist_group("gigabytes")
@needs_memory(16)
@pytest.mark.skipif(
    os.environ.get("SEQKERN_TEST_LARGE") != "1",
    reason="takes about a minute; SEQKERN_TEST_LARGE=1 runs it",
)
def test_training():
    """What the forward saves and the backward computes has more than 2^31 elements.

    Only the first and the last steps have a gradient from outside; it fades within some hundred
    steps, so both ends are as if they were alone.
    """
    torch.set_num_threads(2)
    batch, hidden, end = 2**14, 16, 50
    x = periodic(batch, 1).requires_grad_()
    module = seqkern.nn.LSTM(1, hidden, dtype=torch.bfloat16)
    assert STEPS * batch * 4 * hidden > 2**31 + 2**20
    output = module(x)[0]
    weight = torch.zeros_like(output)
    weight[:end].normal_()
    weight[-end:].normal_()
    (found,) = torch.autograd.grad(output, x, weight)
    warm = 100  # steps after which the state no longer knows where the sequence began
    for piece, grad_output, mine in (
        (x[:end], weight[:end], found[:end]),
        (x[-end - warm :], weight[-end - warm :], found[-end:]),
    ):
        piece = piece.detach().requires_grad_()
        (expected,) = torch.autograd.grad(module(piece)[0], piece, grad_output)
        expected = expected[-end:]
        torch.testing.assert_close(mine, expected, rtol=0.02, atol=0.02)
        assert expected.abs().max() > 0.1
    assert not found[end : -end - 800].any()
