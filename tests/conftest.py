"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch

from seqkern import use_backend
from seqkern.core import library
from seqkern.core.backends import requested
from tests import triton_device, triton_rounding, workers


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test starts from the same seed and leaves threads and backend as it found them."""
    threads = torch.get_num_threads()
    backend = requested.value
    torch.manual_seed(0)
    yield
    use_backend(backend)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_configure(config: pytest.Config) -> None:
    workers.configure(config)
    torch.manual_seed(0)  # names of tests that hold numbers are the same in every process
    triton_rounding.mend_the_interpreter()


def pytest_itemcollected(item: pytest.Item) -> None:
    workers.group(item)


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    triton_device.select(config, items)
    # What one process has to run alone comes first, or it would still run when others are done.
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_testnodedown(node: Any) -> None:
    triton_device.hear(node.config, node)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    triton_device.forgive_an_empty_half(session, exitstatus)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `isa` runs once for each level that this machine has."""
    if "isa" in metafunc.fixturenames:
        # Without the library the test still runs, and fails with the reason.
        levels = library.isa_levels() if library.cpu.loaded else ("none",)
        metafunc.parametrize("isa", levels, indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Makes the CPU kernels use one instruction-set level during the test."""
    library.require_cpu()
    before = library.isa()
    library.set_isa(request.param)
    yield request.param
    library.set_isa(before)
