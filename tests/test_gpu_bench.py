"""The benchmark for GPUs as far as a CPU can run it: every case, the comparison, the clock, the
budget of time, the record, the goals, the report and its plots, the refusal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import attention_gpu_cases as attention
from bench import embedding_gpu_cases as embedding
from bench import gpu, gpu_report, report
from bench import recurrent_gpu_cases as recurrent
from bench.targets import GPU_GOALS, QUANTITIES
from seqkern.core import library

CPU = torch.device("cpu")
META = torch.device("meta")


# ---- every case is built, on a device that holds no numbers ----


@pytest.fixture(scope="module")
def all_cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[gpu.Case]]:
    """Of all domains, those of compiled kernels too. The trainings are of a small text."""
    pytest.importorskip("gensim")
    text, training = small_corpus(tmp_path_factory.mktemp("text")), embedding.training
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "cuda", library.Library(Path("_cuda.so")))
        patch.setattr(embedding.word2vec_cases, "make_corpus", lambda _: text)
        patch.setattr(embedding, "training", lambda row, text, _: training(row, text, CPU))
        return {domain: list(gpu.cases_of(domain, META)) for domain in gpu.DOMAINS}


def small_corpus(folder: Path) -> embedding.word2vec_cases.Corpus:
    text = folder / "text.txt"
    line = " ".join(f"w{i % 7}x" for i in range(60))
    text.write_text(f"{line}\n" * 30)
    return embedding.word2vec_cases.Corpus(text, text, 60 * 30)


def test_every_goal_has_its_cases(all_cases):
    """And every case says what its goal asks of it."""
    found = [case for cases in all_cases.values() for case in cases]
    names = [case.name for case in found]
    assert len(set(names)) == len(names)
    cases_of = {goal.name: [c for c in found if goal.covers(c.name)] for goal in GPU_GOALS}
    counts = [len(cases) for cases in cases_of.values()]
    # 2 widths x 4 lengths x causal or not; d128 alone; the same; mask and bias; 3 numbers of keys;
    # 2 kinds x 2 dtypes x 2 widths x 3 batches x 2 modes; d 100 and 300; 2 widths; the same;
    # 3 kinds x 4 widths x 4 batches x 2 modes; 2 widths x 2 batches x 2 modes; 1
    assert counts == [16, 4, 16, 2, 3, 48, 2, 2, 2, 96, 8, 1]
    for goal in GPU_GOALS:
        for case in cases_of[goal.name]:
            what = {"tflops": case.flops, "copy": case.bytes, "step_us": case.steps, "ratio": 1}
            assert what[goal.quantity] > 0 and set(what) == set(QUANTITIES)
            assert bool(case.quality) == goal.quality


def test_every_goal_has_a_case_among_the_first(all_cases):
    """What there is no time for is no whole goal."""
    goals = list(GPU_GOALS)
    for cases in all_cases.values():
        first = [case.name for case in cases[: len(cases) // 3]]
        goals = [goal for goal in goals if not any(map(goal.covers, first))]
    assert not goals


# ---- floors ----


def test_floors_of_attention():
    forward, training = attention._flash((2, 3, 64, 32), False, META)
    assert forward.flops == 2 * (2 * 3 * 64 * 64 * 32) * 2  # two products, 2 FLOP a number
    assert training.flops == 3.5 * forward.flops  # seven products instead of two
    causal, _ = attention._flash((2, 3, 64, 32), True, META)
    assert causal.flops == forward.flops / 2
    decode = attention._decode(64, META)
    assert decode.bytes == 2 * (8 * 8 * 64 * 128) * 2  # keys and values, 2 bytes a number


def test_floors_of_recurrent_layers():
    inference, training = recurrent.comparisons("cuda", "LSTM", "bf16", (5, 3, 8), META)
    assert inference.flops == 2 * 5 * 3 * (4 * 8) * (8 + 8)
    assert training.flops == 3 * inference.flops
    gru, _ = recurrent.comparisons("cuda", "GRU", "bf16", (5, 3, 8), META)
    assert gru.flops == inference.flops * 3 / 4
    assert recurrent.step_latency((7, 3, 8), META).steps == 7


# ---- small cases run, on the CPU in the place of a GPU ----


def measured(cases: Iterator[gpu.Case] | list[gpu.Case]) -> list[gpu.Result]:
    return [gpu.measure(case, CPU, rounds=3) for case in cases]


def test_small_cases_of_attention_run_and_agree():
    results = measured(
        [
            *attention._flash((1, 2, 64, 64), True, CPU),
            *attention._masked((1, 2, 64, 64), CPU),
            attention._decode(64, CPU),
        ]
    )
    assert all(r.ours_ms > 0 and r.ratio == r.theirs_ms / r.ours_ms for r in results)
    assert [r.tflops is not None for r in results] == [True] * 4 + [False]
    assert results[-1].gbs is not None and results[-1].error < 2e-2


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_small_recurrent_cases_run_and_agree(kind):
    results = measured(recurrent.comparisons("cuda", kind, "f32", (5, 2, 8), CPU))
    assert [r.name for r in results] == [
        f"cuda {kind} inference f32 5x2x8", f"cuda {kind} training f32 5x2x8"
    ]  # fmt: skip
    assert all(r.ratio == r.theirs_ms / r.ours_ms and r.error < 1e-5 for r in results)
    deep = {"num_layers": 2, "bidirectional": True}
    results = measured(recurrent.comparisons("cuda", kind, "f32", (5, 2, 8), CPU, **deep))
    assert results[0].name == f"cuda {kind} 2 layers both directions inference f32 5x2x8"


def test_ragged_cases_and_steps_run_and_agree():
    results = measured(
        [*recurrent.ragged("f32", (8, 3, 8), CPU), recurrent.step_latency((5, 2, 8), CPU)]
    )
    assert results[0].tflops is not None
    assert results[-1].step_us == pytest.approx(results[-1].ours_ms / 5 * 1e3)


@pytest.mark.parametrize("optimizer", embedding.OPTIMIZERS)
def test_small_steps_of_skipgram_run_and_agree(optimizer):
    shape = embedding.Shape(50, 8, 20, 3)
    result = gpu.measure(embedding.step(shape, optimizer, CPU), CPU, rounds=2)
    assert result.name.startswith("skip-gram") and result.gbs is not None
    assert result.ratio == result.theirs_ms / result.ours_ms and result.error < 1e-5


def test_a_small_training_runs_beside_gensim(tmp_path, monkeypatch):
    """So few words teach nothing that both agree on, and none that a judge asks for."""
    pytest.importorskip("gensim")
    row = embedding.word2vec_cases.Row("skip-gram NS d=8", 8, None, 0, {"sg": 1})
    monkeypatch.setattr(embedding.word2vec_cases, "AGREEMENT", 100.0)
    monkeypatch.setattr(
        embedding.word2vec_cases, "judge", lambda vectors: {"analogies": float(len(vectors))}
    )
    case = embedding.training(row, small_corpus(tmp_path), CPU)
    result = gpu.measure(case, CPU)
    assert case.rounds == 2 == result.rounds
    assert result.name.startswith("training skip-gram NS d=8 7200 words gensim ")
    assert result.gbs is not None and result.quality == {"analogies": (7.0, 7.0)}


def test_results_that_differ_are_an_error():
    case = gpu.Case("wrong", lambda: torch.ones(3), lambda: torch.zeros(3) + 1.1)
    with pytest.raises(AssertionError, match="wrong: results differ by 0.091"):
        gpu.measure(case, CPU, rounds=1)
    nothing = gpu.Case("nan", lambda: torch.full((3,), torch.nan), lambda: torch.ones(3))
    with pytest.raises(AssertionError, match="nan: results differ by nan"):
        gpu.measure(nothing, CPU, rounds=1)


# ---- the budget ----


def test_a_slow_case_gets_fewer_rounds():
    case = even("slow")
    assert gpu.measure(case, CPU, rounds=30, seconds=0.0).rounds == gpu.FEWEST_ROUNDS
    assert gpu.measure(case, CPU, rounds=30, seconds=math.inf).rounds == 30


def even(name: str, **more: Any) -> gpu.Case:
    return gpu.Case(name, lambda: torch.ones(3), lambda: torch.ones(3), **more)


def run_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, listed: Callable[[str], Any], seconds: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of a run over these cases, in memory and in its file."""
    monkeypatch.setattr(gpu, "cases_of", lambda domain, device: listed(domain))
    run = gpu.Run(folder / "out" / "gpu.json", CPU, seconds)
    run.all()
    return run.record, json.loads((folder / "out" / "gpu.json").read_text())


