"""The benchmarks of word vectors: floors, tables, and what is trained again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import word2vec_cases as cases
from bench import word2vec_quality as quality
from bench.report import markdown
from bench.runs import Runs
from seqkern.embedding import training
from seqkern.word2vec import FastText, Word2Vec
from tests.word2vec.corpora import as_text, topic_sentences


class TestFloors:
    """By hand, from the number of multiplications and of rows."""

    @pytest.mark.parametrize(
        ("row", "flops", "numbers"),
        [
            # 6 contexts with 6 targets each, 3 products of 2 operations a number
            (cases.ROWS[0], 6 * 6 * 6 * 100, 7 * 100),
            (cases.ROWS[1], 6 * 6 * 6 * 300, 7 * 300),
            # one prediction of 6 targets; 6 contexts are added up and given their share
            (cases.ROWS[2], 6 * 6 * 100 + 2 * 6 * 100, 7 * 100),
        ],
        ids=str,
    )
    def test_of_negative_sampling(self, row: cases.Row, flops: float, numbers: int) -> None:
        model = Word2Vec(**{**row.settings(), "sample": 0})
        model.build_vocab(topic_sentences(100))
        assert cases.cost(row, model) == pytest.approx((flops, 8 * numbers))

    def test_of_trees_and_bags(self) -> None:
        sentences = [["aa"] * 10 + ["bb"] * 10]  # paths of one node; bags of <aa, aa>, <aa>
        tree = Word2Vec(**{**cases.ROWS[3].settings(), "sample": 0})
        tree.build_vocab(sentences)
        assert cases.cost(cases.ROWS[3], tree) == pytest.approx((6 * 100 * 6 * 1, 8 * 100 * 2))
        bags = FastText(**{**cases.ROWS[4].settings(), "sample": 0, "bucket": 50})
        bags.build_vocab(sentences)
        expected = (6 * 6 * 6 * 100 + 2 * 100 * 4, 8 * 100 * (6 + 4))
        assert cases.cost(cases.ROWS[4], bags) == pytest.approx(expected)

    def test_words_that_are_not_trained_on_cost_nothing(self) -> None:
        row = cases.ROWS[0]
        model = Word2Vec(**{**row.settings(), "sample": 0})
        model.build_vocab([["often"] * 10, ["once"]] + [["rare", "seldom"]] * 4)
        assert cases.cost(row, model).flops == pytest.approx(6 * 6 * 6 * 100 * 10 / 19)


class TestCorpus:
    def test_the_named_text_and_its_beginning(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = tmp_path / "text"
        text.write_text(as_text(topic_sentences(100)))
        monkeypatch.setenv("WORD2VEC_CORPUS", str(text))
        monkeypatch.setenv("WORD2VEC_WORDS", "100")
        monkeypatch.setattr(cases.settings, "QUICK", False)
        corpus = cases.make_corpus(tmp_path)
        assert corpus.whole == text and corpus.part_words == 7 * 16
        assert text.read_text().startswith(corpus.part.read_text())
        assert len(corpus.part.read_text().split()) == corpus.part_words

    def test_one_made_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WORD2VEC_CORPUS", raising=False)
        monkeypatch.setattr(cases.settings, "QUICK", True)
        corpus = cases.make_corpus(tmp_path)
        assert corpus.part_words >= 20_000
        words = corpus.whole.read_text().split()
        assert words == [word.lower() for word in words] and all(map(str.isalpha, words))


class TestReport:
    def record(self, **changes: Any) -> dict[str, Any]:
        return {
            "domain": "word2vec",
            "table": "Word vectors",
            "row": "skip-gram",
            "mode": "training",
            "shape": "1000-words",
            "batch": 1000,
            "threads": 2,
            "backend": "cpu",
            "target": {"mean": 7.0, "one": None, "worst": None},
            "words": 1000,
            "least_words": 2e6,
            "rounds": 3,
            "ours_min": 0.0004,
            "ours_median": 0.0005,
            "peer_min": 0.004,
            "peer_median": 0.005,
            "ratio": 10.0,
            "flops": 1e6,
            "peak_gflops": 10.0,
            "bytes": 1e5,
            "peak_gbs": 50.0,
            "memory_gbs": 2.0,
        } | changes

    def test_words_per_second(self) -> None:
        shown = markdown(Runs(records=[self.record(), self.record(row="slow", ours_min=0.001)]))
        # arithmetic: 1000 words in 1e6 / 10e9 s; memory: in 1e5 / 2e9 s
        assert "| skip-gram | 0.250 | **2.500** | ≥ 2 | yes | 20.0 | 10.0 | 0.25 |" in shown
        assert "| slow | 0.250 | **1.000** | ≥ 2 | **no** | 20.0 | 10.0 | 0.10 |" in shown

    def test_reading_has_no_arithmetic(self) -> None:
        record = self.record(flops=0.0, least_words=None, target=None, mode="reading")
        assert "| skip-gram | 0.250 | **2.500** |  |  | 20.0 |  | 0.12 |" in markdown(
            Runs(records=[record])
        )


class TestQuality:
    def records(self) -> list[dict[str, Any]]:
        base = {"model": "sg-ns", "epochs": 5, "dim": 100, "corpus": "text:9"}
        scores = {
            ("gensim", 1, 2): (0.6, 0.3, 20.0),
            ("gensim", 2, 2): (0.62, 0.3, 21.0),
            ("seqkern", 1, 1): (0.6, 0.29, 20.0),
            ("seqkern", 2, 1): (0.6, 0.29, 20.0),
            ("seqkern", 1, 2): (0.5, 0.29, 20.0),
        }
        return [
            {**base, "side": side, "seed": seed, "threads": threads}
            | dict(zip(quality.SCORES, values, strict=True))
            for (side, seed, threads), values in scores.items()
        ]

    def test_table(self) -> None:
        shown = quality.table(self.records()).splitlines()
        assert "| sg-ns gensim | 2 | 1 2 | 0.610 | 0.300 | 20.5 |  |  |  |" in shown
        one = "| sg-ns seqkern | 1 | 1 2 | 0.600 | 0.290 | 20.0 | 2 of gensim, 2 threads |"
        assert f"{one} -0.010 -0.010 -0.5 | yes |" in shown
        assert any("| -0.110 -0.010 -0.5 | **no** |" in line for line in shown)

    def test_ours_is_held_against_both_ways_of_gensim(self) -> None:
        records = self.records()
        records.append(records[0] | {"side": "gensim-sentences", "wordsim353": 0.605})
        shown = [line for line in quality.table(records).splitlines() if "seqkern | 1" in line]
        assert len(shown) == 2
        assert shown[0].endswith("| 2 of gensim, 2 threads | -0.010 -0.010 -0.5 | yes |")
        assert shown[1].endswith("| 1 of gensim-sentences, 2 threads | -0.005 -0.010 +0.0 | yes |")

    def test_what_is_there_is_not_trained_again(self, tmp_path: Path) -> None:
        path = tmp_path / "records.json"
        assert quality.read_records(path) == []
        path.write_text("".join(json.dumps(record) + "\n" for record in self.records()))
        records = quality.read_records(path)
        assert records == self.records()
        tasks = [record | {"seed": 3} for record in records[:1]] + records[1:3]
        assert [task["seed"] for task in quality.missing(tasks, records)] == [3]
        usual, other = ([records[0] | {"alpha": alpha}] for alpha in (quality.ALPHA, 0.05))
        assert quality.missing(usual, records) == [] and quality.missing(other, records) == other

    def test_a_whole_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("gensim", reason="gensim is not installed")
        judged: list[Any] = []

        def judge(vectors: Any) -> dict[str, float]:
            """gensim's own questions ask for words that this text lacks."""
            judged.append(vectors)
            assert vectors.similarity("ship", "sailor") <= 1
            return dict.fromkeys(quality.SCORES, 0.5)

        monkeypatch.setattr(quality, "judge", judge)
        text, out = tmp_path / "text", tmp_path / "records.json"
        text.write_text(as_text(topic_sentences(200)))
        words = [str(text), "--out", str(out), "--models", "sg-ns", "--seeds", "1"]
        words += ["--threads", "1", "--epochs", "1", "--dim", "8"]
        assert quality.main(words) == 0
        assert [record["side"] for record in quality.read_records(out)] == ["gensim", "seqkern"]
        assert len(judged) == 2 and all(len(vectors) == 30 for vectors in judged)
        assert "2/2 seqkern sg-ns seed 1" in capsys.readouterr().out
        assert quality.main(words) == 0 and len(judged) == 2
        # On another device ours is trained once, and gensim's record is there. "cpu:0" is the CPU
        # by the way that a GPU takes.
        assert quality.main([*words, "--threads", "1", "2", "--device", "cpu:0"]) == 0
        records = quality.read_records(out)[2:]
        assert [(r["side"], r["threads"], r.get("device")) for r in records] == [
            ("seqkern", 1, "cpu:0"),
            ("gensim", 2, None),
        ]
        assert "| sg-ns seqkern on cpu:0 | 1 | 1 |" in capsys.readouterr().out
        # Copies of frequent rows are asked of the training loop, and told apart from other records.
        train_, asked = training.train_, []

        def recorded(*tensors: Any, **options: Any) -> Any:
            asked.append(options["copies"])
            return train_(*tensors, **options)

        monkeypatch.setattr(training, "train_", recorded)
        assert quality.main([*words, "--sides", "seqkern", "--copies", "never"]) == 0
        assert set(asked) == {False}
        assert quality.read_records(out)[-1]["copies"] == "never"
        assert "| sg-ns seqkern, copies never | 1 | 1 |" in capsys.readouterr().out

    def test_a_device_that_cannot_train_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = tmp_path / "text"
        text.write_text("some words")
        with pytest.raises(SystemExit):
            quality.main([str(text), "--out", str(tmp_path / "out"), "--device", "tpu"])
        assert "--device: device must be 'cpu' or a CUDA GPU" in capsys.readouterr().err


def test_both_sides_of_a_row(tmp_path: Path) -> None:
    pytest.importorskip("gensim", reason="gensim is not installed")
    text = tmp_path / "text"
    text.write_text(as_text(topic_sentences(600)))
    row = cases.Row("small", 16, cases.Target(1), 1.0, {"sg": 1, "sample": 0, "alpha": 0.05})
    sides = cases.Contestants(row, cases.Corpus(text, text, 600 * 16))
    sides.use_threads(1)
    before = sides.train_ours()[0]
    sides.train_theirs()
    for _ in range(15):
        sides.train_ours()
        sides.train_theirs()
    ours, theirs = sides.agree()
    assert ours[0].shape == theirs[0].shape == (30 * 29,)
    assert (ours[0] - before).abs().max() > 0
    error = (ours[0] - theirs[0]).norm() / theirs[0].norm()
    assert error < cases.AGREEMENT
    shuffled = ours[0][torch.randperm(30 * 29)]
    assert (shuffled - theirs[0]).norm() / theirs[0].norm() > error
