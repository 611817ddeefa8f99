"""Layers by Triton's kernels against PyTorch and the float64 reference: forward and every gradient.

Each way through time is taken in turn, whatever a call would take by itself. `tests.triton_device`
says where the kernels run.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.recurrent import layer_cases
from tests.recurrent.layer_cases import Case, by_backend, grid
from tests.triton_device import DEVICE

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("triton_operators", "guarded_launches"),
]

LOOPS = ("resident", "streamed", "steps")
HALF = (torch.bfloat16, torch.float16)


CASES = [
    Case(1, 1, 3, 1),
    Case(7, 1, 2, 5, states=False),
    Case(7, 3, 4, 33),
    Case(7, 3, 1, 5, reverse=True, states=False, bias=False),
    Case(1, 3, 2, 33, reverse=True),
    Case(3, 37, 3, 18),  # several tiles of the batch, the last with one row or few
    Case(0, 0, 2, 5, sizes=(3, 3, 2, 1, 1)),
    Case(0, 0, 2, 5, sizes=(3, 3, 2, 1, 1), reverse=True),
    Case(0, 0, 3, 17, sizes=(35, 34, 17, 16, 2)),
    Case(0, 0, 3, 17, sizes=(35, 34, 17, 16, 2), reverse=True, bias=False),
]
IN_16_BITS = [
    Case(7, 3, 4, 33),
    Case(3, 20, 3, 18, reverse=True, states=False),
    Case(0, 0, 2, 5, sizes=(17, 17, 3, 1), reverse=True),
]
PROJECTED = [
    Case(7, 3, 4, 33, proj=5),
    Case(2, 19, 2, 20, proj=17, states=False, reverse=True),
    Case(0, 0, 2, 5, sizes=(3, 3, 2, 1), proj=1, bias=False),
    Case(0, 0, 2, 18, sizes=(17, 17, 2, 1), proj=4, reverse=True),
]


def check(kind: str, case: Case, dtype: torch.dtype) -> None:
    layer_cases.check(partial(by_backend, backend="triton"), kind, case, dtype, DEVICE)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    from seqkern.recurrent import triton_loops

    taken: list[str] = []

    def preferred(call: object) -> str:
        taken.append(request.param)
        return str(request.param)

    monkeypatch.setattr(triton_loops, "preferred", preferred)
    yield request.param
    assert taken, "no kernel of Triton's ran"


@pytest.mark.parametrize("kind, case", grid(CASES))
def test_float32(loop, kind, case):
    check(kind, case, torch.float32)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind, case", grid(IN_16_BITS))
def test_16_bits(loop, kind, case, dtype):
    check(kind, case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", PROJECTED, ids=str)
def test_a_projected_state(loop, case, dtype):
    check("lstm", case, dtype)
