"""Choosing a backend and asking why: use_backend, SEQKERN_BACKEND, explain."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch

import seqkern
from seqkern.core import library
from seqkern.core.backends import BACKENDS, requested
from seqkern.core.errors import SettingError


@pytest.fixture(autouse=True)
def _kernels_are_there():
    library.require_cpu()


def test_context_manager_and_function():
    assert requested.value == "auto"
    with seqkern.use_backend("reference"):
        assert requested.value == "reference"
        with seqkern.use_backend("torch") as inner:
            assert requested.value == "torch"
            assert repr(inner) == "use_backend('torch')"
        assert requested.value == "reference"
    assert requested.value == "auto"
    seqkern.use_backend("torch")
    assert requested.value == "torch"
    seqkern.use_backend("auto")


def test_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), seqkern.use_backend("reference"):
        1 / 0  # noqa: B018
    assert requested.value == "auto"


def test_one_object_used_twice():
    choice = seqkern.use_backend("reference")
    seqkern.use_backend("auto")
    for _ in range(2):
        with choice:
            assert requested.value == "reference"
        assert requested.value == "auto"


def test_a_block_restores_what_held_before_it():
    """Whatever was chosen between making the object and entering it."""
    choice = seqkern.use_backend("reference")
    seqkern.use_backend("torch")
    with choice:
        assert requested.value == "reference"
        with choice:
            seqkern.use_backend("cpu")
            assert requested.value == "cpu"
        assert requested.value == "reference"
    assert requested.value == "torch"
    kept = seqkern.use_backend("reference")
    with seqkern.use_backend("cpu"):
        pass
    with kept:
        pass
    assert requested.value == "reference"
    seqkern.use_backend("auto")


def test_one_object_in_two_threads():
    seen = []
    choice = seqkern.use_backend("reference")

    def other():
        with choice:
            seen.append(requested.value)
        seen.append(requested.value)

    with choice:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert requested.value == "reference"
    assert requested.value == "auto"
    assert seen == ["reference", "auto"]


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown backend 'gpu', choose from auto, cpu, triton"):
        seqkern.use_backend("gpu")
    assert requested.value == "auto"


def test_each_thread_chooses_for_itself():
    seen = []
    with seqkern.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(requested.value))
        thread.start()
        thread.join()
    assert seen == ["auto"]


def python(code: str, backend: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "SEQKERN_BACKEND": backend}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_environment_variable():
    code = "import seqkern, torch; print(seqkern.explain('gru', torch.randn(2, 3, 4)).backend)"
    assert python(code, "reference").stdout.strip() == "reference"
    assert python(code, "").stdout.strip() == "cpu"
    wrong = python(code, "fast")
    assert wrong.returncode != 0
    assert "SettingError: SEQKERN_BACKEND: unknown backend 'fast'" in wrong.stderr
    assert issubclass(SettingError, ValueError)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("triton", "(its kernels run on a CUDA GPU|triton is not installed)"),
        ("cuda", "its kernels run on a CUDA GPU, the input is on cpu"),
    ],
)
def test_a_named_backend_that_cannot_run_says_why(name, reason):
    module = seqkern.nn.LSTM(3, 4)
    cell = seqkern.nn.GRUCell(3, 4)
    message = f"backend '{name}' cannot run this call: {reason}"
    with seqkern.use_backend(name):
        with pytest.raises(RuntimeError, match=message):
            module(torch.randn(5, 2, 3))
        with pytest.raises(RuntimeError, match=message):
            cell(torch.randn(2, 3))


def test_cpu_by_name_says_why_not():
    with seqkern.use_backend("cpu"):
        module = seqkern.nn.LSTM(3, 4)
        x = torch.randn(5, 2, 3)
        with pytest.raises(RuntimeError, match="cannot run this call: a torch.func transform"):
            torch.func.vmap(lambda x: module(x)[0])(x[None])
        with pytest.raises(RuntimeError, match="the input is on meta"):
            module.to("meta")(x.to("meta"))
        with pytest.raises(RuntimeError, match="no kernel for torch.complex64"):
            seqkern.nn.GRU(3, 4, dtype=torch.complex64)(x.to(torch.complex64))


class Watch:
    """Records which backend runs, by wrapping what is called."""

    def __init__(self, monkeypatch):
        from seqkern.recurrent import autograd, cells, kinds, reference, torch_backend

        self.seen: set[str] = set()
        for module, name, backend in [
            (autograd, "lstm", "cpu"),
            (cells, "_lstm", "cpu"),
            (reference, "lstm", "reference"),
            (torch_backend, "stack", "torch"),
            (torch_backend, "cell", "torch"),
        ]:
            monkeypatch.setattr(module, name, self.noting(getattr(module, name), backend))
        assert kinds.autograd is autograd

    def noting(self, function, backend):
        def noted(*args, **kwargs):
            self.seen.add(backend)
            return function(*args, **kwargs)

        return noted


@pytest.mark.parametrize("name", ["auto", "cpu", "torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("cell", [False, True])
def test_explain_names_what_runs(monkeypatch, name, dtype, device, transform, cell):
    """What explain names is what runs, and what it says cannot run raises that reason."""
    watch = Watch(monkeypatch)
    cls = seqkern.nn.LSTMCell if cell else seqkern.nn.LSTM
    module = cls(3, 4, dtype=dtype, device=device)
    x = torch.zeros((2, 3) if cell else (5, 2, 3), dtype=dtype, device=device)
    said = []

    def call(x):
        said.append(seqkern.explain(module, x))
        return module(x)[0]

    with seqkern.use_backend(name):
        try:
            torch.func.vmap(call)(x[None]) if transform else call(x)
        except RuntimeError as error:
            if not said[0].backend:
                assert str(error) == f"backend {name!r} cannot run this call: " + said[0].reasons[
                    name
                ].removeprefix("cannot: ")
                assert not watch.seen
                return
            if name != "torch":  # PyTorch's fused LSTM under vmap
                raise
    assert watch.seen == {said[0].backend}


def test_explanation_as_a_table():
    explanation = seqkern.explain(seqkern.nn.LSTM(3, 4), torch.randn(5, 2, 3))
    assert explanation.backend == "cpu"
    assert tuple(explanation.reasons) == BACKENDS
    lines = str(explanation).splitlines()
    assert lines[0] == "LSTM(3, 4) runs on: cpu"
    assert len(lines) == 1 + len(BACKENDS)
    assert lines[1].startswith(
        f"> cpu        runs: fused kernels, ISA level {library.isa()} in use;"
    )
    # Nothing about speed: that is for the benchmarks to say.
    assert "slower" not in explanation.reasons["torch"]
    assert all(line[2:].split()[0] in BACKENDS for line in lines[1:])
    with seqkern.use_backend("cuda"):
        explanation = seqkern.explain(seqkern.nn.LSTM(3, 4), torch.randn(5, 2, 3))
    assert explanation.backend == ""
    assert "runs on: no backend" in str(explanation)
    assert "run on a CUDA GPU, the input is on cpu" in explanation.reasons["cuda"]


def test_what_can_be_explained():
    x = torch.randn(5, 2, 3)
    packed = torch.nn.utils.rnn.pack_sequence([x[:, 0], x[:3, 1]])
    weights = list(seqkern.nn.LSTM(3, 4).parameters())
    for operation, args in [
        (seqkern.nn.GRU(3, 4), (packed,)),
        (seqkern.nn.LSTM(3, 4), (x, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))),
        (seqkern.nn.functional.lstm, (x, None, weights)),
        (seqkern.nn.functional.rnn_relu_cell, (x[0],)),
        ("lstm", (x,)),
        ("gru_cell", (x[0],)),
    ]:
        assert seqkern.explain(operation, *args).backend == "cpu"
    for wrong in ("linear", torch.nn.LSTM(3, 4), torch.relu, 3, []):
        with pytest.raises(TypeError, match="operation must be a seqkern module"):
            seqkern.explain(wrong, x)
    with pytest.raises(TypeError, match="input must be a Tensor or a PackedSequence, got list"):
        seqkern.explain("lstm", [1, 2])


def test_explain_sees_a_forward_mode_tangent():
    import torch.autograd.forward_ad as forward_ad

    module = seqkern.nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    with forward_ad.dual_level():
        assert seqkern.explain(module, x).backend == "cpu"
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        explanation = seqkern.explain(module, dual)
        assert explanation.backend == "reference"
        assert "tangent" in explanation.reasons["cpu"]


def test_without_the_library_pytorch_runs_and_explain_says_why(tmp_path):
    """In a process of its own, with a path at which there is no library."""
    missing = tmp_path / "none.so"
    code = (
        "import torch, seqkern; m = seqkern.nn.LSTM(3, 4); x = torch.randn(5, 2, 3);"
        "print(seqkern.explain(m, x)); m(x)[0].sum().backward();"
        "seqkern.nn.GRUCell(3, 4)(x[0]); seqkern.use_backend('cpu'); m(x)"
    )
    environment = {**os.environ, "SEQKERN_CPU_LIBRARY": str(missing), "SEQKERN_BACKEND": "auto"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "runs on: torch" in done.stdout
    assert "SEQKERN_CPU_LIBRARY" in done.stdout
    assert "RuntimeError: backend 'cpu' cannot run this call" in done.stderr
