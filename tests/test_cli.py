"""The command line: which command runs, and how failures come out."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

import seqkern
from seqkern import cli
from seqkern.core.errors import SettingError, UserError, without_traceback_on_the_command_line
from tests.limits import HANGS


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seqkern", *words]
    env = os.environ | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANGS)


def test_info_prints_what_seqkern_info_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().out.startswith(seqkern.info().splitlines()[0])


def test_runs_as_a_module() -> None:
    result = run("info")
    assert result.returncode == 0, result.stderr
    assert seqkern.__version__ in result.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{seqkern.__version__}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in shown


def test_help_of_a_command_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for option in ("text", "steps", "hidden", "layers", "batch", "seq", "threads", "seed", "out"):
        assert f"--{option}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a command: info, demo"),
        (["fly"], "invalid choice: 'fly'"),
        (["info", "--fast"], "unrecognized arguments: --fast"),
        (["demo", "--steps", "0"], "--steps: must be a whole number from 1 to"),
        (["demo", "--hidden", "many"], "--hidden: must be a whole number from 1 to 16384"),
        (["demo", "--threads", "-1"], "--threads: must be a whole number from 1 to"),
        (["demo", "--seed", "-1"], "--seed: must be a whole number from 0 to"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_user_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> int:
        raise UserError("the moon is down; wait for it")

    monkeypatch.setitem(cli.COMMANDS, "moon", cli.Command("look at the moon", fail))
    assert cli.main(["moon"]) == 1
    assert capsys.readouterr().err == "seqkern moon: the moon is down; wait for it\n"


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (
            "SEQKERN_ISA",
            "seqkern: the environment variable SEQKERN_ISA is 'nonsense', which is not",
        ),
        (
            "SEQKERN_BACKEND",
            "seqkern: SEQKERN_BACKEND: unknown backend 'nonsense', choose from auto",
        ),
    ],
)
def test_a_bad_environment_variable_is_one_sentence(variable: str, message: str) -> None:
    """It is noticed when the package is imported, before the command line begins."""
    result = run("info", **{variable: "nonsense"})
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("program", "ends"),
    [("-m", True), ("/usr/bin/seqkern", True), ("train.py", False), ("", False)],
)
def test_only_the_command_line_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, program: str, ends: bool
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    expected: type[BaseException] = SystemExit if ends else SettingError
    with pytest.raises(expected, match="too hot"), without_traceback_on_the_command_line():
        raise SettingError("too hot")
    with pytest.raises(ZeroDivisionError), without_traceback_on_the_command_line():
        raise ZeroDivisionError


def test_an_interrupt_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "wait", cli.Command("wait", interrupt))
    assert cli.main(["wait"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(options: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setitem(cli.COMMANDS, "bug", cli.Command("a bug", bug))
    with pytest.raises(ZeroDivisionError):
        cli.main(["bug"])


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "seqkern", "info"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(120) == 1
