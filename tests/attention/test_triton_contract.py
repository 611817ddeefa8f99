"""What attention owes on a GPU beyond its numbers; the checks are in `tests.device_contract`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from tests import device_contract as contract
from tests.device_contract import KIND, Work, sized
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def _by_triton() -> Iterator[None]:
    with seqkern.use_backend("triton"):
        yield


def tensors(
    device: torch.device, dtype: torch.dtype, queries: int, keys: int, heads: tuple[int, int]
) -> list[Tensor]:
    """query, key, value that require grad."""
    shapes = [(2, heads[0], queries, 32), *[(2, heads[1], keys, 32)] * 2]
    return [torch.randn(s).to(device, dtype).requires_grad_() for s in shapes]


def dense(device: torch.device) -> Work:
    length = sized(300, 20)
    given = tensors(device, torch.float32, length, length, (2, 1))

    def call(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        return [sdpa(q, k, v, is_causal=True, enable_gqa=True)]

    return Work(given, call)


def biased(device: torch.device) -> Work:
    length = sized(300, 20)
    given = tensors(device, torch.bfloat16, length, length, (2, 2))
    bias = torch.randn(1, 2, length, length).to(device, torch.bfloat16).requires_grad_()

    def call(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> list[Tensor]:
        return [sdpa(q, k, v, bias)]

    return Work([*given, bias], call)


def padded(device: torch.device) -> Work:
    """A row of the mask for all queries: the tiles that are needed are listed by a launch before
    the kernel's own."""
    length = sized(1000, 50)
    given = tensors(device, torch.float32, 20, length, (2, 2))
    lengths = torch.tensor([length, 35], device=device)

    def call(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> list[Tensor]:
        mask = torch.arange(length, device=q.device) < lengths[:, None]
        return [sdpa(q, k, v, mask[:, None, None])]

    return Work([*given, lengths], call)


def decode(device: torch.device) -> Work:
    given = [t.detach() for t in tensors(device, torch.bfloat16, 1, sized(5000, 150), (4, 1))]

    def call(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        return list(sdpa(q, k, v, enable_gqa=True, return_lse=True))

    return Work(given, call)


WORKS = {"dense": dense, "biased": biased, "padded": padded, "decode": decode}


@contract.every_check(WORKS)
def test_contract(check, make):
    check(make)


@pytest.mark.parametrize("queries", [sized(200, 17), 2])  # 2: decoding
def test_a_replayed_graph_drops_other_weights(queries):
    """The seed is drawn on the device, by torch's generator, which a graph may capture."""
    keys = sized(900, 40)
    q, k, v = (t.detach() for t in tensors(DEVICE, torch.float32, queries, keys, (2, 2)))
    contract.replays_draw_anew(lambda: sdpa(q, k, v, dropout_p=0.5))


def test_a_replayed_backward_drops_what_its_forward_dropped():
    """With one weight for all keys, a value gets a gradient where it was not dropped."""
    keys = sized(200, 60)
    q = torch.zeros(1, 1, 1, 16, device=DEVICE)
    k = torch.zeros(1, 1, keys, 16, device=DEVICE)
    v = torch.eye(keys, device=DEVICE)[None, None].requires_grad_()

    def step() -> list[Tensor]:
        output = sdpa(q, k, v, dropout_p=0.5)
        (grad,) = torch.autograd.grad(output, v, torch.ones_like(output))
        return [output.detach(), grad]

    graph = contract.Graph(step)
    seen = []
    for _ in range(2):
        graph.replay()
        output, grad = (t.clone() for t in graph.results)
        kept = output[0, 0, 0] != 0
        assert torch.equal(grad[0, 0] != 0, kept[:, None].expand(keys, keys))
        seen.append(kept)
    assert not torch.equal(*seen)


@pytest.mark.parametrize("make", [dense, biased], ids=lambda make: make.__name__)
def test_the_same_bits(make):
    contract.gives_the_same_bits(make)


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(lower):
    """The layer with its projections; the operator itself lowers its tensors as PyTorch's does."""
    ours, theirs = (m.MultiheadAttention(32, 2).to(DEVICE) for m in (seqkern.nn, nn))
    x = [torch.randn(sized(200, 20), 2, 32, device=DEVICE) for _ in range(3)]
    contract.autocast_is_torchs(ours, theirs, x, lower)
    q, k, v = tensors(DEVICE, torch.float32, 20, 20, (2, 2))
    with torch.autocast(KIND, lower):
        assert sdpa(q, k, v).dtype == F.scaled_dot_product_attention(q, k, v).dtype == lower


def test_second_derivatives_under_autocast():
    q, k, v = tensors(DEVICE, torch.float32, 9, 12, (2, 2))
    contract.second_derivatives_ignore_autocast(lambda *given: [sdpa(*given)], [q, k, v])


class Attention(nn.Module):
    """With its parameter on the way, so that float16 gradients pass through the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(1, 2, 50, 32))

    def forward(self, x: Tensor) -> Tensor:
        return sdpa(x, self.keys, self.keys)


def test_gradients_that_overflow_skip_a_step():
    x = torch.randn(1, 2, 40, 32, device=DEVICE).half()
    contract.overflow_skips_a_step(Attention().to(DEVICE), [x], ["triton", "torch"])


def test_float16_overflows_where_torchs_does():
    """Scores of 70,000 are no trouble, they are float32; sums of gradients above 65,504 are
    infinite."""
    q = torch.full((1, 1, 40, 16), 66.0, device=DEVICE).half()
    k = torch.full((1, 1, 8, 16), 66.0, device=DEVICE).half()
    v = torch.randn(1, 1, 8, 16, device=DEVICE).half()
    leaves = [t.requires_grad_() for t in (q, k, v)]
    grad = torch.full((1, 1, 40, 16), 60000.0, device=DEVICE).half()
    grad[..., ::2] = 1.0
    results = []
    for call in (sdpa, F.scaled_dot_product_attention):
        output = call(*leaves)
        results.append([output, torch.autograd.grad(output, v, grad)[0]])
    (ours, d_v), (theirs, expected) = results
    assert ours.isfinite().all() and theirs.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=4e-3, atol=4e-3)
    assert torch.equal(d_v.isinf(), expected.isinf())
    torch.testing.assert_close(d_v, expected, rtol=4e-3, atol=0)  # infinity is equal to itself
    assert d_v[..., 1::2].isposinf().all() and d_v[..., ::2].isfinite().all()
