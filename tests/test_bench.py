"""The machinery of the benchmarks: who runs when, what is checked, what is recorded and reported.

Nothing here depends on how fast anything is.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import attention_cases, memory, random_shapes, recurrent_cases, settings
from bench.bandwidth import read_bandwidth
from bench.cases import thread_count
from bench.errors import relative_errors
from bench.pair import check_results
from bench.random_cases import GROUPS, draw
from bench.report import main as report
from bench.report import summary
from bench.runs import read_runs
from bench.watched_cases import watched
from seqkern.core.timing import PairTimes, interleave
from tests.limits import HANGS

ROOT = Path(__file__).parents[1]
# pytest-benchmark measures nothing where it takes itself for one of pytest-xdist's workers.
ALONE = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}


def run_benchmark(folder: Path, source: str, *words: str) -> tuple[int, str, dict[str, Any]]:
    """Run a benchmark file of its own; returns the exit status, the output and the JSON."""
    (folder / "conftest.py").write_text('pytest_plugins = ["bench.conftest"]\n')
    (folder / "some_bench.py").write_text(source)
    result = folder / "result.json"
    process = subprocess.run(
        [sys.executable, "-m", "pytest", folder / "some_bench.py", "-p", "no:cacheprovider"]
        + [f"--rootdir={folder}", f"--benchmark-json={result}", *words],
        cwd=ROOT,
        env=ALONE | {"BENCH_QUICK": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANGS,
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
        assert run["peak_memory"] == [] and run["errors"] == []
        assert info["checked_against"] == "peer"

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

    STAND_IN = """
import torch

def test_random(pair):
    ours = lambda: [torch.rand(3)]
    pair(ours, lambda: [torch.rand(SIZE) + 1], tolerance=0, stand_in=lambda: [STAND_IN])
"""

    def test_stand_in(self, tmp_path: Path) -> None:
        """Compared in the peer's place and seeded alike."""
        source = self.STAND_IN.replace("SIZE", "3").replace("STAND_IN", "torch.rand(3)")
        status, output, run = run_benchmark(tmp_path, source)
        assert status == 0, output
        info = run["benchmarks"][0]["extra_info"]
        assert info["checked_against"] == "stand-in" and info["peer_wrong"] is False

    @pytest.mark.parametrize(
        ("stand_in", "size", "message"),
        [
            ("torch.rand(3) + 1", "3", "result 0 deviates from the peer's by"),
            ("torch.rand(3)", "4", "the peer's torch.float32 (4,)"),
            ("torch.rand(3)", "3) * float('nan'", "deviates from the peer's by nan"),
        ],
    )
    def test_stand_in_that_differs(
        self, tmp_path: Path, stand_in: str, size: str, message: str
    ) -> None:
        source = self.STAND_IN.replace("SIZE", size).replace("STAND_IN", stand_in)
        status, output, run = run_benchmark(tmp_path, source)
        assert status == 1 and message in output
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


@pytest.mark.skipif(not memory.can_measure(), reason="needs Linux's /proc/self/clear_refs")
class TestMemory:
    def test_sees_what_a_step_takes(self) -> None:
        family = recurrent_cases.Family("LSTM")
        case = recurrent_cases.Case("training", 1, family, recurrent_cases.Shape(256, 64, 64, 256))
        # The output and its gradients alone are 32 MiB.
        (peak,) = memory.measure("torch", [case])
        assert 32 * 2**20 < peak < 2**30

    def test_first_step_after_a_small_case(self) -> None:
        def case(length: int) -> attention_cases.Case:
            family = attention_cases.Family("dropout")
            return attention_cases.Case(
                "training", 1, family, attention_cases.Shape(1, 1, length, 64)
            )

        # PyTorch keeps the probabilities of every pair, dropped and not.
        (large, small) = memory.measure("torch", [case(2048), case(256)], case(16))
        assert 2 * 16 * 2**20 < large < 2**28
        assert small < 16 * 2**20

    def test_a_failure_is_told(self) -> None:
        case = recurrent_cases.Case(
            "training", 1, recurrent_cases.Family("nothing"), recurrent_cases.Shape(1, 1, 1, 1)
        )
        with pytest.raises(RuntimeError, match="has no attribute 'nothing'"):
            memory.measure("torch", [case])


