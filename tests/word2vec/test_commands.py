"""The commands vectors and nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqkern import cli
from seqkern.word2vec import KeyedVectors, Word2Vec, formats
from seqkern.word2vec.commands import describe
from seqkern.word2vec.placement import Placed
from tests.text.compressing import KINDS, compress
from tests.word2vec.corpora import TOPICS, as_text, topic_sentences
from tests.word2vec.test_model import closeness
from tests.word2vec.vectors import some_vectors

WORDS = ("--dim", "20", "--alpha", "0.05", "--sample", "0", "--threads", "1", "--epochs", "3")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(as_text(topic_sentences()))
    return path


@pytest.mark.parametrize(
    "options",
    [(), ("--cbow",), ("--hs",), ("--cbow", "--hs"), ("--fasttext",), ("--deterministic",)],
    ids=" ".join,
)
def test_vectors(text: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    out, counts = text.with_name("out"), text.with_name("counts")
    words = ["vectors", str(text), "--out", str(out), "--counts", str(counts), "--loss"]
    threads = torch.get_num_threads()
    assert cli.main([*words, *WORDS, *options]) == 0
    assert torch.get_num_threads() == threads
    shown = capsys.readouterr()
    assert "text      24,000 words in 1,500 sentences, 30 different ones kept" in shown.out
    assert "training  72,000 words in" in shown.out and ", loss " in shown.out
    assert f"vectors   {out} (text, 30 words of 20 dimensions)" in shown.out
    assert "epoch 3/3" in shown.err
    vectors = KeyedVectors.load_word2vec_format(out, counts)
    assert closeness(vectors) > 0.2


@pytest.mark.parametrize("kind", [(), ("--fasttext",)], ids=" ".join)
def test_the_device_is_handed_on(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: tuple
) -> None:
    """`cpu:0` is the CPU by the way that a GPU takes: on copies of the tables."""
    placed: list[torch.device] = []
    on = Placed.on.__func__  # type: ignore[attr-defined]

    def noted(cls: type[Placed], device: torch.device, *tables: object) -> Placed:
        placed.append(device)
        return on(cls, device, *tables)

    monkeypatch.setattr(Placed, "on", classmethod(noted))
    words = ["vectors", str(text), "--out", str(text.with_name("out")), "--device", "cpu:0"]
    assert cli.main([*words, *WORDS, *kind]) == 0
    assert placed == [torch.device("cpu:0")]
    assert closeness(KeyedVectors.load_word2vec_format(text.with_name("out"))) > 0.2


def test_a_gpu_is_named_where_the_model_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Word2Vec()
    assert describe(model).endswith(" threads" if model.threads > 1 else " thread")
    monkeypatch.setattr(model, "device", torch.device("cuda:1"))
    assert describe(model).endswith("5 epochs, on cuda:1")


def test_a_gpu_with_too_little_memory(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(Placed, "on", full)
    assert cli.main(["vectors", str(text), "--out", str(text.with_name("out")), *WORDS]) == 1
    shown = capsys.readouterr().err
    assert "--device: cpu has too little memory: CUDA out of memory" in shown


def test_binary_and_quiet(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = text.with_name("out")
    words = ["vectors", str(text), "--out", str(out), "--binary", "--no-progress"]
    assert cli.main([*words, *WORDS, "--max-vocab", "12"]) == 0
    assert capsys.readouterr().err == ""
    assert formats.looks_binary(out)
    assert len(KeyedVectors.load_word2vec_format(out, binary=True)) == 12


def test_the_same_seed_gives_the_same_file(text: Path) -> None:
    files = [text.with_name(name) for name in ("one", "other", "third")]
    for file, seed in zip(files, ("1", "1", "2"), strict=True):
        words = ["vectors", str(text), "--out", str(file), "--no-progress", "--seed", seed]
        assert cli.main([*words, *WORDS]) == 0
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_compressed_files(text: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    out = text.with_name("out")
    text.write_bytes(compress(kind, text.read_bytes()))
    words = ["vectors", str(text), "--out", str(out), "--no-progress", *WORDS]
    assert cli.main(words) == 0
    assert "24,000 words in 1,500 sentences, 30 different" in capsys.readouterr().out
    for binary in (False, True):
        KeyedVectors.load_word2vec_format(out).save_word2vec_format(
            text.with_name("again"), binary=binary
        )
        again = text.with_name("again")
        again.write_bytes(compress(kind, again.read_bytes()))
        assert cli.main(["nearest", str(again), "ship", "--top", "2"]) == 0
        shown = capsys.readouterr().out
        assert {line.split()[1] for line in shown.splitlines()[1:]} <= set(TOPICS["sea"])


def test_text_that_is_no_utf8(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = text.with_name("out")
    text.write_bytes(text.read_bytes() + "바다 나무\n".encode("cp949") * 9)
    words = ["vectors", str(text), "--out", str(out), "--no-progress", *WORDS]
    assert cli.main(words) == 1
    shown = capsys.readouterr().err
    assert f"seqkern vectors: cannot read {text}: line 1501, byte " in shown
    assert "or pass --errors replace to read U+FFFD there" in shown
    assert shown.count("\n") == 1 and not out.exists()
    assert cli.main([*words, "--errors", "replace"]) == 0
    assert len(KeyedVectors.load_word2vec_format(out)) == 32


@pytest.mark.parametrize("kind", [(), ("--fasttext",)], ids=" ".join)
def test_a_training_that_diverges(
    text: Path, capsys: pytest.CaptureFixture[str], kind: tuple[str, ...]
) -> None:
    """What was there before stays."""
    out = text.with_name("out")
    out.write_text("of an earlier training")
    words = ["vectors", str(text), "--out", str(out), "--no-progress", *WORDS, "--alpha", "1"]
    assert cli.main([*words, *kind]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("seqkern vectors: training diverged in epoch 1 of 3, before word ")
    assert "lower alpha" in shown and shown.count("\n") == 1
    assert out.read_text() == "of an earlier training"


@pytest.mark.parametrize("binary", [False, True])
def test_nearest(text: Path, capsys: pytest.CaptureFixture[str], binary: bool) -> None:
    out = text.with_name("out")
    words = ["vectors", str(text), "--out", str(out), "--no-progress", *WORDS]
    assert cli.main([*words, "--epochs", "8", *(["--binary"] if binary else [])]) == 0
    capsys.readouterr()
    assert cli.main(["nearest", str(out), "ship", "oven", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == ["ship", "oven"]
    assert {line.split()[1] for line in lines[1:3]} <= set(TOPICS["sea"])
    assert {line.split()[1] for line in lines[4:6]} <= set(TOPICS["kitchen"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{text}.gone", "--out", "{out}"], "text.gone"),
        (["{folder}", "--out", "{out}"], "directory"),
        (["{text}", "--out", "{folder}"], "--out: {folder} is a folder"),
        (
            ["{text}", "--out", "{out}", "--device", "tpu"],
            "--device: device must be 'cpu' or a CUDA GPU such as 'cuda', got 'tpu': it is no",
        ),
        pytest.param(
            ["{text}", "--out", "{out}", "--device", "cuda"],
            f"got 'cuda': torch {torch.__version__} sees no CUDA GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (["{text}", "--out", "{folder}/no/file"], "lies in a folder that does not exist"),
        (["{text}", "--out", "{out}", "--counts", "{folder}"], "--counts: {folder} is a folder"),
        (["{text}", "--out", "{out}", "--min-count", "99999"], "occurs min_count=99999 times"),
        (["/dev/null", "--out", "{out}"], "the text /dev/null holds no words"),
    ],
)
def test_vectors_fails_in_one_sentence(
    text: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    names = {"text": text, "folder": text.parent, "out": text.with_name("out")}
    assert cli.main(["vectors", *(word.format(**names) for word in words)]) == 1
    shown = capsys.readouterr().err
    assert message.format(**names) in shown
    assert shown.startswith("seqkern vectors: ") and shown.count("\n") == 1
    assert not names["out"].exists()


def test_nearest_fails_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    some_vectors().save_word2vec_format(good)
    bad.write_text("hello\n")
    for words, message in (
        ([str(good), "w1", "ship"], f"'ship' is not among the 50 words of {good}"),
        ([str(bad), "w1"], f"cannot read the word vectors {bad}: byte 0: "),
        ([f"{good}.gone", "w1"], f"cannot read {good}.gone: No such file"),
    ):
        assert cli.main(["nearest", *words]) == 1
        shown = capsys.readouterr()
        assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""


def test_nearest_of_a_file_without_first_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "glove"
    some_vectors().save_word2vec_format(path, write_header=False)
    assert cli.main(["nearest", str(path), "w1", "--no-header", "--limit", "5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vectors", "text"], "required: --out"),
        (["vectors", "text", "--out", "o", "--dim", "0"], "--dim: must be a whole number from 1"),
        (
            ["vectors", "text", "--out", "o", "--alpha", "2"],
            "--alpha: must be a number from 0",
        ),
        (
            ["vectors", "text", "--out", "o", "--alpha", "x"],
            "--alpha: must be a number from 0",
        ),
        (["vectors", "text", "--out", "o", "--sg", "--cbow"], "not allowed with argument --sg"),
        (["nearest", "file"], "required: WORD"),
        (["nearest", "file", "w", "--top", "0"], "--top: must be a whole number from 1"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_text_is_told_from_binary(tmp_path: Path) -> None:
    path = tmp_path / "v"
    for binary in (False, True):
        some_vectors().save_word2vec_format(path, binary=binary)
        assert formats.looks_binary(path) == binary
