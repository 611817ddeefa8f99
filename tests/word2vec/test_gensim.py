"""The same numbers and the same files as gensim's; skipped where gensim is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkern.word2vec import KeyedVectors

gensim_models = pytest.importorskip("gensim.models", reason="gensim is not installed")
datapath = pytest.importorskip("gensim.test.utils").datapath


@pytest.fixture(scope="module")
def question_words() -> list[str]:
    """Words of gensim's questions, some of them in two spellings."""
    words: dict[str, None] = {}
    for line in Path(datapath("questions-words.txt")).read_text().splitlines():
        if not line.startswith(":"):
            words.update(dict.fromkeys(line.split()))
    for name in ("wordsim353.tsv", "simlex999.txt"):
        for line in Path(datapath(name)).read_text().splitlines():
            if not line.startswith("#"):
                words.update(dict.fromkeys(line.split("\t")[:2]))
    names = list(words)[::2]  # the others stay unknown
    np.random.default_rng(0).shuffle(names)
    return names + [name.swapcase() for name in names[::5] if name.swapcase() not in words]


@pytest.fixture(scope="module")
def both_sides(question_words: list[str]) -> tuple[KeyedVectors, Any]:
    """The same vectors here and in gensim; they have some structure, so that some questions are
    answered."""
    rng = np.random.default_rng(0)
    letters = rng.standard_normal((256, 24)).astype(np.float32)
    vectors = np.stack([sum(letters[byte] for byte in word.encode()) for word in question_words])
    theirs = gensim_models.KeyedVectors(24)
    theirs.add_vectors(question_words, vectors)
    return KeyedVectors.from_arrays(question_words, vectors), theirs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"case_insensitive": False},
        {"dummy4unknown": True},
        {"restrict_vocab": 400},
        {"restrict_vocab": 400, "dummy4unknown": True, "case_insensitive": False},
    ],
    ids=str,
)
class TestEvaluation:
    @pytest.mark.parametrize("name", ["wordsim353.tsv", "simlex999.txt"])
    def test_pairs(self, both_sides: tuple[KeyedVectors, Any], name: str, options: dict) -> None:
        ours, theirs = (side.evaluate_word_pairs(datapath(name), **options) for side in both_sides)
        for mine, other in zip(ours[:2], theirs[:2], strict=True):
            assert mine.statistic == pytest.approx(other.statistic, abs=1e-6)
            assert mine.pvalue == pytest.approx(other.pvalue, rel=1e-4)
        assert ours[2] == theirs[2]

    def test_analogies(self, both_sides: tuple[KeyedVectors, Any], options: dict) -> None:
        name = datapath("questions-words.txt")
        (score, sections), (expected, expected_sections) = (
            side.evaluate_word_analogies(name, **options) for side in both_sides
        )
        assert score == expected > 0
        for mine, other in zip(sections, expected_sections, strict=True):
            assert {**mine, "correct": sorted(mine["correct"])} == {
                **other,
                "correct": sorted(other["correct"]),
            }


class TestQueries:
    def test_neighbours(self, both_sides: tuple[KeyedVectors, Any]) -> None:
        for arguments in (
            {"positive": "Athens"},
            {"positive": ["Athens", "Greece"], "negative": ["Baghdad"]},
            {"positive": [("Athens", 0.5), "Oslo"], "topn": 3},
            {"positive": both_sides[0]["Oslo"] * 3, "topn": 30},
            {"positive": "Athens", "restrict_vocab": 100},
        ):
            arguments = {
                key: [w for w in value if w[0] in both_sides[0] or w in both_sides[0]]
                if isinstance(value, list)
                else value
                for key, value in arguments.items()
            }
            ours, theirs = (side.most_similar(**arguments) for side in both_sides)
            assert [word for word, _ in ours] == [word for word, _ in theirs]
            assert [cosine for _, cosine in ours] == pytest.approx(
                [cosine for _, cosine in theirs], abs=1e-5
            )

    def test_the_rest(self, both_sides: tuple[KeyedVectors, Any]) -> None:
        words = both_sides[0].index_to_key[:6]
        for ask in (
            lambda side: side.similarity(words[0], words[1]),
            lambda side: side.distance(words[0], words[1]),
            lambda side: side.n_similarity(words[:2], words[2:]),
            lambda side: side.get_mean_vector(words, [1, 2, 3, 4, 5, -6]),
            lambda side: side.get_vector(words[0], norm=True),
            lambda side: [cosine for cosine, _ in side.rank_by_centrality(words)],
        ):
            ours, theirs = (ask(side) for side in both_sides)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert both_sides[0].doesnt_match(words) == both_sides[1].doesnt_match(words)


@pytest.mark.parametrize("binary", [False, True])
class TestFiles:
    def test_gensim_reads_ours(
        self, tmp_path: Path, both_sides: tuple[KeyedVectors, Any], binary: bool
    ) -> None:
        ours, _ = both_sides
        ours.save_word2vec_format(tmp_path / "v", binary=binary)
        theirs = gensim_models.KeyedVectors.load_word2vec_format(str(tmp_path / "v"), binary=binary)
        assert theirs.index_to_key == ours.index_to_key
        np.testing.assert_array_equal(theirs.vectors, ours.vectors)

    def test_we_read_gensims(
        self, tmp_path: Path, both_sides: tuple[KeyedVectors, Any], binary: bool
    ) -> None:
        _, theirs = both_sides
        theirs.save_word2vec_format(str(tmp_path / "v"), binary=binary)
        ours = KeyedVectors.load_word2vec_format(tmp_path / "v", binary=binary)
        assert ours.index_to_key == theirs.index_to_key
        np.testing.assert_array_equal(ours.vectors, theirs.vectors)
