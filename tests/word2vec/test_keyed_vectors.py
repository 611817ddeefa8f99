"""Looking up words and their neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seqkern.word2vec import KeyedVectors
from tests.word2vec.vectors import some_vectors, toward


@pytest.fixture
def compass() -> KeyedVectors:
    """Words in the plane, by the direction in which they point."""
    words = ["east", "eastish", "north", "west", "nothing"]
    vectors = np.concatenate([toward(0, 20, 90, 180), np.zeros((1, 2), np.float32)])
    return KeyedVectors.from_arrays(words, vectors)


class TestLookingUp:
    def test_one_word(self, compass: KeyedVectors) -> None:
        assert compass["east"].dtype == np.float32
        np.testing.assert_allclose(compass["east"], [2, 0])
        np.testing.assert_allclose(compass[1], compass["eastish"])
        np.testing.assert_allclose(compass.get_vector("north", norm=True), [0, 1], atol=1e-6)

    def test_several_words(self, compass: KeyedVectors) -> None:
        assert compass[["east", "north", 0]].shape == (3, 2)
        np.testing.assert_array_equal(compass[["north"]][0], compass["north"])
        assert compass[[]].shape == (0, 2)

    def test_what_is_there(self, compass: KeyedVectors) -> None:
        assert "east" in compass and "south" not in compass
        assert 4 in compass and 5 not in compass and -1 not in compass and 1.0 not in compass
        assert len(compass) == 5
        assert compass.index_to_key[compass.key_to_index["west"]] == "west"
        assert compass.get_index("west") == 3 and compass.get_index("south", 7) == 7

    def test_unknown_words(self, compass: KeyedVectors) -> None:
        for call in (
            lambda: compass["south"],
            lambda: compass[["east", "south"]],
            lambda: compass[5],
            lambda: compass.get_index("south"),
            lambda: compass.similarity("east", "south"),
            lambda: compass.most_similar("south"),
        ):
            with pytest.raises(KeyError, match="is not among the 5 words"):
                call()

    def test_vectors_are_protected(self, compass: KeyedVectors) -> None:
        with pytest.raises(ValueError, match="read-only"):
            compass["east"][0] = 3
        compass.vectors[0] = 3  # the table itself may be changed
        assert compass["east"][0] == 3

    def test_counts(self) -> None:
        assert some_vectors(5).get_vecattr("w1", "count") == 4
        with pytest.raises(KeyError, match="no attribute 'color'"):
            some_vectors().get_vecattr("w1", "color")

    def test_norms_follow_the_vectors_when_told(self, compass: KeyedVectors) -> None:
        np.testing.assert_allclose(compass.norms, [2, 2, 2, 2, 0])
        compass.vectors[:] *= 3
        compass.forget_norms()
        np.testing.assert_allclose(compass.norms, [6, 6, 6, 6, 0])
        np.testing.assert_allclose(
            np.linalg.norm(compass.get_normed_vectors(), axis=1), [1, 1, 1, 1, 0]
        )

    def test_rows_of_any_stride(self) -> None:
        table = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
        words = [str(number) for number in range(20)]
        padded = KeyedVectors.from_arrays(words, table[:, :5])
        packed = KeyedVectors.from_arrays(words, table[:, :5].copy())
        assert padded.vectors.base is table
        for one, other in zip(padded.most_similar("3"), packed.most_similar("3"), strict=True):
            assert one[0] == other[0] and one[1] == pytest.approx(other[1])

    @pytest.mark.parametrize(
        ("words", "vectors"),
        [
            (["a"], np.zeros((2, 3), np.float32)),
            (["a", "b"], np.zeros((2, 3))),
            (["a", "b"], np.zeros(2, np.float32)),
            (["a", "a"], np.zeros((2, 3), np.float32)),
        ],
    )
    def test_what_does_not_fit(self, words: list[str], vectors: np.ndarray) -> None:
        with pytest.raises(ValueError, match=r"vectors must be float32 of|words must be different"):
            KeyedVectors.from_arrays(words, vectors)

    @pytest.mark.parametrize("size", [0, -1, 2.5, "3"])
    def test_the_size_must_be_a_number(self, size: object) -> None:
        with pytest.raises(ValueError, match="vector_size must be a whole number from 1, got"):
            KeyedVectors(size)  # type: ignore[arg-type]


def test_other_vectors_may_be_assigned(compass: KeyedVectors) -> None:
    """Lengths that were computed of the ones before are forgotten."""
    before = compass.most_similar("north")
    compass.vectors = compass.vectors * np.linspace(1, 9, 5, dtype=np.float32)[:, None]
    assert compass.most_similar("north") == [(w, pytest.approx(c, abs=1e-6)) for w, c in before]
    np.testing.assert_allclose(compass.norms, np.linalg.norm(compass.vectors, axis=1))


class TestAdding:
    def test_words_are_appended(self, compass: KeyedVectors) -> None:
        compass.norms  # noqa: B018
        compass.add_vectors(["south", "east"], [[0, -1], [5, 5]])
        assert compass.index_to_key[-1] == "south" and len(compass) == 6
        np.testing.assert_allclose(compass["south"], [0, -1])
        np.testing.assert_allclose(compass["east"], [2, 0])
        assert compass.most_similar("south", topn=1)[0][0] in ("east", "west")

    def test_words_are_replaced_if_wished(self, compass: KeyedVectors) -> None:
        compass.add_vectors(["east", "south", "south"], [[5, 5], [1, 1], [0, -1]], replace=True)
        np.testing.assert_allclose(compass["east"], [5, 5])
        np.testing.assert_allclose(compass["south"], [0, -1])
        assert len(compass) == 6

    def test_of_two_the_first_counts(self, compass: KeyedVectors) -> None:
        compass.add_vectors(["south", "south"], [[1, 1], [0, -1]])
        np.testing.assert_allclose(compass["south"], [1, 1])

    def test_shapes_must_fit(self, compass: KeyedVectors) -> None:
        for keys, weights in ((["a"], [[1, 2, 3]]), (["a", "b"], [[1, 2]]), ("ab", [[1, 2]] * 2)):
            with pytest.raises(ValueError, match="add_vectors: weights must be of shape"):
                compass.add_vectors(keys, weights)


class TestNeighbours:
    def test_the_nearest_first_without_the_given(self, compass: KeyedVectors) -> None:
        nearest = compass.most_similar("east")
        assert [word for word, _ in nearest] == ["eastish", "north", "nothing", "west"]
        expected = [math.cos(math.radians(20)), 0, 0, -1]
        assert [cosine for _, cosine in nearest] == pytest.approx(expected, abs=1e-6)
        assert compass.most_similar("east", topn=1) == nearest[:1]
        assert compass.most_similar("east", topn=0) == []
        assert compass.similar_by_word("east") == nearest

    def test_by_vector(self, compass: KeyedVectors) -> None:
        nearest = compass.similar_by_vector(np.array([-1.0, 0.1], np.float32), topn=2)
        assert [word for word, _ in nearest] == ["west", "north"]
        assert compass.most_similar(np.array([[-1.0, 0.1]]), topn=2) == nearest

    def test_all_cosines(self, compass: KeyedVectors) -> None:
        cosines = compass.most_similar("east", topn=None)
        assert isinstance(cosines, np.ndarray)
        np.testing.assert_allclose(cosines, [1, math.cos(math.radians(20)), 0, -1, 0], atol=1e-6)

    def test_sums_and_differences(self, compass: KeyedVectors) -> None:
        assert compass.most_similar(["east", "west"], topn=1)[0][0] in ("eastish", "north")
        assert compass.most_similar(positive="north", negative=["east"], topn=1)[0][0] == "west"
        assert compass.most_similar([("east", 1.0), ("north", 1e-3)], topn=1)[0][0] == "eastish"
        assert compass.most_similar([("east", -1.0)], topn=1)[0][0] == "west"

    def test_only_the_frequent(self, compass: KeyedVectors) -> None:
        assert len(compass.most_similar("east", restrict_vocab=2)) == 1
        assert [w for w, _ in compass.most_similar("east", clip_start=2)] == [
            "north",
            "nothing",
            "west",
        ]
        assert [w for w, _ in compass.most_similar("west", clip_start=2, clip_end=4)] == ["north"]

    def test_many_words(self) -> None:
        vectors = some_vectors(3000, 6)
        nearest = vectors.most_similar("w7", topn=20)
        unit = vectors.vectors / np.linalg.norm(vectors.vectors, axis=1, keepdims=True)
        order = np.argsort(-(unit @ unit[7]), kind="stable")
        assert [word for word, _ in nearest] == [f"w{row}" for row in order if row != 7][:20]

    def test_nan_comes_last(self, compass: KeyedVectors) -> None:
        compass.vectors[3] = np.nan
        compass.forget_norms()
        assert compass.most_similar("east")[-1][0] == "west"
        assert compass.most_similar("east", topn=1)[0][0] == "eastish"

    def test_nothing_given(self, compass: KeyedVectors) -> None:
        for given in (None, []):
            with pytest.raises(ValueError, match="at least one word or vector"):
                compass.most_similar(given)

    def test_a_vector_of_another_size(self, compass: KeyedVectors) -> None:
        with pytest.raises(ValueError, match=r"must be of shape \(2,\), got \(3,\)"):
            compass.most_similar(np.zeros(3))

    def test_similarity(self, compass: KeyedVectors) -> None:
        assert compass.similarity("east", "north") == pytest.approx(0, abs=1e-6)
        assert compass.distance("east", "west") == pytest.approx(2)
        assert compass.similarity("east", "nothing") == 0
        assert compass.n_similarity(["east", "north"], ["west", "north"]) == pytest.approx(
            0, abs=1e-6
        )

    def test_the_odd_one_out(self, compass: KeyedVectors) -> None:
        assert compass.doesnt_match(["east", "west", "eastish", "unknown"]) == "west"
        ranked = compass.rank_by_centrality(["east", "west", "eastish"])
        assert [word for _, word in ranked] == ["eastish", "east", "west"]
        with pytest.raises(ValueError, match="none of the words"):
            compass.doesnt_match(["unknown"])

    def test_means(self, compass: KeyedVectors) -> None:
        np.testing.assert_allclose(
            compass.get_mean_vector(["east", "unknown", "north"]), [0.5, 0.5], atol=1e-6
        )
        np.testing.assert_allclose(
            compass.get_mean_vector(["east", "north"], [3, 1], pre_normalize=False),
            [1.5, 0.5],
            atol=1e-6,
        )
        with pytest.raises(KeyError, match="'unknown'"):
            compass.get_mean_vector(["unknown"], ignore_missing=False)
        with pytest.raises(ValueError, match="as many weights"):
            compass.get_mean_vector(["east"], [1, 2])
