"""No Triton kernel spills, or takes more of a GPU than there is, or compiles anew for new sizes."""

from __future__ import annotations

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
    record_of,
    shipped,
    too_much,
    write,
)

OF_THIS_RELEASE = record_of(triton.__version__)
RECORDS = sorted(RECORD.parent.glob(f"{RECORD.stem}*.json"))
# Without one of this release, that of another still says what there is to compile.
RELEASE, RECORDED = read(OF_THIS_RELEASE if OF_THIS_RELEASE.exists() else RECORD)
# The configurations are chosen so that nothing spills with the release of RECORD.
MAY_SPILL = read(RECORD)[0] != RELEASE
of_this_release = pytest.mark.skipif(
    triton.__version__ != RELEASE,
    reason=f"Triton {triton.__version__} has no record, `make resources` would write "
    f"tests/{OF_THIS_RELEASE.name}: what a kernel uses may differ from {RELEASE}'s",
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
    assert too_much("k", {90: fits._replace(spilled=4)}, may_spill=True) == []
    assert too_much("k", {80: fits._replace(shared=163 * 1024 + 1)}) == [
        "k on sm_80 wants 166913 bytes of shared memory"
    ]


def test_what_is_written_is_read_one_line_for_a_row(tmp_path):
    path = tmp_path / "record.json"
    used = {architecture: Usage(architecture, 0, 7) for architecture in ARCHITECTURES}
    kernels = {
        "one": Kernel("c", {f"call {n}": Row(f"l{n}", used) for n in range(5)}),
        "other": Kernel("d", {"call 0": Row("m", used)}),
    }
    write(path, kernels)
    assert read(path) == (triton.__version__, kernels)
    for line in path.read_text().splitlines():
        assert line.count('"call ') <= 1


def test_another_release_has_a_record_of_its_own(tmp_path, monkeypatch):
    record = tmp_path / "record.json"
    monkeypatch.setattr(triton_resources, "RECORD", record)
    assert record_of("3.0.0") == record  # the first
    write(record, {"one": Kernel("c", {})})
    assert record_of(triton.__version__) == record
    assert record_of("3.0.0") == tmp_path / "record-3.0.0.json"


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
        assert too_much(f"{name}, {call}", row.used, may_spill=MAY_SPILL) == []


@pytest.mark.parametrize("name, call, architecture", SAMPLE)
def test_a_sample_is_as_recorded(name, call, architecture):
    """Of a release without a record it is known only that they should fit."""
    used = measure(name, call, [architecture])
    if triton.__version__ == RELEASE:
        assert used[architecture] == RECORDED[name].rows[call].used[architecture]
    else:
        assert too_much(f"{name}, {call}", used) == []


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_short_and_named_after_its_release(path):
    release, kernels = read(path)
    assert record_of(release) == path
    rows = sum(len(kernel.rows) for kernel in kernels.values())
    assert len(path.read_text().splitlines()) <= rows + 3 * len(kernels) + 5
