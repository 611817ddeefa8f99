"""Layers by Triton's kernels against PyTorch and the float64 reference: forward and every gradient.

Each way through time is taken in turn, whatever a call would take by itself. `tests.triton_device`
says where the kernels run, `tests.triton_concurrency` how programs that wait for each other do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch

import seqkern
from tests.recurrent import layer_cases, single_layer
from tests.recurrent.layer_cases import Case, by_backend, grid
from tests.triton_concurrency import programs_at_once
from tests.triton_device import DEVICE

pytestmark = [
    pytest.mark.triton,
    pytest.mark.usefixtures("guarded_launches"),
]

LOOPS = ("resident", "grouped", "streamed", "steps")
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


@contextmanager
def taking(way: str, processors: int | None = None) -> Iterator[None]:
    """Every call takes this way through time, on a device of so many SMs."""
    from seqkern.recurrent.triton import loops

    taken: list[str] = []

    def preferred(call: object) -> str:
        taken.append(way)
        return way

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "preferred", preferred)
        if processors:
            patch.setattr(loops, "processors", lambda device: processors)
        yield
    assert taken, "no kernel of Triton's ran"


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[str]:
    with taking(request.param), programs_at_once():
        yield request.param


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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", [PROJECTED[-1], Case(3, 17, 2, 20, reverse=True)], ids=str)
def test_groups_whose_programs_take_turns(case, seed):
    with taking("grouped"), programs_at_once(seed, apart=False):
        check("lstm", case, torch.float32)


@pytest.mark.parametrize("kind, case", grid([Case(2, 18, 2, 140, reverse=True)]))
def test_groups_of_fewer_programs_with_more_units(kind, case):
    """Ten programs, where eighteen would be wanted; deeper products, too."""
    with taking("grouped", processors=10), programs_at_once():
        check(kind, case, torch.bfloat16)


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("sizes", [(), (18, 18, 17, 1)], ids=str)
@pytest.mark.parametrize("projection", [0, 18])
def test_groups_that_save_nothing(projection, sizes, apart):
    """Projected: what a step gives lies where that of the step before lay."""
    case = Case(4, 18, 2, 20, sizes=sizes, proj=projection)
    given = layer_cases.tensors("lstm", case, torch.float32, DEVICE)
    steps = torch.tensor(sizes) if sizes else None
    with taking("grouped"), programs_at_once(apart=apart), seqkern.use_backend("triton"):
        expected = single_layer.lstm_layer(*map(wanting, given), batch_sizes=steps)
        expected = [t.detach() for t in expected]
        with torch.no_grad():
            found = single_layer.lstm_layer(*given, batch_sizes=steps)
    assert all(map(torch.equal, found, expected))


def wanting(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.requires_grad_()