def test_what_there_is_no_time_for_is_named(tmp_path, monkeypatch, capsys):
    """Each domain has a share; what it does not use, the next one has."""
    now = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])

    def listed(domain: str) -> Iterator[gpu.Case]:
        for number in range(4):
            yield even(f"{domain} {number}")
            now[0] += 10.0 if domain != "embedding" else 0.0

    record, written = run_of(monkeypatch, tmp_path, listed, 100.0)
    # Attention has 22 s: what begins at 0, 10 and 20. Embedding takes none. Recurrent begins at 40.
    assert record["left_out"] == ["attention 3"]
    assert [row["name"] for row in record["results"]] == [
        *(f"attention {n}" for n in range(3)), *(f"embedding {n}" for n in range(4)),
        *(f"recurrent {n}" for n in range(4)),
    ]  # fmt: skip
    assert written == json.loads(json.dumps(record))
    assert "no time left for attention 3" in capsys.readouterr().out
    assert "- attention 3" in gpu_report.markdown(record)


def test_shares_are_the_whole():
    assert sorted(gpu.SHARES) == gpu.DOMAINS and sum(gpu.SHARES.values()) == pytest.approx(1)


def test_what_fails_is_named_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    def listed(domain: str) -> Iterator[gpu.Case]:
        yield gpu.Case(f"{domain} wrong", lambda: torch.ones(1), lambda: torch.zeros(1))
        yield even(f"{domain} right")
        if domain == "attention":
            raise MemoryError("no room")

    record, written = run_of(monkeypatch, tmp_path, listed, 100.0)
    assert [row["name"] for row in written["results"]] == [f"{d} right" for d in gpu.DOMAINS]
    assert written["failed"]["attention: its further cases"] == "MemoryError: no room"
    assert len(record["failed"]) == 1 + len(gpu.DOMAINS)
    assert "FAILED recurrent wrong: AssertionError" in capsys.readouterr().err
    assert "| recurrent wrong |" in gpu_report.markdown(record)


