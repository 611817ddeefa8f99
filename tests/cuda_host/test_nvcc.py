"""nvcc compiles every wrapper for every architecture, into the instruction that it stands for."""

from __future__ import annotations

import subprocess

import pytest

from build_tools.cuda import DEFAULT_ARCHS, find_nvcc

from .conftest import HERE, nvcc_harness

EVERYWHERE = """
ld.global.cg ld.global.cs st.global.cs ld.global.nc ld.volatile st.volatile cvt.rn.bf16x2.f32
cvt.rn.f16x2.f32 cvt.rna.tf32.f32 shfl.sync.bfly shfl.sync.down shfl.sync.up shfl.sync.idx
bar.warp.sync bar.sync barrier.arrive barrier.sync vote.sync.ballot vote.sync.any vote.sync.all
.cas.b32 atom.global.add.f32 atom.global.cta.add.u32 atom.global.sys.max.s32 .exch.b32
st.release.gpu.global.b32 ld.acquire.gpu.global.b32 st.relaxed.gpu.global.b32
ld.relaxed.gpu.global.b32 red.release.gpu.global.add.u32 membar.cta membar.gl membar.sys
cp.async.cg.shared.global cp.async.ca.shared.global cp.async.commit_group cp.async.wait_group
ldmatrix.sync.aligned.m8n8.x1.shared.b16 ldmatrix.sync.aligned.m8n8.x2.shared.b16
ldmatrix.sync.aligned.m8n8.x4.shared.b16 ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16
ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32
"""
SINCE_SM90 = """
%cluster_ctarank %cluster_nctarank barrier.cluster.arrive.release barrier.cluster.wait.acquire
mapa.u64 mbarrier.init.shared mbarrier.arrive.shared mbarrier.arrive.expect_tx mapa.shared::cluster
mbarrier.arrive.release.cluster mbarrier.try_wait.parity fence.mbarrier_init
cp.async.bulk.shared::cluster.global cp.async.bulk.tensor.2d fence.proxy.async
cp.async.bulk.global.shared::cta cp.async.bulk.wait_group
"""


WGMMA = """
wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16
wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16
wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 wgmma.mma_async.sync.aligned.m64n16k8.f32.tf32
wgmma.fence wgmma.commit_group wgmma.wait_group
"""


@pytest.fixture
def ptx_of(tmp_path):
    """Compiles a file beside this one, to the end, and returns the PTX on the way."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed")

    def compile_for(source, arch):
        keep = ["-keep", f"-keep-dir={tmp_path}", "-cubin", "-o", "wrappers.cubin"]
        command = [*nvcc_harness(nvcc, arch), *keep, str(HERE / source)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "wgmma.mma_async instructions are serialized" not in done.stdout + done.stderr
        return next(tmp_path.glob("*.ptx")).read_text()

    return compile_for


def missing(names, ptx):
    return [name for name in names.split() if name not in ptx]


@pytest.mark.parametrize("arch", DEFAULT_ARCHS)
def test_wrappers(ptx_of, arch):
    ptx = ptx_of("wrappers.cu", arch)
    assert not missing(EVERYWHERE, ptx)
    assert not missing(SINCE_SM90 if arch != "80" else "trap", ptx)


@pytest.mark.parametrize("arch", DEFAULT_ARCHS)
def test_products_of_tiles(ptx_of, arch):
    ptx = ptx_of("tile_harness.cpp", arch)
    assert not missing("mma.sync ldmatrix.sync", ptx)
    assert not missing(WGMMA if arch == "90a" else "trap", ptx)
