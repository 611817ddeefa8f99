"""No Triton kernel spills, or takes more of a GPU than there is, or compiles anew for new sizes."""

from __future__ import annotations

import json

import pytest

from seqkern.core.triton import support

if support.missing:
    pytest.skip(support.missing, allow_module_level=True)

import triton

from tests import triton_resources
from tests.triton_resources import (
    ARCHITECTURES,
    RECORD,
    Kernel,
    Row,
    Usage,
    measure,
    parse,
    read,
    shipped,
    too_much,
    write,
)

RELEASE, RECORDED = read()
of_this_release = pytest.mark.skipif(
    triton.__version__ != RELEASE,
    reason=f"the record is of Triton {RELEASE}, this is {triton.__version__}: what a kernel uses "
    "may differ, and `make resources` would record this release's in its place",
)
# What ships takes some seconds to find out, so one worker does, and none while tests are collected.
in_one_worker = pytest.mark.xdist_group("what Triton kernels ship")
# A compilation takes a second or more: some rows, each for one architecture.
ROWS = [(name, call) for name in RECORDED for call in RECORDED[name].rows]
SAMPLE = [
    (*row, ARCHITECTURES[place % len(ARCHITECTURES)])
    for place, row in enumerate(ROWS[:: max(1, len(ROWS) // 10)])
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
    assert parse(REPORT) == (168, 24)


def test_what_is_too_much():
    fits = Usage(255, 0, 163 * 1024)
    assert too_much("k", {80: fits}) == []
    assert too_much("k", {90: fits._replace(spilled=4)}) == ["k on sm_90 spills 4 bytes"]
    assert too_much("k", {80: fits._replace(shared=163 * 1024 + 1)}) == [
        "k on sm_80 wants 166913 bytes of shared memory"
    ]


def test_what_is_written_is_read_one_line_for_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_resources, "RECORD", tmp_path / "record.json")
    used = {architecture: Usage(architecture, 0, 7) for architecture in ARCHITECTURES}
    kernels = {
        "one": Kernel("c", {f"call {n}": Row(f"l{n}", used) for n in range(5)}),
        "other": Kernel("d", {"call 0": Row("m", used)}),
    }
    write(kernels)
    assert read() == (triton.__version__, kernels)
    for line in triton_resources.RECORD.read_text().splitlines():
        assert line.count('"call ') <= 1


@of_this_release
@in_one_worker
@pytest.mark.parametrize("name", RECORDED)
def test_the_record_is_of_what_ships(name):
    def of(kernel: Kernel) -> tuple[str, dict[str, str]]:
        return kernel.code, {call: row.launches for call, row in kernel.rows.items()}

    ships = shipped().get(name, Kernel("", {}))
    assert of(RECORDED[name]) == of(ships), "the kernel or a launch changed: make resources"


@in_one_worker
def test_every_kernel_is_recorded():
    assert sorted(RECORDED) == sorted(shipped()), "make resources"


@pytest.mark.parametrize("name", RECORDED)
def test_it_fits(name):
    for call, row in RECORDED[name].rows.items():
        assert too_much(f"{name}, {call}", row.used) == []


@pytest.mark.parametrize("name, call, architecture", SAMPLE)
def test_a_sample_is_as_recorded(name, call, architecture):
    """The numbers depend on Triton's release, that they fit does not."""
    used = measure(name, call, [architecture])
    assert too_much(f"{name}, {call}", used) == []
    if triton.__version__ == RELEASE:
        assert used[architecture] == RECORDED[name].rows[call].used[architecture]


def test_the_record_is_short():
    assert len(RECORD.read_text().splitlines()) <= len(ROWS) + 3 * len(RECORDED) + 5
    assert json.loads(RECORD.read_text())["triton"] == RELEASE
