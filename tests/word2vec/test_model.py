"""Word2Vec: learning, reproducibility, the contract with gensim's users."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import seqkern
from seqkern.text import TextFormatError
from seqkern.word2vec import Progress, Word2Vec, corpora, training
from tests.text.compressing import KINDS, compress
from tests.word2vec.corpora import TOPICS, as_text, topic_sentences

SENTENCES = topic_sentences()
SMALL: dict[str, Any] = {"vector_size": 20, "workers": 1, "sample": 0, "alpha": 0.05}
MODELS = {
    "skip-gram negatives": {"sg": 1},
    "skip-gram negatives per pair": {"sg": 1, "share_negatives": False},
    "skip-gram tree": {"sg": 1, "hs": 1, "negative": 0},
    "CBOW negatives": {"sg": 0},
    "CBOW sum": {"sg": 0, "cbow_mean": 0},
    "CBOW tree": {"sg": 0, "hs": 1, "negative": 0},
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text"
    path.write_text(as_text(SENTENCES))
    return path


def closeness(vectors: seqkern.KeyedVectors) -> float:
    """Mean similarity of words of a topic less that of words of two topics."""
    topic = {word: name for name, words in TOPICS.items() for word in words}
    same, different = [], []
    for one, other in combinations(topic, 2):
        where = same if topic[one] == topic[other] else different
        where.append(vectors.similarity(one, other))
    return float(np.mean(same) - np.mean(different))


class TestLearning:
    @pytest.mark.parametrize("deterministic", [False, True])
    @pytest.mark.parametrize("name", MODELS)
    def test_words_of_a_topic_come_together(self, name: str, deterministic: bool) -> None:
        torch.set_num_threads(2)
        how = {"workers": 2, "deterministic": True} if deterministic else {"workers": 1}
        model = Word2Vec(SENTENCES, **{**SMALL, **MODELS[name], **how})
        # Sums of many vectors need only a small part of each to tell the topics apart.
        assert closeness(model.wv) > (0.01 if name == "CBOW sum" else 0.3)
        nearest = {word for word, _ in model.wv.most_similar("ship", topn=3)}
        assert nearest <= set(TOPICS["sea"])

    def test_an_untrained_model_knows_nothing(self) -> None:
        model = Word2Vec(**SMALL)
        model.build_vocab(SENTENCES)
        assert abs(closeness(model.wv)) < 0.1

    def test_a_learning_rate_of_zero_changes_nothing(self) -> None:
        model = Word2Vec(**{**SMALL, "alpha": 0, "min_alpha": 0})
        model.build_vocab(SENTENCES)
        before = model.wv.vectors.copy()
        model.train(SENTENCES)
        np.testing.assert_array_equal(model.wv.vectors, before)

    def test_all_options_reach_the_kernel(self) -> None:
        """Each changes the vectors; what it should do the kernel's own tests know."""
        base = Word2Vec(SENTENCES, **SMALL, sg=1)
        for option in (
            {"window": 2},
            {"shrink_windows": False},
            {"negative": 3},
            {"ns_exponent": 0.0},
            {"sample": 1e-2},
            {"epochs": 4},
            {"min_alpha": 0.01},
            {"share_negatives": False},
            {"seed": 2},
            {"deterministic": True},
        ):
            other = Word2Vec(SENTENCES, **{**SMALL, "sg": 1, **option})
            assert np.abs(other.wv.vectors - base.wv.vectors).max() > 1e-4, option
        means = [Word2Vec(SENTENCES, **SMALL, cbow_mean=mean).wv.vectors for mean in (0, 1)]
        assert np.abs(means[0] - means[1]).max() > 1e-4


