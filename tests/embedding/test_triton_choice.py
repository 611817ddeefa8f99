"""Who may run Triton's kernels of word vectors, and what is compiled for them: none runs here."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import seqkern
from seqkern.core.triton import support

if support.missing:
    pytest.skip(support.missing, allow_module_level=True)

from tests.embedding.triton_calls import objective
from tests.triton_launches import recorded


def explain(table: torch.Tensor) -> seqkern.core.backends.Explanation:
    ids, negatives = (torch.empty(s, dtype=torch.int64) for s in ((2,), (2, 1)))
    return seqkern.explain("skipgram_loss", table, table, ids, ids, negatives)


def test_a_gpu_takes_them_by_itself(monkeypatch):
    """PyTorch has no operator for it, so the choice is between these and the reference."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with FakeTensorMode():
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            table = torch.empty(5, 4, device="cuda", dtype=dtype)
            assert explain(table).backend == "triton"
        assert "not yet measured on a GPU" in explain(table).reasons["triton"]
        wide = explain(torch.empty(5, 2049, device="cuda"))
        assert wide.backend == "reference"
        assert wide.reasons["triton"] == "cannot: rows of up to 2048 features, these have 2049"
        optimizer = seqkern.optim.SparseAdam([torch.nn.Parameter(table.float())])
        assert seqkern.explain(optimizer).backend == "triton"
        with seqkern.use_backend("triton"), pytest.raises(RuntimeError, match="up to 2048"):
            ids, negatives = (
                torch.empty(s, dtype=torch.int64, device="cuda") for s in ((2,), (2, 1))
            )
            table = torch.empty(5, 2049, device="cuda")
            seqkern.nn.functional.skipgram_loss(table, table, ids, ids, negatives)


def test_an_old_gpu_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with FakeTensorMode():
        found = explain(torch.empty(5, 4, device="cuda"))
    assert found.backend == "reference" and "sm_80 or later" in found.reasons["triton"]


def test_a_cpu_never_takes_them_by_itself(monkeypatch):
    table = torch.randn(5, 4)
    optimizer = seqkern.optim.SparseAdam([torch.nn.Parameter(table)])
    for found in (explain(table), seqkern.explain(optimizer)):
        assert "run on a CUDA GPU" in found.reasons["triton"]
    monkeypatch.setattr(support, "INTERPRETED", True)
    for found in (explain(table), seqkern.explain(optimizer)):
        assert found.backend == "cpu" and found.reasons["triton"].startswith("could, but 'cpu'")


@pytest.mark.parametrize("deterministic", [False, True])
def test_no_batch_and_no_vocabulary_compiles_anew(deterministic):
    keys = set()
    torch.use_deterministic_algorithms(deterministic)
    try:
        for examples, words in (
            (1, 1),
            (2, 16),
            (15, 17),
            (16, 100),
            (4096, 2**20),
            (2**24, 2**30),
        ):
            with recorded(90) as launches:
                objective(100, torch.float32, examples=examples, words=words)
            keys.add(tuple(sorted({launch.key(90) for launch in launches})))
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(keys) == 1


@pytest.mark.parametrize("deterministic", [False, True])
def test_no_text_compiles_the_trainer_anew(deterministic):
    """Neither its windows, nor its words, nor the learning rate."""
    from tests.embedding.triton_calls import training

    keys = set()
    for windows, words in ((1, 1), (2, 16), (17, 33), (4096, 2**20)):
        with recorded(90) as launches:
            training(100, torch.float32, "skipgram", False, False, windows=windows, words=words)
        keys.add(launches[deterministic].key(90))
    assert len(keys) == 1


def test_windows_under_way_fit_on_the_gpu(monkeypatch):
    """A second wave of programs would take as long as the first."""
    from seqkern.embedding.triton import settings

    for features in (50, 100, 300):
        for dtype in (torch.float32, torch.bfloat16):
            for with_bags in (False, True):
                for contexts in (1, 10):
                    config = settings.training(features, contexts, dtype, with_bags)
                    assert 2 <= settings.resident(config) <= 4