def test_read_bandwidth() -> None:
    with thread_count(1):
        small, large = read_bandwidth(2**14), read_bandwidth(2**24)
        assert 0.1 < large < 1e5 and 0.1 < small < 1e5
        assert read_bandwidth(2**24) == large  # measured once


def test_relative_errors() -> None:
    reference = [torch.tensor([3.0, 4.0]), torch.tensor([0.0, 5.0]), torch.tensor([12.0])]
    results = [torch.tensor([3.0, 4.5]), torch.tensor([0.0, 5.0]), torch.tensor([13.0])]
    errors = relative_errors(("output", "query", "key"), results, reference)
    assert errors == pytest.approx({"output": 0.1, "query": 0, "key": 1 / 12, "gradients": 1 / 13})
    results[1] = torch.tensor([float("nan"), 5])
    errors = relative_errors(("output", "query", "key"), results, reference)
    assert math.isnan(errors["query"]) and math.isnan(errors["gradients"])


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
        assert (
            "|  | 4x1x8x8 | 4x9x8x8 | mean | batch 1 | worst | of the limit | target | met |"
        ) in lines
        assert "|  | 4x1x8x8 | mean | worst | of the limit | target | met |" in lines  # no batch 1
        limit = "0.40 (0.40 to 0.40)"  # GFLOP/s of 100, at both shapes
        assert (
            f"| LSTM | 2.00 | 0.50* | **1.00** | 2.00 | 0.50 | {limit} | ≥ 1.5 | **no** |" in lines
        )
        assert (
            f"| GRU | 4.50 | 0.90 | **2.01** | 4.50 | 0.90 | {limit} "
            "| ≥ 1.1, batch 1 ≥ 4, each ≥ 0.95 | **no** |"
        ) in lines
        assert "| RNN | 2.00 | **2.00** | 2.00 | 0.40 |  |  |" in lines
        assert (
            "| LSTM | 4x1x8x8 | cpu | 7 | 100.000 | 50.000 | 110.000 / 60.000 | 2.00 "
            "| 20.0 | 40.0 | 100 | 0.40 |"
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
            "recurrent-sweeps-training.png",
            "recurrent-speeds-training-2threads.png",
            "recurrent-speeds-inference-1threads.png",
        }
        assert {path.name for path in out.iterdir()} == {"report.md", *names}
        for name in names:
            assert (out / name).read_bytes().startswith(b"\x89PNG")
            assert f"({name})" in (out / "report.md").read_text()

    @pytest.fixture
    def attention_file(self, tmp_path: Path) -> Path:
        """A run of the other domain, as this one records it."""
        info = {"domain": "attention", "table": "Decoding", "row": "decode", "threads": 1}
        info |= {"mode": "inference", "shape": "a", "checked_against": "stand-in"}
        reading = {"bytes": 1e9, "peak_gbs": 25.0, "memory_gbs": 12.5}
        swept = record(**info, sweep="time", at=8)
        del swept["extra_info"]["table"]
        memory = {"domain": "attention", "row": "dense", "sweep": "time", "own": 3 * 2**20}
        memory |= {"peer": 2**25, "limit": 2**24, "target": "each ≤ the limit"}
        error = {"domain": "attention", "row": "dense", "shape": "a", "most": 0.5}
        error |= {"peer": {"output": 2e-3, "gradients": 4e-3}}
        run = {
            "benchmarks": [record(**info, **reading), swept],
            "peers": {"torch": "9.9"},
            "installation": "another machine",
            "peak_memory": [
                memory | {"shape": "a", "at": 1, "ours": 2**24},
                memory | {"shape": "b", "at": 2, "ours": 2**20},
            ],
            "errors": [
                error | {"ours": {"output": 2e-3, "gradients": 2e-3}},
                error | {"row": "causal", "ours": {"output": 1e-3, "gradients": 3e-3}},
            ],
        }
        path = tmp_path / "attention.json"
        path.write_text(json.dumps(run))
        return path

    def test_two_domains(self, file: Path, attention_file: Path, tmp_path: Path) -> None:
        assert report([str(file), str(attention_file)]) == 0
        lines = (tmp_path / "report.md").read_text().splitlines()
        assert "## Layers, training, 2 threads" in lines
        assert "## Decoding, inference, 1 thread" in lines
        assert "the machine" in lines and "another machine" in lines
        assert "| decode | 2.00‡ | **2.00** | 2.00 | 0.80 | ≥ 1.5 | yes |" in lines  # of the read
        assert any("A double dagger marks dropout" in line for line in lines)
        assert (
            "| decode | a | cpu | 7 | 100.000 | 50.000 | 110.000 / 60.000 | 2.00 "
            "| 20.0 | 40.0 | 100 | 0.40 | 10.0 | 20.0 | 25.0 | 0.80 | 12.5 |"
        ) in lines
        assert "## Peak memory of a training step (recurrent): seqkern / PyTorch, MiB" in lines
        assert "| LSTM | 3.0 / 4.0 | each ≤ PyTorch's | yes |" in lines
        assert "| dense | 16.0 / 32.0 | 1.0 / 32.0 | each ≤ the limit | yes |" in lines
        assert (
            "| dense | a | 2.0e-03 / 2.0e-03 | 2.0e-03 / 4.0e-03 "
            "| gradients ≤ 0.5 PyTorch's | yes |"
        ) in lines
        assert (
            "| causal | a | 1.0e-03 / 2.0e-03 | 3.0e-03 / 4.0e-03 "
            "| gradients ≤ 0.5 PyTorch's | **no** |"
        ) in lines
        for plot in ("recurrent-sweeps-training", "attention-sweeps-inference", "attention-memory"):
            assert f"![{plot}]({plot}.png)" in lines
            assert (tmp_path / f"{plot}.png").read_bytes().startswith(b"\x89PNG")
        table = summary(read_runs([file, attention_file]).records).splitlines()
        assert table[0] == "|  | inference, 1 thread | training, 2 threads |"
        assert "| GRU |  | **2.01** (0.90 to 4.50) |" in table
        assert "| decode | **2.00** |  |" in table

    def test_a_part_measured_again(self, file: Path, tmp_path: Path) -> None:
        """The later file's measurement takes the place of the earlier one's, and adds none."""
        again = tmp_path / "again.json"
        run = {"benchmarks": [record(ratio=8.0)], "installation": "the machine"}
        run["peak_memory"] = [{"row": "LSTM", "shape": "4x1x8x8", "ours": 2**21, "peer": 2**20}]
        again.write_text(json.dumps(run))
        assert report([str(file), str(again)]) == 0
        lines = (tmp_path / "report.md").read_text().splitlines()
        limit = "0.40 (0.40 to 0.40)"
        assert f"| LSTM | 8.00 | 0.50* | **2.00** | 8.00 | 0.50 | {limit} | ≥ 1.5 | yes |" in lines
        assert "| LSTM | 2.0 / 1.0 | each ≤ PyTorch's | **no** |" in lines
        assert lines.count("the machine") == 1

    def test_one_of_the_files_is_none(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert report([str(file), str(file.with_name("missing.json"))]) == 1
        assert "missing.json is no benchmark JSON" in capsys.readouterr().err
        assert not file.with_name("report.md").exists()

    @pytest.mark.parametrize("content", [None, "", "[]", "{}", "not json"])
    def test_no_benchmark_file(
        self, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "file.json"
        if content is not None:
            path.write_text(content)
        assert report([str(path)]) == 1
        assert "is no benchmark JSON" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("domain", "chosen", "expected"),
        [
            (
                "recurrent",
                "(GRUCell and inference and 1threads) or (test_sweep and time-16x and RNN)",
                ["## Recurrent cells, inference, 1 thread", "| GRUCell float32 dense |"],
            ),
            (
                "attention",
                "(1threads and (bfloat16-padded or dropout or bfloat16-decode "
                "or MultiheadAttention-float32)) or (test_sweep and 128x64 and float32-causal) "
                "or test_gradient_error or (test_memory and float32-dense)",
                [
                    "## Attention, training, 1 thread",
                    "| attention bfloat16 padded |",
                    "| attention float32 dropout 0.1 |",
                    "| attention bfloat16 decode |",
                    "| MultiheadAttention float32 padded |",
                    "| TransformerEncoderLayer float32 dropout 0.1 |",
                    "## Errors of output and gradients: seqkern / PyTorch",
                ],
            ),
        ],
    )
    def test_of_a_real_run(
        self, domain: str, chosen: str, expected: list[str], tmp_path: Path
    ) -> None:
        """The benchmarks record what the report reads."""
        result = tmp_path / "run.json"
        process = subprocess.run(
            [sys.executable, "-m", "pytest", f"bench/{domain}_bench.py", "--benchmark-enable"]
            + [f"--benchmark-json={result}", "-p", "no:cacheprovider", "-k", chosen],
            cwd=ROOT,
            env=ALONE | {"BENCH_QUICK": "1"},
            capture_output=True,
            text=True,
            timeout=HANGS,
        )
        assert process.returncode == 0, process.stdout
        assert report([str(result)]) == 0
        text = (tmp_path / "report.md").read_text()
        for words in expected:
            assert words in text
        assert (tmp_path / f"{domain}-sweeps-inference.png").exists()
        title = f"## Peak memory of a training step ({domain}): seqkern / PyTorch, MiB"
        assert (title in text) == (domain == "attention" and memory.can_measure())
        assert (tmp_path / f"{domain}-memory.png").exists() == (title in text)


class TestRandomShapes:
    @pytest.mark.parametrize("group", GROUPS)
    def test_a_seed_draws_the_same_cases_and_no_case_twice(self, group: str) -> None:
        names = [str(case) for case in draw(group, 50, 0, 1)]
        assert len(set(names)) == 50
        assert names == [str(case) for case in draw(group, 50, 0, 1)]
        assert names != [str(case) for case in draw(group, 50, 1, 1)]

    @pytest.mark.parametrize("group", GROUPS)
    def test_all_of_a_group_run_and_agree(
        self, group: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
    ) -> None:
        monkeypatch.setattr(settings, "SECONDS_PER_PAIR", 0.001)
        out = tmp_path / "random.json"
        words = ["--groups", group, "--count", "3", "--threads", "1", "--out", str(out)]
        assert random_shapes.main(words) == 0
        written = json.loads(out.read_text())
        assert [row["group"] for row in written["measured"]] == [group] * 3
        shown = capsys.readouterr().out.splitlines()
        assert sum(int(row.split("|")[3]) for row in shown if row.startswith(f"| {group}")) == 3

    def test_watched_shapes(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Of every group that has some, all are measured and listed."""
        monkeypatch.setattr(settings, "SECONDS_PER_PAIR", 0.001)
        assert set(watched(1)) < set(GROUPS) and all(watched(1).values())
        assert random_shapes.main(["--watched", "--groups", "cells", "--threads", "1"]) == 0
        shown = capsys.readouterr().out
        assert all(f"cells: {case} (" in shown for case in watched(1)["cells"])

    def test_what_is_slower_once_is_measured_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (case,) = draw("cells", 1, 0, 1)
        for ratios, slower in [([0.5, 0.6, 1.2], False), ([0.5, 0.6, 0.9], True), ([1.0], False)]:
            left = iter(ratios)
            monkeypatch.setattr(
                random_shapes, "interleave", lambda *_, it=left: PairTimes([1.0], [next(it)])
            )
            found = random_shapes.measure("cells", case)
            assert found.ratios == ratios and found.slower == slower

    def test_what_pytorch_serves_is_counted_by_itself(self) -> None:
        def one(backend: str, ratio: float) -> random_shapes.Measured:
            return random_shapes.Measured("cells", "c", 1, backend, [ratio], 1e-6)

        measured = [one("cpu", 4.0), one("cpu", 0.5), one("torch", 0.9)]
        rows = random_shapes.table(measured).splitlines()[2:]
        assert rows == [
            "| cells | 1 | 2 | 1.41 | 0.50 | 1 (50%) |",
            "| cells left to PyTorch | 1 | 1 | 0.90 | 0.90 | 1 (100%) |",
        ]
        assert random_shapes.listing(measured).splitlines()[0].startswith("0.50  cells: c (cpu")
