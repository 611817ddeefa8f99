"""Tuning: what is chosen, kept and passed over. Timers, clocks and GPUs are simulated."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import warnings

import pytest
import torch

import seqkern
from seqkern.core.errors import SettingError
from seqkern.core.triton import tuning

GPU = torch.device("cuda", 0)
FIXED, SECOND, THIRD = CANDIDATES = ((128, 64, 8, 3), (64, 64, 4, 3), (64, 32, 4, 2))
NAMES = "attention forward, width 64, bfloat16"


class Timer:
    """In place of `tuning.milliseconds`: runs each launch once and says the times it was given."""

    def __init__(self) -> None:
        self.times = [3.0, 1.0, 2.0]
        self.calls = 0
        self.launched: list[tuple[int, ...]] = []

    def __call__(self, launches):
        self.calls += 1
        for launch in launches:
            launch()
        return self.times[: len(launches)]

    def choose(self, kernel=NAMES, candidates=CANDIDATES, **options):
        return tuning.choose(kernel, candidates, self.launched.append, GPU, **options)


def forget() -> None:
    """What a new process has: nothing in memory."""
    tuning._known.clear()
    tuning._absent.clear()
    tuning._warned.clear()


@pytest.fixture
def timer(monkeypatch, tmp_path):
    """A machine with a GPU and an empty cache, on which tuning is on."""
    timer = Timer()
    monkeypatch.setenv(tuning.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(tuning, "milliseconds", timer)
    monkeypatch.setattr(tuning, "gpu", lambda device: "NVIDIA Pretended/80GB")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    forget()
    with tuning.tune(), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield timer
    forget()


def files(tmp_path):
    return sorted((tmp_path / "tuning").glob("*"))


def test_off_unless_asked_for(timer, tmp_path):
    assert not tuning._default() or os.environ.get(tuning.ENVIRONMENT_VARIABLE)
    with tuning.tune(False):
        assert timer.choose() == FIXED
    assert not timer.calls and not timer.launched and not files(tmp_path)


def test_the_fastest_is_chosen_once_and_kept(timer, tmp_path):
    assert timer.choose() == SECOND and timer.launched == list(CANDIDATES)
    timer.times = [1.0, 2.0, 3.0]
    assert timer.choose() == SECOND and timer.calls == 1
    (file,) = files(tmp_path)
    assert file.name.startswith("attention-forward-width-64-bfloat16-NVIDIA-Pretended-80GB.")
    record = json.loads(file.read_bytes())
    assert record["chosen"] == [64, 64, 4, 3]
    assert record["milliseconds"] == {
        "[128, 64, 8, 3]": 3.0,
        "[64, 64, 4, 3]": 1.0,
        "[64, 32, 4, 2]": 2.0,
    }
    forget()
    assert timer.choose() == SECOND and timer.calls == 1


def test_one_candidate_is_no_choice(timer, tmp_path):
    assert timer.choose(candidates=(FIXED,)) == FIXED
    assert not timer.calls and not files(tmp_path)


@pytest.mark.parametrize("changed", ["kernel", "gpu", "triton", "seqkern"])
def test_what_a_choice_is_good_for(timer, tmp_path, monkeypatch, changed):
    timer.choose()
    kernel = NAMES
    if changed == "kernel":
        kernel += ", causal"
    elif changed == "gpu":
        monkeypatch.setattr(tuning, "gpu", lambda device: "NVIDIA Pretended-80GB")
    else:
        version = tuning._version
        monkeypatch.setattr(
            tuning, "_version", lambda package: version(package) + "x" * (package == changed)
        )
    timer.times = [3.0, 2.0, 1.0]
    assert timer.choose(kernel) == THIRD
    assert timer.calls == 2 and len(files(tmp_path)) == 2


def test_a_small_call_is_not_timed_and_takes_what_is_known(timer, tmp_path):
    assert timer.choose(large=False) == FIXED
    assert not timer.calls and not files(tmp_path)
    assert timer.choose(large=True) == SECOND
    assert timer.choose(large=False) == SECOND
    forget()
    assert timer.choose(large=False) == SECOND and timer.calls == 1


def test_a_choice_of_other_candidates_is_none(timer):
    timer.choose()
    assert timer.choose(candidates=(FIXED, THIRD)) == FIXED


def chosen(value, **key):
    key = {"kernel": NAMES, "gpu": tuning.gpu(GPU), **key}
    key = {k: key.get(k, tuning._version(k)) for k in tuning.Key._fields}
    return json.dumps({"key": key, "chosen": value}).encode()


@pytest.mark.parametrize(
    "content",
    [
        lambda: b"",
        lambda: b"{",
        lambda: b"\xff\xfe\x00",
        lambda: b"null",
        lambda: b"[]",
        lambda: b"{}",
        lambda: b"[" * 60000,
        lambda: b" " * 70000 + chosen([64, 64, 4, 3]),
        lambda: chosen([64, 64, 4]),
        lambda: chosen([4096, 4096, 8, 3]),
        lambda: chosen("64"),
        lambda: chosen({"64": 64}),
        lambda: chosen([64, 64, 4, 3], kernel="attention keys"),
        lambda: chosen([64, 64, 4, 3], triton="0"),
    ],
)
def test_a_damaged_or_foreign_file_is_passed_over_with_one_warning(timer, tmp_path, content):
    timer.choose()
    (file,) = files(tmp_path)
    file.write_bytes(content())
    forget()
    timer.times = [3.0, 2.0, 1.0]
    with pytest.warns(RuntimeWarning, match="cannot use a tuning choice") as warned:
        assert timer.choose() == THIRD
        file.write_bytes(content())
        tuning._known.clear()
        tuning._absent.clear()
        assert timer.choose() == THIRD
    assert len(warned) == 1
    forget()
    assert timer.choose() == THIRD and timer.calls == 3  # it was replaced by a good one


def test_a_good_file_by_hand_is_used(timer, tmp_path):
    timer.choose()
    (file,) = files(tmp_path)
    file.write_bytes(chosen([64, 32, 4, 2]))
    forget()
    assert timer.choose() == THIRD and timer.calls == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(timer, tmp_path, make):
    timer.choose()
    (file,) = files(tmp_path)
    file.unlink()
    make(file)
    forget()
    with pytest.warns(RuntimeWarning, match="no file of seqkern's"):
        assert timer.choose() == SECOND


def test_without_a_place_to_write_each_process_times(timer, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv(tuning.FOLDER_VARIABLE, str(tmp_path / "taken"))
    with pytest.warns(RuntimeWarning, match="tuning choice") as warned:
        assert timer.choose() == SECOND and timer.choose() == SECOND and timer.calls == 1
    assert len(warned) == 1


def test_without_a_home_each_process_times(timer, monkeypatch):
    monkeypatch.delenv(tuning.FOLDER_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tuning.Path, "home", homeless)
    with pytest.warns(RuntimeWarning, match="no home folder"):
        assert timer.choose() == SECOND


def test_a_failing_launch_leaves_nothing_behind(timer, tmp_path):
    def fail(candidate):
        raise ValueError("a kernel's own error")

    with pytest.raises(ValueError, match="own error"):
        tuning.choose(NAMES, CANDIDATES, fail, GPU)
    assert not files(tmp_path) and timer.choose() == SECOND


def test_deterministic_algorithms_take_the_fixed_choice(timer, tmp_path):
    assert timer.choose() == SECOND
    torch.use_deterministic_algorithms(True)
    try:
        assert timer.choose() == FIXED and timer.choose("another kernel") == FIXED
    finally:
        torch.use_deterministic_algorithms(False)
    assert timer.calls == 1 and len(files(tmp_path)) == 1


def test_nothing_is_timed_or_read_while_a_graph_is_captured(timer, monkeypatch):
    timer.choose("known")
    timer.choose("on disk")
    del tuning._known[next(k for k in tuning._known if k.kernel == "on disk")]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert timer.choose("on disk") == timer.choose("neither") == FIXED and timer.calls == 2
    assert timer.choose("known") == SECOND  # what the warm-up ran


def test_nothing_is_timed_while_a_compiler_traces(timer, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert timer.choose() == FIXED and not timer.calls


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_gpus_are_timed(timer, device):
    device = torch.device(device)
    assert tuning.choose(NAMES, CANDIDATES, timer.launched.append, device) == FIXED
    assert not timer.launched


def test_threads_time_once(timer):
    start, found = threading.Barrier(8), []

    def run():
        start.wait()
        with tuning.tune():
            found.append(timer.choose())

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SECOND] * 8 and timer.calls == 1


def _one_of_many(number: int) -> None:
    timer = Timer()
    tuning.milliseconds = timer  # type: ignore[assignment]
    warnings.simplefilter("error")
    for _ in range(100):
        forget()
        assert timer.choose() in (SECOND, THIRD)
        key = tuning.Key(NAMES, tuning.gpu(GPU), *map(tuning._version, ("triton", "seqkern")))
        tuning._write(key, (SECOND, THIRD)[number % 2], {})


def test_processes_find_whole_files(timer, tmp_path):
    several = multiprocessing.get_context("fork")
    processes = [several.Process(target=_one_of_many, args=(n,)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    (file,) = files(tmp_path)
    assert json.loads(file.read_bytes())["chosen"] in ([64, 64, 4, 3], [64, 32, 4, 2])


def test_time_is_the_median_of_rounds_in_turn_after_two(monkeypatch):
    from triton.runtime.errors import OutOfResources

    clock, order = [0.0], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = clock[0]

        def elapsed_time(self, later):
            return later.at - self.at

    class Stream:
        def synchronize(self):
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)

    def launch(name, first, then):
        def run():
            order.append(name)
            clock[0] += first if order.count(name) <= 2 else then

        return run

    def too_large():
        order.append("c")
        raise OutOfResources(200, 100, "shared memory")

    times = tuning.milliseconds([launch("a", 900.0, 2.0), launch("b", 1.0, 5.0), too_large])
    assert times == [2.0, 5.0, float("inf")]
    assert "".join(order) == "abc" + "ab" * (tuning._ROUNDS + 1)


def test_where_choices_lie(monkeypatch, tmp_path):
    monkeypatch.setattr(tuning.Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv(tuning.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert tuning.folder() == tmp_path / "home/.cache/seqkern/tuning"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tuning.folder() == tmp_path / "xdg/seqkern/tuning"
    monkeypatch.setenv(tuning.FOLDER_VARIABLE, str(tmp_path / "own"))
    assert tuning.folder() == tmp_path / "own/tuning"


def test_the_variable(monkeypatch):
    for word, meaning in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv(tuning.ENVIRONMENT_VARIABLE, word)
        assert tuning._default() is meaning
    monkeypatch.setenv(tuning.ENVIRONMENT_VARIABLE, "yes")
    with pytest.raises(SettingError, match="SEQKERN_TUNE: must be 0 or 1, got 'yes'"):
        tuning._default()


def test_the_switch():
    before = tuning.wanted.value
    with seqkern.tune():
        assert tuning.wanted.value
        with seqkern.tune(False):
            assert not tuning.wanted.value
        assert tuning.wanted.value
        seen = []
        thread = threading.Thread(target=lambda: seen.append(tuning.wanted.value))
        thread.start()
        thread.join()
        assert seen == [before]  # each thread has its own
    assert tuning.wanted.value == before
    with pytest.raises(TypeError, match="on must be True or False, got 'yes'"):
        seqkern.tune("yes")


def test_info_says_how_things_stand(timer):
    timer.choose()
    assert "on, 1 choices in " in tuning.state()
    assert tuning.state() in seqkern.info()
    with seqkern.tune(False):
        assert tuning.state().startswith("off, fixed tile sizes")
