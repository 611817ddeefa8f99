"""The benchmark for GPUs as far as a CPU can run it: cases, comparison, clock, table, refusal."""

from __future__ import annotations

import sys

import pytest
import torch

from bench import attention_gpu_cases, embedding_gpu_cases, gpu, recurrent_gpu_cases

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


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_small_recurrent_cases_run_and_agree(kind):
    found = recurrent_gpu_cases.comparisons("cuda", kind, "f32", (5, 2, 8), CPU, target=1.0)
    results = [gpu.measure(case, CPU, rounds=3) for case in found]
    assert [r.name for r in results] == [
        f"cuda {kind} inference f32 5x2x8", f"cuda {kind} training f32 5x2x8"
    ]  # fmt: skip
    assert all(r.ratio == r.theirs_ms / r.ours_ms and r.target == 1.0 for r in results)


def test_ragged_cases_and_steps_run_and_agree():
    found = [
        *recurrent_gpu_cases.ragged("f32", (8, 3, 8), CPU),
        recurrent_gpu_cases.step_latency((5, 2, 8), CPU),
    ]
    results = [gpu.measure(case, CPU, rounds=3) for case in found]
    assert "us a step" in results[-1].reached and "TFLOP/s" in results[0].reached


def test_groups_have_their_geometric_mean():
    names = ("cuda LSTM training bf16 1x1x1", "cuda LSTM training bf16 2x2x2", "other")
    results = [
        gpu.Result(name, 1.0, ratio, ratio, "", None, 0.0)
        for name, ratio in zip(names, (1.0, 4.0, 9.0), strict=True)
    ]
    assert "| cuda LSTM training bf16 | 2 | 2.00 | >= 2 |" in gpu.groups(results)


def test_every_group_has_cases(monkeypatch):
    """Names only: no case runs."""
    monkeypatch.setattr(recurrent_gpu_cases, "comparisons", _names)
    monkeypatch.setattr(recurrent_gpu_cases, "ragged", lambda *a: _names("cuda ragged", "LSTM", *a))
    monkeypatch.setattr(recurrent_gpu_cases, "step_latency", lambda *a: "")
    found = [
        *recurrent_gpu_cases.triton_cases(CPU),
        *recurrent_gpu_cases.cuda_cases(CPU),
    ]
    for group in recurrent_gpu_cases.GROUPS:
        assert any(name.startswith(f"{group} ") for name in found), group


def _names(backend, kind, dtype, *rest, **options):
    return [f"{backend} {kind} {what} {dtype} x" for what in ("inference", "training")]


@pytest.mark.parametrize("optimizer", embedding_gpu_cases.OPTIMIZERS)
def test_small_steps_of_skipgram_run_and_agree(optimizer):
    shape = embedding_gpu_cases.Shape(50, 8, 20, 3)
    result = gpu.measure(embedding_gpu_cases.step(shape, optimizer, CPU), CPU, rounds=2)
    assert result.name.startswith("skip-gram") and "GB/s" in result.reached
    assert result.ratio == result.theirs_ms / result.ours_ms and result.error < 1e-5


def test_a_small_training_runs_beside_gensim(tmp_path, monkeypatch):
    """On a CPU in the place of the GPU; so few words teach nothing that both agree on."""
    pytest.importorskip("gensim")
    text = tmp_path / "text.txt"
    line = " ".join(f"w{i % 7}x" for i in range(60))
    text.write_text(f"{line}\n" * 30)
    corpus = embedding_gpu_cases.word2vec_cases.Corpus(text, text, 60 * 30)
    row = embedding_gpu_cases.word2vec_cases.Row(
        "small", 8, embedding_gpu_cases.Target(1), 0, {"sg": 1}
    )
    monkeypatch.setattr(embedding_gpu_cases.word2vec_cases, "AGREEMENT", 100.0)
    case = embedding_gpu_cases.training(row, corpus, CPU)
    result = gpu.measure(case, CPU)
    assert case.rounds == 2 and result.target == embedding_gpu_cases.TIMES_GENSIM
    assert result.name == "training small 7200 words" and "GB/s" in result.reached


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
