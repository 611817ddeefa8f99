"""The demo, its text sources, and its model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import seqkern
from seqkern.cli import main
from seqkern.core.errors import UserError
from seqkern.demo.agreement import Agreement
from seqkern.demo.words import neighbours
from seqkern.models import Alphabet, CharLM
from seqkern.text import documentation_text, read_text
from seqkern.word2vec import KeyedVectors
from tests.word2vec.corpora import as_text, topic_sentences

KOREAN = "동해 물과 백두산이 마르고 닳도록 하느님이 보우하사 우리나라 만세. " * 20
TINY = ["--steps", "4", "--hidden", "8", "--batch", "2", "--seq", "16", "--threads", "1"]
TINY += ["--word-epochs", "0"]


def demo(folder: Path, *words: str) -> int:
    return main(["demo", *TINY, "--out", str(folder / "curves.png"), *words])


def test_trains_on_a_korean_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "anthem.txt"
    text.write_text(KOREAN, encoding="utf-8")
    threads = torch.get_num_threads()

    assert demo(tmp_path, "--text", str(text)) == 0

    shown = capsys.readouterr().out
    assert f"{len(KOREAN):,} characters, {len(set(KOREAN))} different" in shown
    assert "torch.nn.LSTM  -> seqkern.nn.LSTM" in shown
    assert (
        "losses    agree: each of the first 100 steps within" in shown
        and "(allowed 1e-03)" in shown
    )
    assert "times as fast" in shown
    assert "sample    동해 물과" in shown
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert torch.get_num_threads() == threads


def test_trains_on_the_documentation_by_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path, "--layers", "2") == 0
    shown = capsys.readouterr().out
    assert "documentation of the installed Python packages" in shown
    assert "LSTM of 2 x 8 units" in shown


def test_says_which_backend_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with seqkern.use_backend("reference"):
        assert demo(tmp_path) == 0
    assert "backend   reference" in capsys.readouterr().out


def test_a_disagreement_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = seqkern.nn.LSTM.forward

    def off(self: torch.nn.Module, *args: object) -> object:
        output, state = forward(self, *args)
        return output * 5, state

    monkeypatch.setattr(seqkern.nn.LSTM, "forward", off)
    assert demo(tmp_path) == 1
    assert "losses    DISAGREE" in capsys.readouterr().out


def write(folder: Path, content: bytes) -> str:
    path = folder / "text"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t \n", "holds nothing but white space"),
        (b"\x7fELF\x02\x01\x01\0\0", "is binary"),
        ("utf-16".encode("utf-16"), "is binary"),
        ("déjà vu".encode("latin-1") * 9, "is not UTF-8 text (byte 1)"),
        (KOREAN.encode() + "끝".encode()[:-1], "is not UTF-8 text"),
        (b"too short", "the text has 9 characters, too few for sequences of 16"),
    ],
    ids=["empty", "blank", "binary", "utf-16", "latin-1", "cut", "short"],
)
def test_unusable_text(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path, "--text", write(tmp_path, content)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("seqkern demo: ") and error.count("\n") == 1
    assert not (tmp_path / "curves.png").exists()


def test_missing_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo(tmp_path, "--text", str(tmp_path / "absent")) == 1
    assert "No such file" in capsys.readouterr().err
    assert demo(tmp_path, "--text", str(tmp_path)) == 1
    assert "Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "message"),
    [("curves.jpg", "must end in .png"), ("absent/curves.png", "does not exist")],
)
def test_unusable_output(
    tmp_path: Path, out: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(tmp_path, "--out", str(tmp_path / out)) == 1
    assert f"--out: {tmp_path / out}" in (error := capsys.readouterr().err) and message in error


def test_output_that_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.png").mkdir()
    assert demo(tmp_path, "--out", str(tmp_path / "folder.png")) == 1
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_output_without_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert demo(tmp_path) == 1
    assert "no permission" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["tqdm", "matplotlib.figure"])
def test_missing_extras(
    package: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # makes its import fail
    assert demo(tmp_path) == 1
    assert f"needs {package}; install it with: pip install" in capsys.readouterr().err


class TestAgreement:
    def test_equal_curves_agree(self) -> None:
        assert Agreement.of([3.0, 2.0], [3.0, 2.0]) == Agreement(0.0, 0.0)
        assert Agreement.of([3.0], [3.0]).holds

    def test_one_early_step_counts(self) -> None:
        first = [2.0] * 200
        second = first.copy()
        second[99] = 2.004
        assert not Agreement.of(first, second).holds
        second[99], second[100] = 2.0, 2.004  # no longer young
        assert Agreement.of(first, second).holds

    def test_a_late_drift_counts(self) -> None:
        assert not Agreement.of([2.0] * 200, [2.0] * 180 + [2.06] * 20).holds

    @pytest.mark.parametrize("at", [0, 150])
    def test_nan_never_agrees(self, at: int) -> None:
        curve = [2.0] * 200
        curve[at] = float("nan")
        assert not Agreement.of(curve, curve).holds


class TestText:
    def test_reads_no_more_than_asked(self, tmp_path: Path) -> None:
        path = write(tmp_path, KOREAN.encode())
        assert read_text(path, 7) == KOREAN[:7]
        assert read_text(path, 10**6) == KOREAN

    def test_a_character_cut_at_the_limit_is_no_error(self, tmp_path: Path) -> None:
        # 4 bytes are read for one character: here a whole one and a third of the next
        assert read_text(write(tmp_path, "한국어".encode()), 1) == "한"

    def test_byte_order_mark_is_dropped(self, tmp_path: Path) -> None:
        assert read_text(write(tmp_path, "글".encode("utf-8-sig")), 10) == "글"

    def test_errors_are_the_users(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is empty"):
            read_text(write(tmp_path, b""), 10)

    def test_documentation_is_the_same_every_time(self) -> None:
        text = documentation_text(20_000)
        assert len(text) == 20_000
        assert documentation_text(20_000) == text
        assert documentation_text(1_000) == text[:1_000]


class TestAlphabet:
    def test_round_trip(self) -> None:
        alphabet = Alphabet.of(KOREAN)
        assert len(alphabet) == len(set(KOREAN)) + 1
        assert alphabet.decode(alphabet.encode(KOREAN)) == KOREAN

    def test_unknown_characters(self) -> None:
        alphabet = Alphabet.of("aab", limit=1)
        assert alphabet.encode("abz").tolist() == [1, 0, 0]
        assert alphabet.decode(torch.tensor([1, 0])) == "a\N{REPLACEMENT CHARACTER}"
        assert alphabet.encode("").tolist() == [] and alphabet.encode("").dtype == torch.int64

    def test_no_repeats(self) -> None:
        with pytest.raises(ValueError, match="must not repeat"):
            Alphabet("aa")


class TestCharLM:
    def test_states_continue(self) -> None:
        model = CharLM(9, embedding=4, hidden=6, layers=2)
        numbers = torch.randint(9, (3, 10))
        whole, _ = model(numbers)
        first, state = model(numbers[:, :4])
        second, _ = model(numbers[:, 4:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole)

    def test_generates_the_likeliest_at_temperature_zero(self) -> None:
        model = CharLM(9, embedding=4, hidden=6)
        prompt = torch.tensor([1, 2, 3])
        drawn = model.generate(prompt, 5, temperature=0)
        whole = torch.cat([prompt, drawn])
        assert torch.equal(model(whole[None])[0][0, 2:-1].argmax(-1), drawn)

    def test_generation_repeats_with_the_generator_and_keeps_the_mode(self) -> None:
        model = CharLM(9, embedding=4, hidden=6, layers=2, dropout=0.5)
        prompt = torch.tensor([1])
        once, twice = (
            model.generate(prompt, 20, generator=torch.Generator().manual_seed(3)) for _ in "ab"
        )
        assert torch.equal(once, twice)
        assert once.shape == (20,) and once.dtype == torch.int64
        assert model.training
        assert model.generate(prompt, 0).shape == (0,)

    def test_bad_arguments(self) -> None:
        model = CharLM(9)
        with pytest.raises(ValueError, match=r"prompt .* got shape \(0,\)"):
            model.generate(torch.tensor([], dtype=torch.int64), 3)
        with pytest.raises(ValueError, match="temperature must not be negative"):
            model.generate(torch.tensor([1]), 3, temperature=-1)

    def test_is_made_to_be_swapped(self) -> None:
        model = CharLM(9, hidden=8, layers=2, dropout=0.3)
        report = seqkern.swap(model, verify=torch.randint(9, (3, 10)))
        assert [entry.path for entry in report.swapped] == ["lstm"]


class TestWords:
    @pytest.fixture
    def text(self, tmp_path: Path) -> Path:
        path = tmp_path / "words.txt"
        path.write_text(as_text(topic_sentences(300)), encoding="utf-8")
        return path

    def test_prints_neighbours_and_speed(
        self, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert demo(tmp_path, "--text", str(text), "--word-epochs", "2") == 0
        shown = capsys.readouterr()
        assert "words     4,800 words, 30 different ones that occur 5 times" in shown.out
        assert "skip-gram, 5 negatives, 100 dimensions, window 5, 2 epochs, 1 thread" in shown.out
        assert "M words/s with vocabulary and encoding" in shown.out
        assert shown.out.count("0.") > 5 and "epoch 2/2" in shown.err
        assert ("gensim takes" in shown.out) != ("gensim is not installed" in shown.out)

    def test_without_gensim(
        self,
        tmp_path: Path,
        text: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, "gensim.models", None)
        assert demo(tmp_path, "--text", str(text), "--word-epochs", "1") == 0
        assert "gensim is not installed; with it its time would stand" in capsys.readouterr().out

    def test_neighbours_are_of_frequent_words(self) -> None:
        words = [f"word{number}" for number in range(200)]
        vectors = KeyedVectors.from_arrays(words, np.random.rand(200, 4).astype(np.float32))
        lines = list(neighbours(vectors))
        assert [line.split(":")[0] for line in lines] == [f"word{n}" for n in range(30, 35)]
        assert all(line.count(",") == 3 for line in lines)

    def test_a_short_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = tmp_path / "short.txt"
        text.write_text(KOREAN, encoding="utf-8")
        assert demo(tmp_path, "--text", str(text), "--word-epochs", "1") == 0
        assert "too few for word vectors" in capsys.readouterr().out