class TestSources:
    def test_a_file_and_its_sentences_are_the_same(self, text: Path) -> None:
        one = Word2Vec(corpus_file=text, **SMALL)
        other = Word2Vec(SENTENCES, **SMALL)
        generator = Word2Vec((sentence for sentence in SENTENCES), **SMALL)
        assert one.wv.index_to_key == other.wv.index_to_key == generator.wv.index_to_key
        np.testing.assert_array_equal(one.wv.vectors, other.wv.vectors)
        np.testing.assert_array_equal(one.wv.vectors, generator.wv.vectors)

    def test_two_steps_are_the_constructor_in_one(self, text: Path) -> None:
        model = Word2Vec(**SMALL)
        model.build_vocab(corpus_file=str(text))
        words = sum(map(len, SENTENCES))
        assert (model.corpus_count, model.corpus_total_words) == (len(SENTENCES), words)
        counts = model.train(
            corpus_file=str(text),
            total_examples=model.corpus_count,
            total_words=model.corpus_total_words,
            epochs=model.epochs,
        )
        assert counts == (5 * words, 5 * words)
        at_once = Word2Vec(corpus_file=text, **SMALL)
        np.testing.assert_array_equal(model.wv.vectors, at_once.wv.vectors)

    def test_subsampling_and_unknown_words_are_not_trained_on(self) -> None:
        sentences = [*SENTENCES, ["rare", "seldom"]]
        model = Word2Vec(**{**SMALL, "sample": 1e-2})
        model.build_vocab(sentences)
        kept, words = model.train(sentences, epochs=2)
        assert words == 2 * sum(map(len, sentences))
        expected = 2 * float((model.vocabulary.counts * model._keep).sum())
        assert kept == pytest.approx(expected, rel=0.02) and kept < 0.95 * words
        assert "rare" not in model.wv

    def test_the_encoded_text_is_used_while_the_file_stays(
        self, text: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encodings = []
        encode = corpora.encode_corpus

        def counted(*arguments: Any, **options: Any) -> Any:
            encodings.append(arguments[0])
            return encode(*arguments, **options)

        monkeypatch.setattr(corpora, "encode_corpus", counted)
        model = Word2Vec(corpus_file=text, **SMALL)
        model.train(corpus_file=text, epochs=1)
        model.train(corpus_file=str(text), epochs=1)
        assert encodings == []
        text.write_text(as_text(SENTENCES[:100]))
        _, words = model.train(corpus_file=text, epochs=1)
        assert encodings == [text] and words == sum(map(len, SENTENCES[:100]))
        model.train(corpus_file=text, epochs=1)  # the new content is known now
        assert len(encodings) == 1
        model.train(SENTENCES, epochs=1)
        assert len(encodings) == 2

    def test_the_vocabulary_is_chosen(self) -> None:
        sentences = [["a"] * 5, ["b"] * 4, ["c"] * 3, ["d"] * 3]
        for options, words in (
            ({"min_count": 4}, ["a", "b"]),
            ({"min_count": 1}, ["a", "b", "c", "d"]),
            ({"min_count": 0}, ["a", "b", "c", "d"]),
            ({"min_count": 1, "max_final_vocab": 3}, ["a", "b", "c"]),
        ):
            model = Word2Vec(**{**SMALL, **options})
            model.build_vocab(sentences)
            assert model.wv.index_to_key == words
        assert model.wv.get_vecattr("b", "count") == 4

    def test_a_sample_from_one_on_is_a_count(self) -> None:
        """As in gensim: words that are more frequent are thinned."""
        sentences = [["often"] * 1000, ["seldom"] * 10]
        model = Word2Vec(**{**SMALL, "sample": 100})
        model.build_vocab(sentences)
        # gensim's formula, with the threshold int(100 (3 + sqrt 5) / 2)
        threshold = int(100 * (3 + math.sqrt(5)) / 2)
        expected = (math.sqrt(1000 / threshold) + 1) * threshold / 1000
        assert model._keep.tolist() == pytest.approx([expected, 1], rel=1e-5)

    def test_words_without_any_order(self) -> None:
        model = Word2Vec([["only"] * 10], **SMALL)
        assert np.isfinite(model.wv["only"]).all()
        tree = Word2Vec([["only"] * 10], **SMALL, hs=1, negative=0)
        assert np.isfinite(tree.wv["only"]).all()


class TestStart:
    def test_within_gensims_bounds(self) -> None:
        model = Word2Vec(**SMALL)
        model.build_vocab(SENTENCES)
        vectors = model.wv.vectors * model.vector_size
        assert -1 <= vectors.min() < -0.9 and 0.9 < vectors.max() < 1
        assert abs(vectors.mean()) < 0.1
        assert not model._output.any()

    def test_drawn_in_parts_as_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, parts = (seqkern.word2vec.tables.zeros(9_000, 600) for _ in range(2))
        seqkern.word2vec.tables.fill_random(whole, 3)
        drawn = np.random.default_rng(3).random((9_000, 600), np.float32)
        np.testing.assert_array_equal(whole.numpy(), (drawn * 2 - 1) / np.float32(600))

    def test_rows_begin_at_cache_lines(self) -> None:
        table = seqkern.word2vec.tables.zeros(10, 100)
        assert table.shape == (10, 100) and table.stride() == (112, 1)
        assert table.data_ptr() % 64 == 0

    def test_number_for_number(self) -> None:
        models = pytest.importorskip("gensim.models", reason="gensim is not installed")
        sentences = [[f"w{number:02}"] * (90 - number) for number in range(40)]  # no ties
        ours = Word2Vec(**SMALL, seed=5)
        theirs = models.Word2Vec(vector_size=20, seed=5)
        for model in (ours, theirs):
            model.build_vocab(sentences)
        assert ours.wv.index_to_key == theirs.wv.index_to_key
        np.testing.assert_array_equal(ours.wv.vectors, theirs.wv.vectors)


class TestReproducible:
    @pytest.mark.parametrize("name", MODELS)
    def test_one_worker(self, name: str) -> None:
        settings = {**SMALL, **MODELS[name]}
        one, other = (Word2Vec(SENTENCES[:300], **settings) for _ in range(2))
        np.testing.assert_array_equal(one.wv.vectors, other.wv.vectors)
        different = Word2Vec(SENTENCES[:300], **settings, seed=7)
        assert (different.wv.vectors != one.wv.vectors).any()

    @pytest.mark.skipif(torch.get_num_threads() < 2, reason="needs two threads")
    def test_any_number_of_workers_if_wished(self) -> None:
        torch.set_num_threads(2)
        settings = {**SMALL, "deterministic": True, "sg": 1}
        models = [Word2Vec(SENTENCES, **{**settings, "workers": n}) for n in (1, 2)]
        assert models[1].threads == 2
        np.testing.assert_array_equal(models[0].wv.vectors, models[1].wv.vectors)
        assert closeness(models[0].wv) > 0.4

    def test_epochs_and_pieces_draw_other_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seeds: list[int] = []
        step = Word2Vec._step

        def watched(self: Word2Vec, *arguments: Any) -> Any:
            seeds.append(arguments[-1])
            return step(self, *arguments)

        monkeypatch.setattr(Word2Vec, "_step", watched)
        monkeypatch.setattr(training, "PIECE", 1000)
        model = Word2Vec(SENTENCES, **SMALL, epochs=2)
        model.train(SENTENCES)
        assert len(set(seeds)) == len(seeds) > 20


class TestDevice:
    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("kind", [seqkern.Word2Vec, seqkern.FastText])
    def test_without_a_gpu_it_says_so(self, kind: Any) -> None:
        with pytest.raises(ValueError, match="got 'cuda': torch .* sees no CUDA GPU"):
            kind(SENTENCES, device="cuda")

    @pytest.mark.parametrize("options", [{"sg": 1}, {"hs": 1, "negative": 0}], ids=str)
    @pytest.mark.parametrize("kind", [seqkern.Word2Vec, seqkern.FastText])
    def test_copies_elsewhere_come_back(self, kind: Any, options: dict[str, Any]) -> None:
        """ "cpu:0" stands for a GPU: the tables are copied there, and back at each epoch whose
        end is observed, and at the end."""
        small = {**SMALL, **options, "epochs": 2}
        if kind is seqkern.FastText:
            small["bucket"] = 50
        seen = []

        class Look:
            def on_epoch_end(self, model: Word2Vec) -> None:
                seen.append(model.wv["ship"].copy())

        here = kind(SENTENCES, callbacks=[Look()], **small)
        there = kind(SENTENCES, callbacks=[Look()], device="cpu:0", **small)
        assert np.array_equal(here.wv.vectors, there.wv.vectors)
        assert len(seen) == 4 and np.array_equal(seen[0], seen[2])
        assert not np.array_equal(seen[0], seen[1])
        assert pickle.loads(pickle.dumps(there)).device == torch.device("cpu:0")


class TestProgress:
    def test_what_a_listener_hears(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training, "PIECE", 5000)
        heard: list[Progress] = []
        Word2Vec(SENTENCES, **SMALL, epochs=2, progress=heard.append)
        words = sum(map(len, SENTENCES))
        assert len(heard) > 6
        assert heard[-1].words == heard[-1].total_words == 2 * words
        assert [h.epoch for h in heard] == sorted(h.epoch for h in heard)
        rates = [h.learning_rate for h in heard]
        for progress, rate in zip(heard, rates, strict=True):
            share = progress.words / (2 * words)
            assert rate == pytest.approx(0.05 - (0.05 - 1e-4) * share, rel=1e-3)
        assert all(h.words_per_second > 0 and h.loss is None for h in heard)

    @pytest.mark.parametrize("unit", ["total_words", "total_examples"])
    def test_the_learning_rate_falls_by_the_given_total(self, unit: str) -> None:
        heard: list[Progress] = []
        model = Word2Vec(**SMALL, progress=heard.append)
        model.build_vocab(SENTENCES)
        size = model.corpus_total_words if unit == "total_words" else model.corpus_count
        model.train(SENTENCES, **{unit: 2 * size}, epochs=1)
        assert heard[-1].learning_rate == pytest.approx((0.05 + 1e-4) / 2)
        model.train(SENTENCES, **{unit: size // 2}, epochs=1, start_alpha=0.04, end_alpha=0.01)
        assert heard[-1].learning_rate == pytest.approx(0.01)

    def test_a_bar(self, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("tqdm")
        Word2Vec(SENTENCES, **SMALL, progress=True, compute_loss=True)
        shown = capsys.readouterr().err
        assert "epoch 5/5" in shown and "M words/s, lr 0.0001, loss " in shown

    def test_callbacks(self) -> None:
        calls: list[str] = []

        class Callback:
            def on_train_begin(self, model: Word2Vec) -> None:
                calls.append("begin")

            def on_epoch_end(self, model: Word2Vec) -> None:
                calls.append(f"epoch {model.get_latest_training_loss() > 0}")

            def on_train_end(self, model: Word2Vec) -> None:
                calls.append("end")

        Word2Vec(SENTENCES, **SMALL, epochs=2, compute_loss=True, callbacks=[Callback()])
        assert calls == ["begin", "epoch True", "epoch True", "end"]

    def test_an_interrupt_leaves_what_was_learnt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training, "PIECE", 5000)

        def interrupt(progress: Progress) -> None:
            if progress.words > progress.total_words * 0.7:
                raise KeyboardInterrupt

        model = Word2Vec(**SMALL, progress=interrupt, compute_loss=True)
        model.build_vocab(SENTENCES)
        with pytest.raises(KeyboardInterrupt):
            model.train(SENTENCES)
        assert closeness(model.wv) > 0.2
        assert model.get_latest_training_loss() > 0
        model.progress = False
        model.train(SENTENCES)  # and it can go on
        assert closeness(model.wv) > 0.3


class TestLoss:
    def test_at_the_start(self) -> None:
        """With output vectors of zero every probability is one half."""
        still = {**SMALL, "alpha": 0, "min_alpha": 0, "compute_loss": True}
        negatives = Word2Vec(SENTENCES, **still, sg=1, negative=1, share_negatives=False)
        # A negative that is the word itself is left out.
        noise = negatives.vocabulary.counts.double() ** 0.75
        share = negatives.vocabulary.counts / negatives.vocabulary.counts.sum()
        same = float((noise / noise.sum() * share).sum())
        expected = (2 - same) * math.log(2)
        assert negatives.get_latest_training_loss() == pytest.approx(expected, rel=0.01)
        tree = Word2Vec(SENTENCES, **still, sg=0, hs=1, negative=0)
        lengths = tree._paths.offsets.diff()
        expected = float((lengths * share).sum()) * math.log(2)
        assert tree.get_latest_training_loss() == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("name", MODELS)
    def test_it_falls(self, name: str) -> None:
        losses: list[float] = []

        class Watch:
            def on_epoch_end(self, model: Word2Vec) -> None:
                losses.append(model.get_latest_training_loss())

        slow = {**SMALL, **MODELS[name], "alpha": 0.002}
        Word2Vec(SENTENCES, **slow, compute_loss=True, callbacks=[Watch()])
        assert losses == sorted(losses, reverse=True) and losses[-1] < 0.96 * losses[0]

    @pytest.mark.parametrize("name", MODELS)
    def test_it_falls_whatever_two_threads_do_to_each_other(self, name: str) -> None:
        """They may lose steps, which says nothing of how near to each other words come."""
        torch.set_num_threads(2)
        heard: list[Progress] = []
        slow = {**SMALL, **MODELS[name], "workers": 2, "compute_loss": True}
        still = Word2Vec(SENTENCES, **{**slow, "alpha": 0.0, "min_alpha": 0.0, "epochs": 1})
        model = Word2Vec(SENTENCES, **{**slow, "alpha": 0.01}, progress=heard.append)
        assert model.threads == 2 and heard[-1].words == heard[-1].total_words
        assert np.isfinite(model.wv.vectors).all()
        assert model.get_latest_training_loss() < still.get_latest_training_loss()

    def test_not_computed(self) -> None:
        with pytest.raises(RuntimeError, match="train with compute_loss=True"):
            Word2Vec(SENTENCES, **SMALL).get_latest_training_loss()


class TestCopies:
    @pytest.mark.parametrize("how", ["pickle", "deepcopy"])
    def test_go_on_learning(self, how: str) -> None:
        model = Word2Vec(SENTENCES, **SMALL, epochs=1)
        twin = pickle.loads(pickle.dumps(model)) if how == "pickle" else copy.deepcopy(model)
        np.testing.assert_array_equal(twin.wv.vectors, model.wv.vectors)
        assert np.shares_memory(twin.wv.vectors, twin._input.numpy())
        before = model.wv.vectors.copy()
        twin.train(SENTENCES, epochs=4)
        assert closeness(twin.wv) > 0.3
        np.testing.assert_array_equal(model.wv.vectors, before)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device": "mps"}, "device must be 'cpu' or .*, got 'mps': no kernel trains there"),
            ({"device": "gpu"}, "device must be 'cpu' or .*, got 'gpu': it is no device"),
            ({"device": 1.5}, "device must be 'cpu' or .*, got 1.5: it is no device"),
            ({"vector_size": 0}, "vector_size must be a whole number from 1 to .*, got 0"),
            ({"vector_size": 1.5}, "vector_size must be a whole number"),
            ({"alpha": -1}, "alpha must be a finite number from 0, got -1"),
            ({"alpha": math.nan}, "alpha must be a finite number"),
            ({"min_alpha": "low"}, "min_alpha must be a finite number"),
            ({"window": 0}, "window must be a whole number from 1"),
            ({"min_count": -1}, "min_count must be a whole number from 0"),
            ({"sample": -0.1}, "sample must be a finite number from 0"),
            ({"seed": -1}, "seed must be a whole number from 0"),
            ({"workers": 0}, "workers must be a whole number from 1"),
            ({"sg": 2}, "sg must be 0, 1, False or True, got 2"),
            ({"hs": "yes"}, "hs must be 0, 1"),
            ({"negative": 0}, "give either hs=1 and negative=0 .* got hs=0 and negative=0"),
            ({"hs": 1}, "give either hs=1 and negative=0 .* got hs=1 and negative=5"),
            ({"ns_exponent": math.inf}, "ns_exponent must be a finite number"),
            ({"cbow_mean": 3}, "cbow_mean must be 0, 1"),
            ({"epochs": 0}, "epochs must be a whole number from 1"),
            ({"max_final_vocab": 0}, "max_final_vocab must be a whole number from 1"),
            ({"progress": "loud"}, "progress must be 0, 1"),
            ({"errors": "ignore"}, "errors must be 'strict' or 'replace', got 'ignore'"),
            ({"callbacks": [object()]}, "callbacks are for a training"),
        ],
    )
    def test_out_of_bounds(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Word2Vec(**options)

    @pytest.mark.parametrize(
        "options",
        [
            {"max_vocab_size": 1000},
            {"hashfxn": len},
            {"null_word": 1},
            {"trim_rule": print},
            {"sorted_vocab": 0},
            {"batch_words": 100},
            {"comment": "mine"},
        ],
    )
    def test_what_gensim_has_and_we_have_not(self, options: dict[str, Any]) -> None:
        (name,) = options
        with pytest.raises(NotImplementedError, match=f"^{name}=.* is not supported, only"):
            Word2Vec(**options)

    def test_unknown_attributes(self) -> None:
        with pytest.raises(TypeError, match="unexpected argument 'size'"):
            Word2Vec(size=100)

    def test_gensims_usual_values_are_no_news(self) -> None:
        Word2Vec(
            max_vocab_size=None, hashfxn=hash, null_word=0, trim_rule=None, sorted_vocab=1,
            batch_words=10_000, comment=None,
        )  # fmt: skip

    def test_sources(self, text: Path) -> None:
        for arguments, message in (
            ((SENTENCES, text), "give either sentences or corpus_file"),
            (("a file",), "the name of a file goes to corpus_file"),
            ((3,), "sentences must be an iterable"),
            ((None, 3), "corpus_file must be a path, got 3"),
        ):
            with pytest.raises(TypeError, match=message):
                Word2Vec(*arguments)
        with pytest.raises(TypeError, match="train: give either sentences or corpus_file"):
            Word2Vec(SENTENCES, **SMALL).train()
        with pytest.raises(TypeError, match="each sentence should be a list of words"):
            Word2Vec(["a sentence", "another"])
        with pytest.raises(FileNotFoundError):
            Word2Vec(corpus_file=text.with_name("missing"))

    def test_nothing_to_learn_from(self, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.write_text("")
        spent = iter([["a"]])
        list(spent)
        for arguments, message in (
            ({"sentences": []}, "the sentences hold no words$"),
            ({"sentences": [[], []]}, "the sentences hold no words$"),
            ({"sentences": spent}, "list_iterator objects give theirs only once, and this one has"),
            ({"sentences": [["a"]] * 4}, "none of the 4 words of the text occurs min_count=5 time"),
            ({"corpus_file": empty}, f"the text {empty} holds no words"),
        ):
            with pytest.raises(corpora.CorpusError, match=message):
                Word2Vec(**arguments)

    def test_no_vocabulary(self) -> None:
        with pytest.raises(RuntimeError, match="call build_vocab first"):
            Word2Vec().train(SENTENCES)

    @pytest.mark.parametrize("kind", [Word2Vec, seqkern.FastText])
    def test_nothing_in_a_later_text(self, kind: Any, tmp_path: Path) -> None:
        small = {**SMALL, "bucket": 50} if kind is seqkern.FastText else SMALL
        model = kind(SENTENCES, **small)
        before = model.wv.vectors.copy()
        once = iter(SENTENCES)
        model.train(once)
        after = model.wv.vectors.copy()
        assert (after != before).any()
        unheard, empty = tmp_path / "unheard", tmp_path / "empty"
        unheard.write_text("unheard words\n")
        empty.write_text("\n\n")
        for arguments, message in (
            ({"corpus_iterable": once}, "list_iterator objects give theirs only once, and this"),
            ({"corpus_iterable": (s for s in ())}, "generator objects give theirs only once"),
            ({"corpus_iterable": []}, "the sentences hold no words$"),
            ({"corpus_iterable": [["unheard", "words"]]}, "none of the 2 words .* the 30 of the"),
            ({"corpus_file": unheard}, "none of the 2 words of the text is among the 30 of the"),
            ({"corpus_file": empty}, f"the text {empty} holds no words"),
        ):
            with pytest.raises(corpora.CorpusError, match=message) as caught:
                model.train(**arguments, epochs=2)
            assert isinstance(caught.value, ValueError)
        np.testing.assert_array_equal(model.wv.vectors, after)
        model.train(SENTENCES)
        assert (model.wv.vectors != after).any()

    def test_a_text_without_any_neighbours(self) -> None:
        """Each sentence is one word: there is nothing to predict."""
        model = Word2Vec(**SMALL)
        model.build_vocab([["alone"], ["lonely"]] * 5)
        with pytest.warns(UserWarning, match="nothing was learnt: of 10 words 10 are in the voc"):
            assert model.train([["alone"], ["lonely"]] * 5) == (50, 50)

    def test_a_text_that_is_no_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "text"
        words = "바다".encode("cp949"), "나무".encode("cp949")
        path.write_bytes((b" ".join(words) + b"\n") * 9)
        with pytest.raises(TextFormatError, match=f"cannot read {path}: line 1, byte 0: 0xb9"):
            Word2Vec(corpus_file=path, **SMALL)
        model = Word2Vec(corpus_file=path, errors="replace", **SMALL)
        assert model.wv.index_to_key == [b.decode("utf-8", "replace") for b in words]
        model.errors = "strict"
        model.build_vocab(SENTENCES)
        with pytest.raises(TextFormatError, match="line 1, byte 0"):
            model.train(corpus_file=path)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_compressed_text(self, text: Path, kind: str) -> None:
        plain = Word2Vec(corpus_file=text, **SMALL)
        text.write_bytes(compress(kind, text.read_bytes()))
        model = Word2Vec(corpus_file=text, **SMALL)
        np.testing.assert_array_equal(model.wv.vectors, plain.wv.vectors)
        for one in (model, plain):
            one.train(corpus_file=text, epochs=1)
        np.testing.assert_array_equal(model.wv.vectors, plain.wv.vectors)

    def test_wrong_totals(self) -> None:
        model = Word2Vec(SENTENCES, **SMALL)
        with pytest.raises(ValueError, match="total_words must be a whole number from 1"):
            model.train(SENTENCES, total_words=0)


@given(
    lengths=st.lists(st.integers(0, 12), max_size=30), size=st.integers(1, 20), tail=st.booleans()
)
def test_pieces_are_whole_sentences(lengths: list[int], size: int, tail: bool) -> None:
    numbers = [number for length in lengths for number in [*range(length), -1]]
    tokens = torch.tensor(numbers[:-1] if tail and numbers else numbers, dtype=torch.int32)
    found = list(training.pieces(tokens, size))
    assert [number for start, end in found for number in tokens[start:end]] == tokens.tolist()
    for _, end in found[:-1]:
        assert tokens[end - 1] == -1
    for start, end in found:
        assert 0 < end - start < size + 13


def test_more_workers_than_threads() -> None:
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert Word2Vec(workers=64).threads == threads


def test_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Word2Vec(SENTENCES[:200], **SMALL).wv.most_similar("ship")
