"""No Triton kernel spills, or takes more of a GPU than there is, or compiles anew for new sizes."""

from __future__ import annotations

import json

import pytest

from seqkern.core.triton import support

if support.missing:
    pytest.skip(support.missing, allow_module_level=True)

import triton

from tests.triton_resources import (
    ARCHITECTURES,
    RECORD,
    calls,
    fingerprint,
    kernels,
    measure,
    parse,
    too_much,
)

RECORDED = json.loads(RECORD.read_text())
NAMES = sorted(calls())
# A compilation takes seconds: some calls, each for one architecture.
SAMPLE = [
    (name, ARCHITECTURES[place % len(ARCHITECTURES)])
    for place, name in enumerate(NAMES[:: max(1, len(NAMES) // 6)])
]
REPORT = """
Resource usage:
 Common:
  GLOBAL:0
 Function forward:
  REG:168 STACK:16 SHARED:0 LOCAL:8 TEXTURE:0 SURFACE:0 SAMPLER:0 CONSTANT[0]:640
 Function helper:
  REG:4 STACK:0 SHARED:0 LOCAL:0 TEXTURE:0 SURFACE:0 SAMPLER:0 CONSTANT[0]:640
"""


def test_what_cuobjdump_reports_is_understood():
    assert parse(REPORT) == {"registers": 168, "spilled_bytes": 24}


def test_what_is_too_much():
    fits = {"registers": 255, "spilled_bytes": 0, "shared_bytes": 163 * 1024}
    assert too_much("f", {"k": {"sm_80": fits}}) == []
    spills = too_much("f", {"k": {"sm_90": {**fits, "spilled_bytes": 4}}})
    assert spills == ["f: k on sm_90 spills 4 bytes"]
    large = too_much("f", {"k": {"sm_80": {**fits, "shared_bytes": 163 * 1024 + 1}}})
    assert large == ["f: k on sm_80 wants 166913 bytes of shared memory"]


def test_kernels_are_read_without_their_words():
    code = kernels("attention")
    assert "attention_forward_kernel" in code and "Programs: tiles" not in code


@pytest.mark.skipif(
    triton.__version__ != RECORDED["triton"], reason="the record is of another Triton"
)
@pytest.mark.parametrize("name", NAMES)
def test_the_record_is_of_what_ships(name):
    recorded = RECORDED["calls"].get(name, {}).get("fingerprint")
    assert recorded == fingerprint(name), "a Triton kernel or a launch changed: make resources"


def test_nothing_else_is_recorded():
    assert sorted(RECORDED["calls"]) == NAMES


@pytest.mark.parametrize("name", RECORDED["calls"])
def test_it_fits(name):
    assert too_much(name, RECORDED["calls"][name]["kernels"]) == []


@pytest.mark.parametrize("name, architecture", SAMPLE)
def test_a_sample_is_as_recorded(name, architecture):
    """The numbers depend on Triton's release, that they fit does not."""
    row = measure(name, [architecture])
    assert too_much(name, row) == []
    if triton.__version__ == RECORDED["triton"]:
        at = f"sm_{architecture}"
        recorded = {k: v[at] for k, v in RECORDED["calls"][name]["kernels"].items() if at in v}
        assert {k: v[at] for k, v in row.items()} == recorded
