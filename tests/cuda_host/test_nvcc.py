"""nvcc compiles every wrapper for every architecture, into the instruction that it stands for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from build_tools.cuda import DEFAULT_ARCHS, find_nvcc

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"

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


@pytest.mark.parametrize("arch", DEFAULT_ARCHS)
def test_wrappers_compile(arch, tmp_path):
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    flags = ["-std=c++17", "-O3", f"-arch=sm_{arch}", "-Werror=all-warnings", f"-I{CSRC}"]
    command = [nvcc, *flags, "-keep", f"-keep-dir={tmp_path}", "-cubin", "-o", "wrappers.cubin"]
    source = str(HERE / "wrappers.cu")
    done = subprocess.run([*command, source], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ptx = (tmp_path / "wrappers.ptx").read_text()
    expected = (EVERYWHERE + (SINCE_SM90 if arch != "80" else " trap")).split()
    assert [name for name in expected if name not in ptx] == []
