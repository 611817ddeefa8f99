"""The benchmark for GPUs as far as a CPU can run it: cases, comparison, clock, table, refusal."""

from __future__ import annotations

import sys

import pytest
import torch

from bench import attention_gpu_cases, gpu

CPU = torch.device("cpu")


def test_small_cases_run_and_agree():
    found = [
        *attention_gpu_cases._flash((1, 2, 64, 64), True, CPU),
        *attention_gpu_cases._masked((1, 2, 64, 64), CPU),
    ]
    results = [gpu.measure(case, CPU, rounds=3) for case in found]
    assert [r.target for r in results] == [1.2, 1.1, 1.5, 1.5]
    assert all(r.ours_ms > 0 and r.ratio == r.theirs_ms / r.ours_ms for r in results)
    text = gpu.table(results)
    assert "| attention forward bf16 d64 64 causal |" in text and "TFLOP/s" in text


def test_results_that_differ_are_an_error():
    case = gpu.Case("wrong", lambda: torch.ones(3), lambda: torch.zeros(3) + 1.1)
    with pytest.raises(AssertionError, match="wrong: results differ by 0.091"):
        gpu.measure(case, CPU, rounds=1)


def test_bytes_are_shown_as_bandwidth():
    case = gpu.Case("read", lambda: torch.ones(3), lambda: torch.ones(3), bytes=1e9)
    assert "GB/s" in gpu.measure(case, CPU, rounds=1).reached


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_why_it_cannot_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bench.gpu", str(tmp_path / "out.json")])
    assert gpu.main() == 1
    assert "needs a CUDA GPU" in capsys.readouterr().err and not list(tmp_path.iterdir())
