"""What word vectors owe on a GPU beyond numbers; the checks are in `tests.device_contract`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.nn.functional import skipgram_loss
from tests import device_contract as contract
from tests.device_contract import Work, sized
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton
WORDS, FEATURES, PAIRS, NEGATIVES = sized(500, 11), sized(100, 20), sized(3000, 30), 3


@pytest.fixture(autouse=True)
def _by_triton() -> Iterator[None]:
    with seqkern.use_backend("triton"):
        yield


def tables(device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(WORDS, FEATURES).to(device, dtype).requires_grad_() for _ in range(2)]


def indices(device: torch.device) -> list[Tensor]:
    """center, context, negatives: few words, so that rows get many gradients."""
    drawn = torch.randint(WORDS, (PAIRS, 2 + NEGATIVES)).to(device)
    return [drawn[:, 0].contiguous(), drawn[:, 1].contiguous(), drawn[:, 2:].contiguous()]


def loss(device: torch.device) -> Work:
    def call(v: Tensor, u: Tensor, *batch: Tensor) -> list[Tensor]:
        return [skipgram_loss(v, u, *batch)]

    return Work([*tables(device), *indices(device)], call)


def update(device: torch.device, dtype: torch.dtype = torch.float32) -> Work:
    """`update_`, from the same tables on: they are written in place."""
    model = seqkern.nn.SkipGram(WORDS, FEATURES, device=device, dtype=dtype)

    def call(v: Tensor, u: Tensor, *batch: Tensor) -> list[Tensor]:
        held = model.in_embed.weight, model.out_embed.weight
        with torch.no_grad():
            held[0].copy_(v)
            held[1].copy_(u)
        mean = model.update_(*batch, lr=0.01)
        return [mean, *(weight.detach().clone() for weight in held)]

    given = [t.detach() for t in tables(device, dtype)]
    return Work([*given, *indices(device)], call)


def sorted_update(device: torch.device) -> Work:
    """Rows in 16 bits are summed after they are sorted."""
    return update(device, torch.bfloat16)


WORKS = {"loss": loss, "update": update, "sorted_update": sorted_update}


@contract.every_check(WORKS, eager=["update", "sorted_update"])
def test_contract(check, make):
    check(make)


def test_a_replayed_graph_draws_other_negatives():
    model = seqkern.nn.SkipGram(WORDS, FEATURES, noise_counts=torch.arange(WORDS) + 1.0)
    torch.nn.init.normal_(model.out_embed.weight)
    model.to(DEVICE)
    center, context, _ = indices(torch.device(DEVICE))
    contract.replays_draw_anew(lambda: model(center, context).detach())


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
def test_the_same_bits_where_torch_is_to_be_deterministic(make):
    torch.use_deterministic_algorithms(True)
    try:
        contract.gives_the_same_bits(make)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_leaves_the_tables_as_they_are(lower):
    """A table is not copied into another dtype for the few rows that a call reads."""
    work = loss(torch.device(DEVICE))
    expected = work.run(*work.inputs)
    with torch.autocast(contract.KIND, lower):
        found = work.run(*work.inputs)
    assert [t.dtype for t in found] == [torch.float32] * 3
    contract.assert_same(found, expected, "under autocast")


def test_float16_overflows_where_plain_pytorch_does():
    """A step too long for float16 makes the row infinite, and no other one."""
    device = torch.device(DEVICE)
    model = seqkern.nn.SkipGram(6, 4, device=device, dtype=torch.float16)
    with torch.no_grad():
        model.in_embed.weight.fill_(1.0)
        model.out_embed.weight.fill_(-30.0)
    before = model.in_embed.weight.detach().clone()
    center, context = (torch.tensor([n], device=device) for n in (1, 2))
    model.update_(center, context, torch.empty(1, 0, dtype=torch.int64, device=device), lr=3000.0)
    found = model.in_embed.weight.detach()
    assert (found[1] == -torch.inf).all()  # 1 + 3000 * 1 * -30
    others = [0, 2, 3, 4, 5]
    assert torch.equal(found[others], before[others])
    assert (model.out_embed.weight[2] == -30 + 3000.0).all()
