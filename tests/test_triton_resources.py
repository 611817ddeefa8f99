"""No Triton kernel spills, or takes more of a GPU than was recorded for it and than there is."""

from __future__ import annotations

import json

import pytest

from seqkern import triton_support

if triton_support.missing:
    pytest.skip(triton_support.missing, allow_module_level=True)

import triton

from tests.triton_resources import RECORD, SHARED_LIMIT, calls, measure, parse

RECORDED = json.loads(RECORD.read_text())
CALLS = calls()
REPORT = """
Resource usage:
 Common:
  GLOBAL:0
 Function forward:
  REG:168 STACK:16 SHARED:0 LOCAL:8 TEXTURE:0 SURFACE:0 SAMPLER:0 CONSTANT[0]:640
"""


def test_what_cuobjdump_reports_is_understood():
    assert parse(REPORT) == {"registers": 168, "spilled_bytes": 24}


def test_every_call_is_recorded():
    assert CALLS.keys() == RECORDED["calls"].keys()


@pytest.mark.parametrize("name", CALLS)
def test_resources(name):
    """The numbers depend on Triton's release, that they fit does not."""
    row = measure(CALLS[name])
    for kernel, architectures in row.items():
        for architecture, used in architectures.items():
            where = f"{name}: {kernel} on {architecture}"
            assert used["spilled_bytes"] == 0, where
            assert used["shared_bytes"] <= SHARED_LIMIT[int(architecture[3:])], where
            if triton.__version__ == RECORDED["triton"]:
                allowed = RECORDED["calls"][name][kernel][architecture]
                assert used["registers"] <= allowed["registers"], where
                assert used["shared_bytes"] <= allowed["shared_bytes"], where
    assert row.keys() == RECORDED["calls"][name].keys()