# ---- the report ----


def result(name: str, ratio: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "ours_ms": 2.0, "theirs_ms": 2.0 * ratio, "ratio": ratio, "error": 0.0,
        "rounds": 30, "tflops": None, "gbs": None, "step_us": None, "quality": None, **more,
    }  # fmt: skip


def record_of(results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "gpu": "H200", "copy_gbs": 4000.0, "installation": "seqkern", "seconds": 420.0,
        "peers": {"torch": "2.13", "gensim": "missing: not installed"},
        "results": results, "failed": {}, "left_out": [], **more,
    }  # fmt: skip


def answers(record: dict[str, Any]) -> dict[str, str]:
    """Of each goal's row: the last cell."""
    rows = [line.strip("| ").split(" | ") for line in gpu_report.goals(record).splitlines()[2:]]
    assert [row[0] for row in rows] == [goal.name for goal in GPU_GOALS]
    return {row[0]: row[-1] for row in rows}


FORWARD, SPEED, DECODE, WORDS, MEAN, STEP = (GPU_GOALS[n] for n in (0, 1, 4, 6, 9, 11))
EQUAL = {"wordsim353": (0.5, 0.51), "simlex999": (0.3, 0.3), "analogies": (20.0, 20.5)}


@pytest.mark.parametrize(
    ("goal", "results", "met"),
    [
        (FORWARD, [("attention forward bf16 d64 2048", 1.2, {})], True),
        (FORWARD, [("attention forward bf16 d64 2048", r, {}) for r in (1.9, 1.19)], False),
        (SPEED, [("attention forward bf16 d128 4096", 1.0, {"tflops": 400.0})], True),
        (SPEED, [("attention forward bf16 d128 4096", 9.0, {"tflops": 399.0})], False),
        (DECODE, [("attention decode bf16 d128 GQA 32/8 4096", 0.1, {"gbs": 3200.0})], True),
        (DECODE, [("attention decode bf16 d128 GQA 32/8 4096", 9.0, {"gbs": 3199.0})], False),
        (MEAN, [(f"cuda LSTM inference bf16 512x1x{h}", r, {}) for h, r in ((1, 1), (2, 4))], True),
        (MEAN, [(f"cuda GRU training bf16 512x1x{h}", r, {}) for h, r in ((1, 1), (2, 3))], False),
        (STEP, [("cuda LSTM step bf16 16x768", 0.1, {"step_us": 1.5})], True),
        (STEP, [("cuda LSTM step bf16 16x768", 9.0, {"step_us": 1.6})], False),
        (WORDS, [("training skip-gram NS d=100 9 words", 20.0, {"quality": EQUAL})], True),
        (WORDS, [("training skip-gram NS d=100 9 words", 19.0, {"quality": EQUAL})], False),
        (WORDS, [("training skip-gram NS d=100 9 words", 30.0, {})], False),
    ],
)  # fmt: skip
def test_goals_are_judged(goal, results, met):
    record = record_of([result(name, ratio, **more) for name, ratio, more in results])
    found = answers(record)
    assert found.pop(goal.name) == ("yes" if met else "**no**")
    for other in GPU_GOALS:
        if not any(other.covers(name) for name, *_ in results):
            assert found[other.name] == "**not measured**"


