"""Whether Triton can run here, operators made of its kernels, and what surrounds their tests."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seqkern.core.triton import support
from seqkern.core.triton.operators import triton_name
from tests import gpu
from tests.guards import all_guarded, guarded

ROOT = Path(__file__).resolve().parent.parent


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=inherited | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_seqkern_does_not_import_triton():
    code = (
        "import sys, torch, seqkern\n"
        "x = torch.randn(1, 2, 3, 4)\n"
        "seqkern.nn.functional.scaled_dot_product_attention(x, x, x)\n"
        "assert 'triton' not in sys.modules"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_without_triton_everything_else_works():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, seqkern\n"
        "sdpa = seqkern.nn.functional.scaled_dot_product_attention\n"
        "x = torch.randn(1, 2, 3, 4)\n"
        "sdpa(x, x, x)\n"
        "print(seqkern.explain(sdpa, x, x, x))\n"
        "from seqkern import info; print(info())\n"
        "with seqkern.use_backend('triton'): sdpa(x, x, x)"
    )
    done = python("-c", code)
    assert "triton     cannot: triton is not installed (pip install triton==" in done.stdout
    assert "Triton        triton is not installed" in done.stdout
    assert "'triton' cannot run this call: triton is not installed" in done.stderr


def test_where_kernels_run():
    refusal = support.device_refusal(torch.device("cpu"))
    assert "run on a CUDA GPU, the input is on cpu (for tests, TRITON_INTERPRET=1" in refusal
    assert "the input is on meta" in support.device_refusal(torch.device("meta"))
    code = (
        "import torch, seqkern\n"
        "from seqkern.core.triton import support as t\n"
        "assert t.device_refusal(torch.device('cpu')) == '', t.device_refusal\n"
        "print(t.state())\n"
        "x = torch.randn(1, 2, 3, 4)\n"
        "print(seqkern.explain('scaled_dot_product_attention', x, x, x).backend)"
    )
    done = python("-c", code, TRITON_INTERPRET="1")
    assert "interpreting on the CPU" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "cpu"  # never by itself


@pytest.mark.parametrize(
    "capability, interpreted, says",
    [((9, 0), False, ""), ((7, 5), False, "sm_80 or later, cuda is sm_75"), ((9, 0), True, "only")],
)
def test_gpus(monkeypatch, capability, interpreted, says):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(support, "INTERPRETED", interpreted)
    refusal = support.device_refusal(torch.device("cuda"))
    assert says in refusal and bool(says) == bool(refusal)


def test_an_operator_imports_its_kernels_when_it_first_runs():
    code = (
        "import sys, torch\n"
        "from seqkern.core.fakes import Fakes\n"
        "from seqkern.core.triton.operators import TritonOperators\n"
        "torch.library.define('seqkern::double_', '(Tensor x, int much) -> Tensor')\n"
        "def double_(x): return torch.empty_like(x)\n"
        "operators = TritonOperators({'double_': 'late:double'}, Fakes(double_))\n"
        "op = operators.by_backend('double_')['triton']\n"
        "assert op is torch.ops.seqkern.double_triton_.default\n"
        "x = torch.arange(3.0)\n"
        "assert op(x.to('meta'), 0).is_meta and 'late' not in sys.modules\n"
        "assert torch.equal(op(x, 0), 2 * x) and 'late' in sys.modules\n"
        "compiled = torch.compile(lambda x: op(x, 0), fullgraph=True, backend='aot_eager')\n"
        "assert torch.equal(compiled(x), 2 * x)"
    )
    late = (
        "from importlib.machinery import ModuleSpec\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return ModuleSpec(name, self) if name == 'late' else None\n"
        "    def create_module(self, spec): return None\n"
        "    def exec_module(self, module): module.double = lambda x, much: 2 * x\n"
        "import sys; sys.meta_path.insert(0, Finder())\n"
    )
    done = python("-c", late + code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_commands_for_a_gpu_say_why_there_is_none(capsys):
    assert gpu.main([]) == 1
    assert (
        "This command needs a CUDA GPU, and cannot use one here: torch " in capsys.readouterr().err
    )


def test_kernels_are_tested_in_a_process_of_their_own(tmp_path):
    """What one half of the tests leaves out, the other one runs, and an empty half is no error."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_both.py").write_text(
        "import pytest\n"
        "def test_without_kernels(): pass\n"
        "@pytest.mark.triton\n"
        "def test_with_kernels(): pass\n"
    )
    common = ("-m", "pytest", "-v", "-c", str(ROOT / "pyproject.toml"), str(tmp_path))
    for environment, ran in (({}, "without"), ({"TRITON_INTERPRET": "1"}, "with")):
        done = python(*common, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1 passed, 1 deselected" in done.stdout and f"test_{ran}_kernels" in done.stdout
        done = python(*common, "-k", f"not test_{ran}_kernels", **environment)
        assert done.returncode == 0 and "passed" not in done.stdout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64], ids=str)
def test_guards_surround_every_row(dtype):
    numbers = (torch.arange(24).view(2, 3, 4) % 2).to(dtype)
    for tensor in (numbers, numbers.transpose(0, 1), numbers[:, :1].expand(2, 5, 4)):
        inside = guarded(tensor, 2)
        assert torch.equal(inside, tensor) and inside.stride(-1) == 1
        assert [s == 0 for s in inside.stride()] == [s == 0 for s in tensor.stride()]
        row = inside.as_strided((4 + 2,), (1,), inside.storage_offset())
        beyond = row[4:]
        assert not torch.equal(beyond, beyond * 0) if dtype.is_floating_point else beyond.all()


def test_guards_keep_what_is_no_tensor_and_what_requires_grad():
    given = {"x": torch.ones(2, requires_grad=True), "seed": torch.tensor(3), "p": 0.5}
    found = all_guarded(given)
    assert found["x"].requires_grad and found["x"].is_leaf
    assert found["seed"] is given["seed"] and found["p"] == 0.5


@pytest.mark.skipif(bool(support.missing), reason=support.missing)
@pytest.mark.parametrize("domain", ["attention", "recurrent", "embedding"])
def test_every_implementation_is_where_the_table_says(domain):
    """Nobody imports them before they run, which needs a GPU."""
    operators = importlib.import_module(f"seqkern.{domain}.registration").triton_operators
    assert operators.implementations
    for name, implementation in operators.implementations.items():
        module, function = implementation.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        found = operators.by_backend(name)
        ours, theirs = (str(found[backend]._schema) for backend in ("cpu", "triton"))
        assert theirs.partition("(")[0] == f"seqkern::{triton_name(name)}"
        assert theirs.partition("(")[2] == ours.partition("(")[2]


def test_names_of_operators():
    assert triton_name("lstm_forward") == "lstm_forward_triton"
    assert triton_name("sparse_adam_") == "sparse_adam_triton_"
