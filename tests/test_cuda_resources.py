"""No CUDA kernel takes more registers, or spills more of them, than was recorded for it."""

from __future__ import annotations

import json

import pytest

from build_tools.cuda import find_nvcc
from tests.cuda_resources import RECORD, Table, measure, nvcc_release, parse

RECORDED = json.loads(RECORD.read_text())
REPORT = """
ptxas info    : 28 bytes gmem, 224 bytes cmem[4]
ptxas info    : Compiling entry function '_ZN7seqkern4fillIfEEvPT_' for 'sm_80'
ptxas info    : Function properties for _ZN7seqkern4fillIfEEvPT_
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 400 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN7seqkern4fillIfEEvPT_' for 'sm_90a'
ptxas info    : Function properties for _ZN7seqkern4fillIfEEvPT_
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 0 barriers
"""


def test_what_ptxas_reports_is_understood():
    assert parse(REPORT) == {
        "fill<float>": {
            "sm_80": {"registers": 255, "spilled_bytes": 20},
            "sm_90a": {"registers": 24, "spilled_bytes": 0},
        }
    }


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Table:
    if find_nvcc() is None:
        pytest.skip("nvcc is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SEQKERN_CUDA_ARCHS", raising=False)
        return measure(tmp_path_factory.mktemp("fatbin"))


def column(table: Table, name: str) -> dict[tuple[str, str], int]:
    return {(k, arch): row[name] for k, archs in table.items() for arch, row in archs.items()}


def test_every_kernel_is_recorded(measured):
    assert measured
    # An older nvcc does not know the newest architectures.
    assert column(measured, "registers").keys() <= column(RECORDED["kernels"], "registers").keys()
    assert measured.keys() == RECORDED["kernels"].keys()


@pytest.mark.parametrize("what", ["registers", "spilled_bytes"])
def test_no_more_than_was_recorded(measured, what):
    if what == "registers" and nvcc_release() != RECORDED["nvcc"]:
        pytest.skip(f"registers were recorded with nvcc {RECORDED['nvcc']}, not {nvcc_release()}")
    recorded = column(RECORDED["kernels"], what)
    worse = {key: n for key, n in column(measured, what).items() if n > recorded.get(key, 0)}
    assert not worse