@pytest.mark.parametrize("worse", [(0.4, 0.5), (float("nan"), 0.5), (0.5, float("nan"))])
def test_worse_vectors_are_no_gain(worse):
    quality = {**EQUAL, "wordsim353": worse}
    found = answers(record_of([result("training skip-gram NS d=100", 90.0, quality=quality)]))
    assert found[WORDS.name] == "**no**"


def test_a_goal_that_was_measured_in_part_says_so():
    results = [result("attention forward bf16 d64 2048", 2.0)]
    rest = "attention forward bf16 d64 4096"
    assert answers(record_of(results, left_out=[rest]))[FORWARD.name] == "yes, of those measured"
    failed = answers(record_of(results, failed={rest: "it broke"}))
    assert failed[FORWARD.name] == "**no: some failed**"
    assert answers(record_of([], left_out=[rest]))[FORWARD.name] == "**not measured**"


def test_groups_have_their_geometric_mean():
    names = ("cuda LSTM training bf16 1x1x1", "cuda LSTM training bf16 2x2x2", "other")
    results = [result(name, ratio) for name, ratio in zip(names, (1.0, 4.0, 9.0), strict=True)]
    assert "| cuda LSTM training bf16 | 2 | 2.00 | 1.00 |" in gpu_report.groups(results)


@pytest.fixture
def whole_record(all_cases) -> dict[str, Any]:
    """Of every case there is, with made-up times."""
    return record_of(
        [
            result(
                case.name,
                1.5,
                tflops=case.flops / 1e9 or None,
                gbs=case.bytes / 1e6 or None,
                step_us=2.0 if case.steps else None,
                quality=EQUAL if case.quality else None,
            )
            for cases in all_cases.values()
            for case in cases
        ]
    )


def test_the_report_of_a_whole_run(whole_record, tmp_path, capsys):
    """From its file, by the command that reports all benchmarks; with every plot."""
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(whole_record))
    assert report.main([str(file), "--out", str(tmp_path / "made")]) == 0
    text = (tmp_path / "made" / "gpu-report.md").read_text()
    assert capsys.readouterr().out in text + "\n" or text.startswith("# GPU benchmarks: H200")
    assert "not measured" not in text and "Left out" not in text and "Failed" not in text
    for row in whole_record["results"]:
        assert f"| {row['name']} |" in text
    for plot in ("gpu-attention", "gpu-decode", "gpu-recurrent"):
        assert f"![{plot}]({plot}.png)" in text
        assert (tmp_path / "made" / f"{plot}.png").stat().st_size > 10_000


def test_several_runs_on_one_gpu_make_one_report(tmp_path, capsys):
    early = record_of([result("a", 1.0), result("b", 1.0)], left_out=["c"], failed={"d": "x"})
    late = record_of([result("b", 2.0), result("c", 3.0), result("d", 4.0)], left_out=["e"])
    whole = gpu_report.joined([early, late])
    assert {row["name"]: row["ratio"] for row in whole["results"]} == {
        "a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0
    }  # fmt: skip
    assert whole["left_out"] == ["e"] and not whole["failed"]
    files = []
    for number, record in enumerate((early, {**late, "gpu": "H100"}, {"benchmarks": []})):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(record))
    assert report.main([str(file) for file in files[:2]]) == 1
    assert "different GPUs: H100, H200" in capsys.readouterr().err
    assert report.main([str(file) for file in files[1:]]) == 1
    assert "2.json is no record of a GPU" in capsys.readouterr().err


# ---- the command ----


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_why_it_cannot_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["bench.gpu", str(tmp_path / "out.json")])
    assert gpu.main() == 1
    assert "needs a CUDA GPU" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("right", [True, False])
def test_the_command_writes_record_and_report(right, monkeypatch, capsys, tmp_path):
    """With a CPU in place of a GPU."""
    other = torch.ones(3) if right else torch.zeros(3)
    case = gpu.Case("cuda LSTM step bf16 16x768", lambda: torch.ones(3), lambda: other, steps=9)
    monkeypatch.setattr(gpu, "trouble", lambda: "")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch, "device", lambda *_: CPU)
    monkeypatch.setattr(
        gpu, "cases_of", lambda domain, device: iter([case] if domain == "recurrent" else [])
    )
    file = tmp_path / "new" / "out.json"
    monkeypatch.setattr(sys, "argv", ["bench.gpu", str(file), "-k", "step", "--minutes", "0.5"])
    assert gpu.main() == (0 if right else 1)
    assert json.loads(file.read_text())["seconds"] == 30
    text = (tmp_path / "new" / "gpu-report.md").read_text()
    assert ("| cuda LSTM step bf16 16x768 |" in text) and ("## Failed" in text) != right
    assert "## Goals" in capsys.readouterr().out
