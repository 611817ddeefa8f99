"""Where the tests of Triton kernels run, and how: interpreted on the CPU, or on a GPU.

A test marked `pytest.mark.triton` runs kernels. Triton decides between interpreter and GPU when a
kernel is defined, so these tests run in a process of their own, and conftest.py selects them:

- `make test` runs `pytest` (all other tests) and then `TRITON_INTERPRET=1 pytest` (only these),
  each in several processes (`tests.workers`);
- `make gpu-test` runs `SEQKERN_TEST_DEVICE=cuda pytest` (only these, on the GPU), in several
  processes (`tests.gpu`).

They make their tensors on `DEVICE` and run `seqkern.use_backend("triton")`. The interpreter is slow
(milliseconds for an operation on a tile): shapes are small and still cross several tiles. It does
not notice a read out of bounds; `tests.guards` makes one show. It runs one program after the other;
`tests.triton_concurrency` runs those that wait for each other at once.

What a domain adds with its kernels:

- `tests/<domain>/test_triton_*.py` with this marker: parity with the reference;
- `tests/<domain>/test_triton_contract.py`: calls that `tests.device_contract` puts through CUDA
  graphs, streams, several devices, torch.compile and autocast;
- `tests/<domain>/triton_calls.py`: a call for every shipped configuration. `test_triton_resources`
  compiles what these calls launch for each architecture, without a GPU, and holds registers, spills
  and shared memory to `triton_resources*.json`; `make resources` writes that anew.
"""

from __future__ import annotations

import os

import pytest

from seqkern.core.triton import support
from tests import workers

DEVICE = os.environ.get("SEQKERN_TEST_DEVICE") or "cpu"
RUNS_KERNELS = support.INTERPRETED or DEVICE != "cpu"
_NOTHING_LEFT = pytest.StashKey[bool]()


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the tests for this process: those of Triton kernels, or all others. On a GPU also
    those of compiled CUDA kernels, marked `pytest.mark.cuda`, which run nowhere else."""
    chosen = [item for item in items if _belongs_here(item)]
    # `tests.gpu` runs the tests in several processes, each with a part of them.
    part, parts = (int(n) for n in os.environ.get("SEQKERN_TEST_PART", "0/1").split("/"))
    chosen = chosen[part::parts]
    kept = set(chosen)
    others = [item for item in items if item not in kept]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = chosen
    config.stash[_NOTHING_LEFT] = bool(others) and not chosen
    workers.tell_nothing_left(config, config.stash[_NOTHING_LEFT])


def hear(config: pytest.Config, node: object) -> None:
    """What `select` found in a worker. All have the same tests."""
    config.stash[_NOTHING_LEFT] = workers.nothing_left(node)


def _belongs_here(item: pytest.Item) -> bool:
    if item.get_closest_marker("cuda"):
        return DEVICE.startswith("cuda")
    return bool(item.get_closest_marker("triton")) == RUNS_KERNELS


def forgive_an_empty_half(session: pytest.Session, exitstatus: int) -> None:
    """`make test ARGS=...` may well name tests of one process only."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.stash.get(
        _NOTHING_LEFT, False
    ):
        session.exitstatus = pytest.ExitCode.OK
