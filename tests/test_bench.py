"""The machinery of the benchmarks: who runs when, what is checked, what is recorded and reported.

Nothing here depends on how fast anything is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import memory
from bench.pair import check_results
from bench.recurrent_cases import (
    CELL_FAMILIES,
    FAMILIES,
    SHAPES,
    Case,
    Contestant,
    Family,
    Shape,
    contestants,
    grid,
)
from bench.report import main as report
from seqkern.timing import interleave

ROOT = Path(__file__).parents[1]


def run_benchmark(folder: Path, source: str, *words: str) -> tuple[int, str, dict[str, Any]]:
    """Run a benchmark file of its own; returns the exit status, the output and the JSON."""
    (folder / "conftest.py").write_text('pytest_plugins = ["bench.conftest"]\n')
    (folder / "some_bench.py").write_text(source)
    result = folder / "result.json"
    process = subprocess.run(
        [sys.executable, "-m", "pytest", folder / "some_bench.py", "-p", "no:cacheprovider"]
        + [f"--rootdir={folder}", f"--benchmark-json={result}", *words],
        cwd=ROOT,
        env=os.environ | {"BENCH_QUICK": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    content = result.read_text() if result.exists() else ""
    return process.returncode, process.stdout, json.loads(content) if content else {}


class TestPair:
    def test_takes_turns_and_records_both(self, tmp_path: Path) -> None:
        status, output, run = run_benchmark(
            tmp_path,
            """
import json, pathlib, torch

def test_trivial(pair):
    calls = []
    def ours():
        calls.append("o")
        return [torch.ones(3)]
    def peer():
        calls.append("p")
        return [torch.ones(3)]
    pair(ours, peer, tolerance=0, row="trivial", flops=6)
    pathlib.Path(__file__).with_name("calls").write_text("".join(calls))
""",
        )
        assert status == 0, output
        info = run["benchmarks"][0]["extra_info"]
        assert info["row"] == "trivial" and info["flops"] == 6
        rounds = info["rounds"]
        calls = (tmp_path / "calls").read_text()
        check_and_warm_up, measured = calls[:4], calls[4:]
        assert check_and_warm_up == "opop"
        assert measured == ("poop" * rounds)[: 2 * rounds]
        assert run["benchmarks"][0]["stats"]["rounds"] == rounds
        for side in ("ours", "peer"):
            assert 0 < info[f"{side}_min"] <= info[f"{side}_median"]
        assert info["ratio"] == pytest.approx(info["peer_min"] / info["ours_min"])
        assert info["ratio_of_medians"] == pytest.approx(info["peer_median"] / info["ours_median"])

        assert run["peers"]["torch"] == torch.__version__
        assert (
            run["peers"]["flashrnn"] == "missing: needs a CUDA device" or torch.cuda.is_available()
        )
        assert "seqkern" in run["installation"]
        assert run["peak_memory"] == []

    def test_different_results_fail(self, tmp_path: Path) -> None:
        status, output, run = run_benchmark(
            tmp_path,
            """
import torch

def test_wrong(pair):
    pair(lambda: [torch.ones(3)], lambda: [torch.ones(3) * 1.1], tolerance=1e-3)
