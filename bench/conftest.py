"""Fixtures of the benchmarks, and what a run records beside its measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import seqkern

from .pair import pair
from .peers import peers

__all__ = ["errors", "pair", "peak_memory"]

_PEAK_MEMORY = pytest.StashKey[list[dict[str, Any]]]()
_ERRORS = pytest.StashKey[list[dict[str, Any]]]()


@pytest.fixture
def peak_memory(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The list of memory measurements that goes into the JSON of this run."""
    return request.config.stash.setdefault(_PEAK_MEMORY, [])


@pytest.fixture
def errors(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The list of errors against the reference that goes into the JSON of this run."""
    return request.config.stash.setdefault(_ERRORS, [])


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Record memory, errors, the peers and the installation in the JSON."""
    output_json["peak_memory"] = config.stash.get(_PEAK_MEMORY, [])
    output_json["errors"] = config.stash.get(_ERRORS, [])
    output_json["peers"] = peers()
    # Without the path of this checkout, which is private.
    output_json["installation"] = seqkern.info().replace(f"{Path(__file__).parents[1]}/", "")
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)  # every single round: megabytes that are not used
