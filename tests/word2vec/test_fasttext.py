"""FastText: vectors of pieces of words, and of words that the text did not have."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from seqkern.core.backends import use_backend
from seqkern.text import Subwords
from seqkern.word2vec import FastText, FastTextKeyedVectors, Progress, Word2Vec, training
from tests.word2vec.corpora import KOREAN_ENDINGS, KOREAN_NOUNS, korean_sentences, topic_sentences
from tests.word2vec.test_model import closeness

SENTENCES = topic_sentences(600)
SMALL: dict[str, Any] = {
    "vector_size": 20,
    "workers": 1,
    "sample": 0,
    "alpha": 0.05,
    "bucket": 2000,
    "epochs": 5,
}


@pytest.mark.parametrize("hs", [0, 1])
@pytest.mark.parametrize("sg", [0, 1])
def test_words_of_a_topic_come_together(sg: int, hs: int) -> None:
    model = FastText(SENTENCES, **SMALL, sg=sg, hs=hs, negative=0 if hs else 5)
    assert closeness(model.wv) > (0.3 if sg else 0.1)


@pytest.fixture(scope="module")
def model() -> FastText:
    return FastText(SENTENCES, **SMALL, sg=1)


class TestVectors:
    def test_known_words_are_means_of_their_bag(self, model: FastText) -> None:
        vectors = model.wv
        subwords = Subwords(3, 6, 2000)
        for word in ("captain", "of", "a"):
            rows = subwords.rows(word)
            parts = [
                vectors.vectors_vocab[vectors.key_to_index[word]],
                *vectors.vectors_ngrams[rows],
            ]
            np.testing.assert_allclose(vectors[word], np.mean(parts, axis=0), rtol=1e-4, atol=1e-6)

    def test_unknown_words_are_means_of_their_ngrams(self, model: FastText) -> None:
        rows = Subwords(3, 6, 2000).rows("captains")
        expected = model.wv.vectors_ngrams[rows].mean(axis=0)
        np.testing.assert_allclose(model.wv["captains"], expected, rtol=1e-5)
        unit = model.wv.get_vector("captains", norm=True)
        np.testing.assert_allclose(unit, expected / np.linalg.norm(expected), rtol=1e-4)
        with pytest.raises(ValueError, match="read-only"):
            unit[0] = 1

    def test_every_word_is_in_it_but_not_in_the_vocabulary(self, model: FastText) -> None:
        assert "captains" in model.wv and "captains" not in model.wv.key_to_index
        assert not model.wv.has_index_for("captains") and model.wv.has_index_for("captain")
        assert len(model.wv) not in model.wv and 0 in model.wv
        with pytest.raises(KeyError):
            model.wv.get_vector(len(model.wv))

    def test_an_unknown_form_lies_near_its_word(self, model: FastText) -> None:
        assert model.wv.most_similar("captains", topn=1)[0][0] == "captain"
        assert model.wv.similarity("captains", "captain") > 0.8
        assert model.wv.doesnt_match(["captains", "ship", "oven"]) == "oven"

    def test_a_word_without_ngrams(self) -> None:
        model = FastText(SENTENCES, **{**SMALL, "min_n": 4, "epochs": 1})
        assert not model.wv["x"].any() and not model.wv.get_vector("x", norm=True).any()

    def test_without_buckets_it_is_word2vec(self) -> None:
        for options in ({"bucket": 0}, {"max_n": 2}):
            model = FastText(SENTENCES, **{**SMALL, **options}, sg=1)
            other = Word2Vec(
                SENTENCES, vector_size=20, workers=1, sample=0, alpha=0.05, epochs=5, sg=1
            )
            assert model.wv.bucket == 0
            np.testing.assert_allclose(model.wv.vectors, other.wv.vectors, rtol=1e-4, atol=1e-5)
            assert "captains" not in model.wv
            with pytest.raises(KeyError, match="'captains' is not among"):
                model.wv["captains"]

    @pytest.mark.parametrize("how", ["pickle", "deepcopy"])
    def test_copies(self, model: FastText, how: str) -> None:
        twin = pickle.loads(pickle.dumps(model)) if how == "pickle" else copy.deepcopy(model)
        for word in ("captain", "captains"):
            np.testing.assert_array_equal(twin.wv[word], model.wv[word])
        before = model.wv["captains"].copy()
        twin.train(SENTENCES, epochs=1)
        assert (twin.wv["captains"] != before).any() and (model.wv["captains"] == before).all()
        vectors = pickle.loads(pickle.dumps(model.wv))
        np.testing.assert_array_equal(vectors["captains"], before)

    def test_an_interrupt_leaves_what_was_learnt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training, "PIECE", 2000)

        def interrupt(progress: Progress) -> None:
            if progress.epoch == 3:
                raise KeyboardInterrupt

        model = FastText(**SMALL, sg=1, progress=interrupt)
        model.build_vocab(SENTENCES)
        with pytest.raises(KeyboardInterrupt):
            model.train(SENTENCES)
        assert closeness(model.wv) > 0.2
        bag = [model.wv.vectors_vocab[0], *model.wv.vectors_ngrams[Subwords(3, 6, 2000).rows(
            model.wv.index_to_key[0])]]  # fmt: skip
        np.testing.assert_allclose(model.wv[0], np.mean(bag, axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["torch", "triton", "reference"])
def test_whatever_backend_modules_are_to_take(backend: str) -> None:
    with use_backend(backend):
        model = FastText(SENTENCES, **SMALL, sg=1)
    rows = [0, *(len(model.wv) + np.array(model.wv.subwords.rows(model.wv.index_to_key[0])))]
    table = np.concatenate([model.wv.vectors_vocab, model.wv.vectors_ngrams])
    np.testing.assert_allclose(model.wv[0], table[rows].mean(0), rtol=1e-4, atol=1e-6)


def test_unseen_korean_forms_lie_near_their_stem() -> None:
    """The text has every noun, but lacks one form of each."""
    nouns = list(KOREAN_NOUNS)
    unseen = {noun + KOREAN_ENDINGS[place]: noun for place, noun in enumerate(nouns)}
    model = FastText(
        korean_sentences(set(unseen)),
        sg=1,
        vector_size=40,
        workers=1,
        min_n=1,
        max_n=3,
        bucket=20_000,
        alpha=0.05,
        epochs=5,
        sample=0,
    )
    for form, stem in unseen.items():
        assert form not in model.wv.key_to_index and stem in model.wv.key_to_index
        cosines = {noun: model.wv.similarity(form, noun) for noun in nouns}
        assert max(cosines, key=cosines.__getitem__) == stem, (form, cosines)
        nearest = [word for word, _ in model.wv.most_similar(form, topn=3)]
        assert all(word.startswith(stem) for word in nearest), (form, nearest)


class TestAgainstGensim:
    def test_the_same_tables_give_the_same_vectors(self) -> None:
        models = pytest.importorskip("gensim.models.fasttext", reason="gensim is not installed")
        words = ["captain", "of", "나무", "a"]
        table = np.random.default_rng(0).standard_normal((4 + 500, 6)).astype(np.float32)
        ours = FastTextKeyedVectors(words, table, 3, 6)
        ours.compose()
        theirs = models.FastTextKeyedVectors(6, 3, 6, 500)
        theirs.index_to_key = words
        theirs.key_to_index = {word: row for row, word in enumerate(words)}
        theirs.init_post_load(table)
        np.testing.assert_allclose(ours.vectors, theirs.vectors, rtol=1e-4, atol=1e-6)
        for word in ("captain", "captains", "나무가", "나", "x"):
            for norm in (False, True):
                np.testing.assert_allclose(
                    ours.get_vector(word, norm=norm),
                    theirs.get_vector(word, norm=norm),
                    rtol=1e-4,
                    atol=1e-6,
                )

    def test_the_same_start(self) -> None:
        models = pytest.importorskip("gensim.models", reason="gensim is not installed")
        sentences = [[f"w{number:02}"] * (90 - number) for number in range(20)]
        ours, theirs = (
            kind(vector_size=8, bucket=300, seed=3) for kind in (FastText, models.FastText)
        )
        for model in (ours, theirs):
            model.build_vocab(sentences)
        np.testing.assert_array_equal(ours.wv.vectors_vocab, theirs.wv.vectors_vocab)
        np.testing.assert_array_equal(ours.wv.vectors_ngrams, theirs.wv.vectors_ngrams)
        np.testing.assert_allclose(ours.wv["w17x"], theirs.wv["w17x"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"word_ngrams": 2}, NotImplementedError, "word_ngrams=2 is not supported, only 1"),
        ({"min_n": 0}, ValueError, "min_n must be a whole number from 1"),
        ({"max_n": -1}, ValueError, "max_n must be a whole number from 0"),
        ({"bucket": -1}, ValueError, "bucket must be a whole number from 0"),
        ({"null_word": 1}, NotImplementedError, "null_word=1 is not supported"),
        ({"window": 0}, ValueError, "window must be"),
    ],
)
def test_errors(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        FastText(**options)