""",
        )
        assert status == 1
        assert "result 0 deviates from the peer's by 9.1e-02, allowed 1e-03" in output
        assert run.get("benchmarks", []) == []

    @pytest.mark.parametrize(
        ("ours", "message"),
        [
            ([], "0 results of ours, 1 of the peer"),
            ([torch.ones(2)], "result 0 is torch.float32"),
            ([torch.ones(3).double()], "result 0 is torch.float64"),
            ([torch.tensor([1, float("nan"), 1])], "deviates from the peer's by nan"),
        ],
    )
    def test_what_counts_as_different(self, ours: list[torch.Tensor], message: str) -> None:
        with pytest.raises(AssertionError, match=message):
            check_results(ours, [torch.ones(3)], 1e-3)
        check_results([torch.ones(3)], [torch.ones(3)], 0)


class TestInterleave:
    def test_order(self) -> None:
        calls: list[str] = []
        times = interleave(
            lambda: calls.append("a"),
            lambda: calls.append("b"),
            3,
            prepare_first=lambda: calls.append("<"),
            prepare_second=lambda: calls.append(">"),
        )
        assert "".join(calls) == "<a>b" + ">b<a" + "<a>b"
        assert len(times.first) == len(times.second) == 3

    def test_no_rounds(self) -> None:
        with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
            interleave(int, int, 0)


class TestCases:
    def test_grid_holds_what_is_promised(self) -> None:
        cases = [*grid(FAMILIES, SHAPES), *grid(CELL_FAMILIES, [Shape(1, 16, 64, 64)])]
        assert len({str(case) for case in cases}) == len(cases)
        assert {case.mode for case in cases} == {"inference", "training"}
        for kind in ("LSTM", "GRU", "RNN"):
            of_kind = [case for case in cases if case.family.kind == kind]
            assert {case.shape for case in of_kind} == set(SHAPES)
            for dtype in (torch.float32, torch.bfloat16):
                layouts = {c.family.layout for c in of_kind if c.family.dtype == dtype}
                assert {"dense", "ragged"} <= layouts

    @pytest.mark.parametrize(
        ("family", "macs"),
        [
            (Family("LSTM"), 4 * 8 * (6 + 8) * 20),
            (Family("GRU"), 3 * 8 * (6 + 8) * 20),
            (Family("RNN", layout="shorter"), 8 * (6 + 8) * 19),
            (Family("LSTM", projection=True), (4 * 8 * (6 + 4) + 8 * 4) * 20),
            (
                Family("LSTM", layers=2, bidirectional=True),
                2 * 4 * 8 * ((6 + 8) + (16 + 8)) * 20,
            ),
        ],
        ids=lambda value: value.name if isinstance(value, Family) else "",
    )
    def test_flops(self, family: Family, macs: int) -> None:
        shape = Shape(time=10, batch=2, inputs=6, hidden=8)
        assert Case(family, shape, "inference", 1).flops == 2 * macs
        assert Case(family, shape, "training", 1).flops == 3 * 2 * macs

    def test_lengths(self) -> None:
        shape = Shape(40, 50, 1, 1)
        lengths = Case(Family("LSTM", layout="ragged"), shape, "training", 1).lengths
        assert lengths == sorted(lengths, reverse=True)
        assert 10 <= min(lengths) < 15 and 35 < max(lengths) <= 40
        assert Case(Family("LSTM", layout="shorter"), Shape(5, 3, 1, 1), "training", 1).lengths == [
            5,
            5,
            4,
        ]

    @pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
    @pytest.mark.parametrize("family", [*FAMILIES, *CELL_FAMILIES], ids=lambda family: family.name)
    def test_contestants_do_the_same_work(self, family: Family) -> None:
        shape = Shape(1 if family.is_cell else 6, 3, 8, 8)
        for mode, results in (("inference", 1), ("training", None)):
            pair = contestants(Case(family, shape, mode, 1))
            assert [type(one.module).__module__.split(".")[0] for one in pair] == [
                "seqkern",
                "torch",
            ]
            ours, theirs = (one() for one in pair)
            parameters = len(list(pair[0].module.parameters()))
            assert len(ours) == (results or 2 + parameters)
            check_results(ours, theirs, 1e-5 if family.dtype == torch.float32 else 5e-2)
            again = pair[0]()  # gradients do not pile up
            for first, second in zip(ours, again, strict=True):
                torch.testing.assert_close(first, second)

    def test_forget(self) -> None:
        contestant: Contestant = contestants(Case(Family("GRU"), Shape(3, 2, 4, 4), "training", 1))[
            0
        ]
        contestant()
        contestant.forget()
        assert all(parameter.grad is None for parameter in contestant.module.parameters())


@pytest.mark.skipif(not memory.can_measure(), reason="needs Linux's /proc/self/clear_refs")
def test_memory_sees_what_a_step_takes() -> None:
    # The output and its gradients alone are 32 MiB.
    (peak,) = memory.measure("torch", Family("LSTM"), [Shape(256, 64, 64, 256)])
    assert 32 * 2**20 < peak < 2**30


def record(**changes: Any) -> dict[str, Any]:
    """One measurement as the benchmarks record it."""
    target = {"mean": 1.5, "one": None, "worst": None}
    info = {
        "table": "Layers",
        "row": "LSTM",
        "mode": "training",
        "shape": "4x1x8x8",
        "batch": 1,
        "threads": 2,
        "backend": "cpu",
        "flops": 2e9,
        "peak_gflops": 100.0,
        "target": target,
        "rounds": 7,
        "ours_min": 0.05,
        "ours_median": 0.06,
        "peer_min": 0.1,
        "peer_median": 0.11,
        "ratio": 2.0,
        "ratio_of_medians": 1.83,
    }
    return {"extra_info": info | changes}


class TestReport:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        strict = {"mean": 1.1, "one": 4, "worst": 0.95}
        gru = {"row": "GRU", "target": strict}
        swept = {"sweep": "time", "table": None}
        benchmarks = [
            record(),
            record(shape="4x9x8x8", batch=9, ratio=0.5, backend="torch"),
            record(**gru, ratio=4.5),
            record(**gru, shape="4x9x8x8", batch=9, ratio=0.9),
            record(row="RNN", mode="inference", threads=1, target=None),
            {"extra_info": {}},  # a benchmark that is not a pair
        ]
        for at in (4, 8):
            benchmarks.append(record(**swept, at=at))
            del benchmarks[-1]["extra_info"]["table"]
        run = {
            "benchmarks": benchmarks,
            "peers": {"torch": "9.9", "other": "missing: not installed"},
            "installation": "the machine",
            "peak_memory": [
                {"row": "LSTM", "shape": "4x1x8x8", "ours": 3 * 2**20, "peer": 4 * 2**20}
            ],
        }
        path = tmp_path / "run.json"
        path.write_text(json.dumps(run))
        return path

    def test_tables(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert report([str(file)]) == 0
        text = capsys.readouterr().out
        assert text == (file.parent / "report.md").read_text() + "\n"
        lines = text.splitlines()
        assert "## Layers, training, 2 threads" in lines
        assert "## Layers, inference, 1 thread" in lines
        assert "|  | 4x1x8x8 | 4x9x8x8 | mean | batch 1 | worst | target | met |" in lines
        assert "| LSTM | 2.00 | 0.50* | **1.00** | 2.00 | 0.50 | ≥ 1.5 | **no** |" in lines
        assert (
            "| GRU | 4.50 | 0.90 | **2.01** | 4.50 | 0.90 "
            "| ≥ 1.1, batch 1 ≥ 4, each ≥ 0.95 | **no** |"
        ) in lines
        assert "| RNN | 2.00 | **2.00** | 2.00 | 2.00 |  |  |" in lines
        assert (
            "| LSTM | 4x1x8x8 | cpu | 7 | 100.000 | 50.000 | 110.000 / 60.000 | 2.00 "
            "| 20.0 | 40.0 | 100 |"
        ) in lines
        assert "| LSTM | 3.0 / 4.0 | each ≤ PyTorch's | yes |" in lines
        assert "An asterisk marks a shape that seqkern leaves to PyTorch." in text
        assert "Peers: torch 9.9, other missing: not installed." in lines
        assert "the machine" in lines

    def test_memory_above_the_peers_at_one_shape(self, file: Path) -> None:
        run = json.loads(file.read_text())
        run["peak_memory"].append({"row": "LSTM", "shape": "big", "ours": 9, "peer": 8})
        run["peak_memory"].append({"row": "GRU", "shape": "big", "ours": 2**20, "peer": 2**20})
        file.write_text(json.dumps(run))
        assert report([str(file)]) == 0
        lines = (file.parent / "report.md").read_text().splitlines()
        assert "| LSTM | 3.0 / 4.0 | 0.0 / 0.0 | each ≤ PyTorch's | **no** |" in lines
        assert "| GRU |  | 1.0 / 1.0 | each ≤ PyTorch's | yes |" in lines

    def test_no_word_of_an_asterisk_that_is_not_there(self, file: Path) -> None:
        run = json.loads(file.read_text())
        for entry in run["benchmarks"]:
            if entry["extra_info"]:
                entry["extra_info"]["backend"] = "cpu"
        file.write_text(json.dumps(run))
        assert report([str(file)]) == 0
        assert "asterisk" not in (file.parent / "report.md").read_text()

    def test_plots_go_where_asked(self, file: Path, tmp_path: Path) -> None:
        out = tmp_path / "new" / "folder"
        assert report([str(file), "--out", str(out)]) == 0
        names = {
            "sweeps-training.png",
            "gflops-training-2threads.png",
            "gflops-inference-1threads.png",
        }
        assert {path.name for path in out.iterdir()} == {"report.md", *names}
        for name in names:
            assert (out / name).read_bytes().startswith(b"\x89PNG")
            assert f"({name})" in (out / "report.md").read_text()

    @pytest.mark.parametrize("content", [None, "", "[]", "{}", "not json"])
    def test_no_benchmark_file(
        self, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "file.json"
        if content is not None:
            path.write_text(content)
        assert report([str(path)]) == 1
        assert "is no benchmark JSON" in capsys.readouterr().err

    def test_of_a_real_run(self, tmp_path: Path) -> None:
        """The recurrent benchmarks record what the report reads."""
        result = tmp_path / "run.json"
        process = subprocess.run(
            [sys.executable, "-m", "pytest", "bench/recurrent_bench.py", "--benchmark-enable"]
            + [f"--benchmark-json={result}", "-p", "no:cacheprovider"]
            + ["-k", "(GRUCell and inference and 1threads) or (test_sweep and time-16x and RNN)"],
            cwd=ROOT,
            env=os.environ | {"BENCH_QUICK": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, process.stdout
        assert report([str(result)]) == 0
        text = (tmp_path / "report.md").read_text()
        assert "## Recurrent cells, inference, 1 thread" in text
        assert "| GRUCell float32 dense |" in text
        assert (tmp_path / "sweeps-inference.png").exists()
