"""Training continues from vectors that are put into `wv`; words that are appended
stay; and copies hold their table once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seqkern.word2vec import FastText, FastTextKeyedVectors, KeyedVectors, Word2Vec
from tests.word2vec.corpora import topic_sentences

SENTENCES = topic_sentences(300)
SMALL: dict[str, Any] = {"vector_size": 12, "workers": 1, "sample": 0, "epochs": 1}
STILL = {"start_alpha": 0, "end_alpha": 0}
KINDS = {
    "Word2Vec": lambda **options: Word2Vec(**SMALL, **options),
    "tree": lambda **options: Word2Vec(**SMALL, hs=1, negative=0, **options),
    "FastText": lambda **options: FastText(**SMALL, bucket=200, **options),
    "without n-grams": lambda **options: FastText(**SMALL, bucket=0, **options),
    "elsewhere": lambda **options: Word2Vec(**SMALL, device="cpu:0", **options),
    "FastText elsewhere": lambda **options: FastText(
        **SMALL, bucket=200, device="cpu:0", **options
    ),
}
Make = Callable[..., Word2Vec]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    kind: Make = KINDS[request.param]
    return kind


@pytest.fixture
def model(make: Make) -> Word2Vec:
    made = make()
    made.build_vocab(SENTENCES)
    return made


def drawn(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, 12))


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def fits(vectors: KeyedVectors) -> None:
    """Keys and rows are as many."""
    assert len(vectors) == len(vectors.index_to_key) == len(vectors.vectors) == len(vectors.norms)
    assert vectors.key_to_index == {word: row for row, word in enumerate(vectors.index_to_key)}


class TestAssigned:
    def assign(self, model: Word2Vec, how: str) -> np.ndarray:
        given = drawn(len(model.wv))
        if how == "float32":
            model.wv.vectors = given.astype(np.float32)
        elif how == "float64":
            model.wv.vectors = given
        elif how == "list":
            model.wv.vectors = given.tolist()  # type: ignore[assignment]
        elif how == "strided":
            model.wv.vectors = np.asfortranarray(given)
        elif how == "in place":
            model.wv.vectors[:] = given
        elif how == "shuffled in place":
            given = model.wv.vectors[::-1].copy()
            model.wv.vectors[:] = given
        else:
            given = model.wv.vectors[::-1].copy()
            model.wv.vectors = model.wv.vectors[::-1]  # a view of what is to be changed
        return given

    @pytest.mark.parametrize(
        "how", ["float32", "float64", "list", "strided", "in place", "shuffled in place", "view"]
    )
    def test_is_kept_and_trained_on(self, make: Make, how: str) -> None:
        still, moving = make(), make()
        for model in (still, moving):
            model.build_vocab(SENTENCES)
            given = self.assign(model, how)
        still.train(SENTENCES, **STILL)
        close(still.wv.vectors, given)
        close(still.wv["ship"], given[still.wv.key_to_index["ship"]])
        moving.train(SENTENCES, start_alpha=1e-4, end_alpha=1e-4)
        assert 1e-6 < np.abs(moving.wv.vectors - given).max() < 0.1
        fits(moving.wv)

    def test_is_where_training_starts(self) -> None:
        """As if the table had begun so."""
        one, other = Word2Vec(**SMALL), Word2Vec(**SMALL)
        for model in (one, other):
            model.build_vocab(SENTENCES)
        given = drawn(len(one.wv)).astype(np.float32)
        one.wv.vectors = given
        other._input.numpy()[:] = given
        for model in (one, other):
            model.train(SENTENCES)
        np.testing.assert_array_equal(one.wv.vectors, other.wv.vectors)
        np.testing.assert_array_equal(given, drawn(len(one.wv)).astype(np.float32))

    def test_between_trainings_and_by_a_callback(self, model: Word2Vec) -> None:
        model.train(SENTENCES)
        model.wv.vectors = given = drawn(len(model.wv))
        model.train(SENTENCES, **STILL)
        close(model.wv.vectors, given)
        seen: list[np.ndarray] = []

        class Change:
            def on_epoch_begin(self, model: Word2Vec) -> None:
                model.wv.vectors = drawn(len(model.wv), len(seen))

            def on_epoch_end(self, model: Word2Vec) -> None:
                seen.append(model.wv.vectors.copy())
                model.wv.vectors[0] = 7
                if len(seen) == 2:
                    model.wv.vectors = -model.wv.vectors

        model.train(SENTENCES, epochs=2, callbacks=[Change()], **STILL)
        for number, vectors in enumerate(seen):
            close(vectors, drawn(len(model.wv), number))
        close(model.wv.vectors[1:], -seen[1][1:])
        assert (model.wv.vectors[0] == -7).all()
        model.train(SENTENCES, **STILL)
        close(model.wv.vectors[1:], -seen[1][1:])

    @pytest.mark.parametrize("how", ["pickle", "deepcopy"])
    def test_copies_have_it(self, model: Word2Vec, how: str) -> None:
        model.wv.vectors = given = drawn(len(model.wv))
        twin = pickle.loads(pickle.dumps(model)) if how == "pickle" else copy.deepcopy(model)
        close(twin.wv.vectors, given)
        twin.train(SENTENCES, **STILL)
        close(twin.wv.vectors, given)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (np.zeros((3, 12)), r"wv.vectors must be of shape \(30, 12\), .* got \(3, 12\)"),
            (np.zeros((30, 11)), r"wv.vectors must be of shape \(30, 12\), .* got \(30, 11\)"),
            (np.full((30, 12), np.nan), "wv.vectors must hold finite numbers of less than 10000"),
            (np.full((30, 12), 1e300), "wv.vectors must hold finite numbers"),
            (np.full((30, 12), -1e4), "wv.vectors must hold finite numbers"),
        ],
    )
    def test_what_cannot_be_trained_on(
        self, model: Word2Vec, given: np.ndarray, message: str
    ) -> None:
        model.wv.vectors = given
        with pytest.raises(ValueError, match=message):
            model.train(SENTENCES)

    def test_other_words(self, model: Word2Vec) -> None:
        own = model.wv
        model.wv = KeyedVectors.from_arrays(list("abc"), np.ones((3, 12), np.float32))
        is_subwords = isinstance(own, FastTextKeyedVectors)
        message = "be FastTextKeyed" if is_subwords else "begin with the 30 words that build_vocab"
        with pytest.raises((TypeError, ValueError), match=f"wv must {message}"):
            model.train(SENTENCES)
        model.wv = own
        own.index_to_key[2:4] = own.index_to_key[3:1:-1]
        with pytest.raises(ValueError, match="in their order"):
            model.train(SENTENCES)

    def test_another_object_with_the_same_words(self, model: Word2Vec) -> None:
        twin = copy.deepcopy(model.wv)
        twin.vectors = given = drawn(30)
        model.wv = twin
        model.train(SENTENCES, **STILL)
        assert model.wv is twin
        close(twin.vectors, given)


class TestAppended:
    def append(self, model: Word2Vec) -> np.ndarray:
        given = drawn(2, 9)
        model.wv.add_vectors(["newcomer", "guest"], given)
        return given

    @pytest.mark.parametrize("trained", [False, True])
    def test_stay_and_the_others_are_trained(self, make: Make, trained: bool) -> None:
        model, other = make(), make()
        for one in (model, other):
            one.build_vocab(SENTENCES)
            if trained:
                one.train(SENTENCES)
        given = self.append(model)
        for _ in range(2):
            for one in (model, other):
                one.train([*SENTENCES, ["newcomer", "ship", "guest"] * 5])
            fits(model.wv)
            assert len(model.wv) == 32
            np.testing.assert_allclose(model.wv.vectors[30:], given, rtol=1e-6)
            # Where the rows lie does not matter, so they are the same bits.
            np.testing.assert_array_equal(model.wv.vectors[:30], other.wv.vectors)
        assert model.wv.most_similar("newcomer", topn=31)[0][0] != "newcomer"

    def test_and_replaced(self, model: Word2Vec) -> None:
        model.wv.add_vectors(["newcomer", "ship"], drawn(2), replace=True)
        model.train(SENTENCES, **STILL)
        fits(model.wv)
        close(model.wv["newcomer"], drawn(2)[0])
        close(model.wv["ship"], drawn(2)[1])

    def test_by_a_callback(self, model: Word2Vec) -> None:
        class Append:
            number = 0

            def on_epoch_end(self, model: Word2Vec) -> None:
                self.number += 1
                model.wv.add_vectors([f"new{self.number}"], drawn(1, self.number))
                fits(model.wv)

        model.train(SENTENCES, epochs=3, callbacks=[Append()])
        fits(model.wv)
        assert len(model.wv) == 33
        for number in (1, 2, 3):
            close(model.wv[f"new{number}"], drawn(1, number)[0])

    @pytest.mark.parametrize("how", ["pickle", "deepcopy"])
    def test_copies_have_them(self, model: Word2Vec, how: str) -> None:
        given = self.append(model)
        twin = pickle.loads(pickle.dumps(model)) if how == "pickle" else copy.deepcopy(model)
        for one in (twin, model):
            one.train(SENTENCES)
            fits(one.wv)
            close(one.wv.vectors[30:], given)
        np.testing.assert_array_equal(twin.wv.vectors, model.wv.vectors)

    def test_a_new_vocabulary_starts_anew(self, model: Word2Vec) -> None:
        self.append(model)
        model.build_vocab(SENTENCES)
        assert len(model.wv) == 30
        model.train(SENTENCES)
        fits(model.wv)


class TestSubwords:
    def make(self) -> FastText:
        model = FastText(**SMALL, bucket=200)
        model.build_vocab(SENTENCES)
        return model

    def test_a_mean_is_moved_by_the_words_own_vector(self) -> None:
        """What other words are made of stays."""
        model = self.make()
        ngrams, unseen = model.wv.vectors_ngrams.copy(), model.wv["shipping"].copy()
        others = model.wv.vectors.copy()
        vectors = model.wv.vectors.copy()
        vectors[3] = drawn(1)
        model.wv.vectors = vectors
        model.train(SENTENCES, **STILL)
        np.testing.assert_array_equal(model.wv.vectors_ngrams, ngrams)
        np.testing.assert_array_equal(model.wv["shipping"], unseen)
        others[3] = drawn(1)
        close(model.wv.vectors, others)
        model.wv.compose()  # it comes from the table, not from a copy
        close(model.wv.vectors, others)

    @pytest.mark.parametrize("how", ["assigned", "in place"])
    def test_the_parts_may_be_given(self, how: str) -> None:
        model = self.make()
        own, ngrams = drawn(30), drawn(200, 1)
        if how == "assigned":
            model.wv.vectors_vocab, model.wv.vectors_ngrams = own, ngrams
        else:
            model.wv.vectors_vocab[:], model.wv.vectors_ngrams[:] = own, ngrams
        model.train(SENTENCES, **STILL)
        close(model.wv.vectors_vocab, own)
        close(model.wv.vectors_ngrams, ngrams)
        rows = model.wv.subwords.rows("ship")
        word = own[model.wv.key_to_index["ship"]]
        close(model.wv["ship"], np.mean([word, *ngrams[rows]], axis=0))
        model.train(SENTENCES, start_alpha=0.025)
        assert (model.wv.vectors_ngrams != ngrams.astype(np.float32)).any()

    def test_parts_of_another_shape(self) -> None:
        for name in ("vocab", "ngrams"):
            model = self.make()
            setattr(model.wv, f"vectors_{name}", drawn(7))
            with pytest.raises(ValueError, match=f"vectors_{name} must be of shape"):
                model.train(SENTENCES)

    def test_too_large_for_its_ngrams(self) -> None:
        model = self.make()
        model.wv.vectors = np.full((30, 12), 5e3)
        with pytest.raises(ValueError, match="each times the number of its word's n-grams, must"):
            model.train(SENTENCES)

    def test_other_ngrams(self) -> None:
        model = self.make()
        other = FastText(SENTENCES, **SMALL, bucket=100)
        model.wv = other.wv
        with pytest.raises(ValueError, match=r"min_n, max_n and bucket .*\(3, 6, 200\), got"):
            model.train(SENTENCES)


class TestTables:
    """Each number once in a pickle, and in memory after it."""

    def test_of_subword_vectors(self) -> None:
        model = FastText(SENTENCES, **SMALL, bucket=5000)
        table = model.wv.table.nbytes
        for append in (False, True):
            if append:
                model.wv.add_vectors(["newcomer"], drawn(1))
            for given in (model.wv, model):
                assert table < len(pickle.dumps(given)) < 1.2 * table
            loaded = pickle.loads(pickle.dumps(model.wv))
            assert isinstance(loaded, FastTextKeyedVectors)
            fits(loaded)
            for part in (loaded.vectors_vocab, loaded.vectors_ngrams):
                assert np.shares_memory(part, loaded.table)
            np.testing.assert_array_equal(loaded.vectors, model.wv.vectors)
            np.testing.assert_array_equal(loaded["shipping"], model.wv["shipping"])
            loaded.vectors_ngrams[:] = 0
            loaded.compose()
            assert not loaded["shipping"].any() and (loaded["ship"] != model.wv["ship"]).all()

    def test_of_a_model(self) -> None:
        for kind in ("FastText", "Word2Vec", "without n-grams"):
            model = KINDS[kind]()
            model.build_vocab(SENTENCES)
            loaded = pickle.loads(pickle.dumps(model))
            held = loaded.wv.vectors if kind == "Word2Vec" else loaded.wv.vectors_vocab
            assert np.shares_memory(held, loaded._input.numpy())
            if kind == "FastText":
                assert np.shares_memory(loaded.wv.vectors_ngrams, loaded._input.numpy())

    def test_without_ngrams_the_vectors_are_the_table(self) -> None:
        model = FastText(SENTENCES, **SMALL, bucket=0)
        plain = len(pickle.dumps(KeyedVectors.from_arrays(model.wv.index_to_key, model.wv.vectors)))
        assert len(pickle.dumps(model.wv)) < plain + 1000
        loaded = pickle.loads(pickle.dumps(model.wv))
        assert loaded.vectors is loaded.vectors_vocab

    def test_parts_that_were_given(self) -> None:
        model = FastText(SENTENCES, **SMALL, bucket=50)
        model.wv.vectors_ngrams = drawn(50)
        loaded = pickle.loads(pickle.dumps(model.wv))
        close(loaded.vectors_ngrams, drawn(50))
        assert np.shares_memory(loaded.vectors_ngrams, loaded.table)
