"""Word pairs and analogies: the rules of counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqkern.text import TextFormatError, opening
from seqkern.word2vec import KeyedVectors
from tests.text.compressing import KINDS, compress
from tests.word2vec.vectors import toward


def write(folder: Path, text: str) -> Path:
    path = folder / "questions.txt"
    path.write_text(text)
    return path


@pytest.fixture
def angles() -> KeyedVectors:
    words = ["zero", "ten", "thirty", "Sixty", "sixty", "ninety"]
    return KeyedVectors.from_arrays(words, toward(0, 10, 30, 60, 150, 90))


class TestPairs:
    PAIRS = "# a comment\nzero\tten\t9\nzero\tthirty\t8\nzero\tSIXTY\t2\nzero\tNinety\t3\n"

    def test_ranks_agree_with_the_judges(self, tmp_path: Path, angles: KeyedVectors) -> None:
        pearson, spearman, unknown = angles.evaluate_word_pairs(write(tmp_path, self.PAIRS))
        assert spearman.statistic == pytest.approx(0.8)  # one neighbouring swap among four
        assert 0.8 < pearson.statistic < 1
        assert unknown == 0

    def test_unknown_words_are_left_out(self, tmp_path: Path, angles: KeyedVectors) -> None:
        path = write(tmp_path, self.PAIRS + "zero\thundred\t5\nhopeless\nzero\tten\tmuch\n")
        assert angles.evaluate_word_pairs(path)[2] == pytest.approx(20)
        assert angles.evaluate_word_pairs(path)[1].statistic == pytest.approx(0.8)

    def test_or_count_as_dissimilar(self, tmp_path: Path, angles: KeyedVectors) -> None:
        path = write(tmp_path, self.PAIRS + "zero\thundred\t9.5\n")
        _, spearman, unknown = angles.evaluate_word_pairs(path, dummy4unknown=True)
        assert unknown == pytest.approx(20)
        assert spearman.statistic < 0.5

    def test_case(self, tmp_path: Path, angles: KeyedVectors) -> None:
        path = write(tmp_path, "zero ten 9\nzero SIXTY 2\nzero thirty 3")
        assert angles.evaluate_word_pairs(path, " ")[2] == 0
        assert angles.evaluate_word_pairs(path, " ", case_insensitive=False)[2] == pytest.approx(
            100 / 3
        )

    def test_only_the_frequent_are_known(self, tmp_path: Path, angles: KeyedVectors) -> None:
        path = write(tmp_path, self.PAIRS)
        assert angles.evaluate_word_pairs(path, restrict_vocab=3)[2] == 50

    def test_nothing_to_judge(self, tmp_path: Path, angles: KeyedVectors) -> None:
        with pytest.raises(ValueError, match="holds no pair of known words"):
            angles.evaluate_word_pairs(write(tmp_path, "zero ten 9\n"))
        with pytest.raises(ValueError, match="at least 2"):
            angles.evaluate_word_pairs(write(tmp_path, "zero\tten\t9\n"))


class TestAnalogies:
    @pytest.fixture
    def sums(self) -> KeyedVectors:
        """Feminine and plural forms are offsets."""
        rng = np.random.default_rng(0)
        roots = rng.standard_normal((6, 30)).astype(np.float32)
        feminine, plural = rng.standard_normal((2, 30)).astype(np.float32)
        words, vectors = [], []
        for number, root in enumerate(roots):
            words += [f"r{number}", f"r{number}f", f"r{number}p"]
            vectors += [root, root + feminine, root + plural]
        return KeyedVectors.from_arrays(words, np.stack(vectors))

    QUESTIONS = (
        ": feminine\nr0 r0f r1 r1f\nr2 r2f r3 r3f\n: plural\nr0 r0p R1 r1p\nr4 r4p r5 r5f\n"
        "r0 r0p r9 r9p\nthree words only\n: empty\n"
    )

    def test_score_and_sections(self, tmp_path: Path, sums: KeyedVectors) -> None:
        score, sections = sums.evaluate_word_analogies(write(tmp_path, self.QUESTIONS))
        assert score == pytest.approx(3 / 4)
        assert [section["section"] for section in sections] == [
            "feminine",
            "plural",
            "empty",
            "Total accuracy",
        ]
        assert sections[1]["correct"] == [("R0", "R0P", "R1", "R1P")]
        assert sections[1]["incorrect"] == [("R4", "R4P", "R5", "R5F")]
        assert len(sections[-1]["correct"]) == 3

    def test_unknown_words(self, tmp_path: Path, sums: KeyedVectors) -> None:
        path = write(tmp_path, self.QUESTIONS)
        assert sums.evaluate_word_analogies(path, dummy4unknown=True)[0] == pytest.approx(3 / 5)
        assert sums.evaluate_word_analogies(path, case_insensitive=False)[0] == pytest.approx(2 / 3)
        assert sums.evaluate_word_analogies(path, restrict_vocab=6)[0] == 1  # r0 and r1 only

    def test_none_known(self, tmp_path: Path, sums: KeyedVectors) -> None:
        assert sums.evaluate_word_analogies(write(tmp_path, ": s\na b c d\n"))[0] == 0

    def test_another_spelling_of_the_question_is_no_answer(self, tmp_path: Path) -> None:
        words = ["a", "b", "c", "B", "d"]
        vectors = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0.5], [6, 7, 4.5], [5, 8, 4]])
        vectors = KeyedVectors.from_arrays(words, vectors.astype(np.float32))
        path = write(tmp_path, ": s\na b c d\n")
        assert vectors.evaluate_word_analogies(path)[0] == 1
        assert vectors.evaluate_word_analogies(path, case_insensitive=False)[0] == 0

    def test_more_questions_than_fit_at_once(
        self, tmp_path: Path, sums: KeyedVectors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(tmp_path, self.QUESTIONS)
        expected = sums.evaluate_word_analogies(path)
        monkeypatch.setattr("seqkern.word2vec.evaluation.QUESTIONS_AT_ONCE", 1)
        assert sums.evaluate_word_analogies(path) == expected

    def test_what_is_no_question_file(self, tmp_path: Path, sums: KeyedVectors) -> None:
        with pytest.raises(ValueError, match="line 1: a line ': SECTION' must stand"):
            sums.evaluate_word_analogies(write(tmp_path, "r0 r0f r1 r1f\n"))
        with pytest.raises(ValueError, match="is empty"):
            sums.evaluate_word_analogies(write(tmp_path, ""))


class TestFiles:
    PAIRS = "\ufeffzero\tten\t9\r\nzero\tthirty\t8\rzero\tSIXTY\t2\nzero\tNinety\t3"
    ANALOGIES = ": degrees\nzero thirty ten Sixty\n"

    @pytest.mark.parametrize("kind", [None, *KINDS])
    def test_compressed_or_not(self, tmp_path: Path, angles: KeyedVectors, kind: str) -> None:
        """With a mark at the beginning and any ends of lines."""
        path = tmp_path / "file"

        def written(text: str) -> Path:
            data = text.encode()
            path.write_bytes(data if kind is None else compress(kind, data))
            return path

        assert angles.evaluate_word_pairs(written(self.PAIRS))[2] == 0
        assert angles.evaluate_word_pairs(path)[1].statistic == pytest.approx(0.8)
        _, sections = angles.evaluate_word_analogies(written(self.ANALOGIES))
        questions = sections[-1]["correct"] + sections[-1]["incorrect"]
        assert questions == [("ZERO", "THIRTY", "TEN", "SIXTY")]

    def test_what_is_no_utf8(
        self, tmp_path: Path, angles: KeyedVectors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for chunk in (3, 2**18):
            monkeypatch.setattr(opening, "_CHUNK", chunk)
            path = tmp_path / "file"
            path.write_bytes("ten\t낱\t9\n".encode() + "바다\t나무\t8\n".encode("cp949"))
            message = rf"cannot read {path}: line 2, byte 10: 0xb9.* is no utf8"
            with pytest.raises(TextFormatError, match=message):
                angles.evaluate_word_pairs(path)
            path.write_bytes(b": degrees\nzero t\xffn\n")
            with pytest.raises(TextFormatError, match="line 2, byte 16: 0xff"):
                angles.evaluate_word_analogies(path)

    def test_another_encoding(self, tmp_path: Path, angles: KeyedVectors) -> None:
        path = tmp_path / "file"
        for encoding in ("utf-16", "cp949"):
            path.write_bytes(self.PAIRS.removeprefix("\ufeff").encode(encoding))
            assert angles.evaluate_word_pairs(path, encoding=encoding)[2] == 0
        with pytest.raises(TextFormatError, match="byte 0: 0xff 0xfe.* begins as UTF-16 does"):
            path.write_bytes(self.PAIRS.encode("utf-16"))
            angles.evaluate_word_pairs(path)
