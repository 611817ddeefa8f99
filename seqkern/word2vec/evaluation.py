"""Evaluation of word vectors: against people's judgements of similarity, and by analogies.

The rules (which questions count, how case is treated, which neighbours are candidates) are those of
gensim's evaluator, so that the numbers can be compared; the arithmetic is done for many questions
at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqkern.core.atomic_file import FilePath
from seqkern.text.opening import decoded_lines
from seqkern.word2vec.correlation import Correlation, pearson, spearman

logger = logging.getLogger(__name__)

QUESTIONS_AT_ONCE = 128
"""Analogies whose similarities to all words are in memory together."""
CANDIDATES = 5
"""Nearest words among which the answer to an analogy is sought."""

Quadruple = tuple[str, str, str, str]
Section = dict[str, Any]


class Words(NamedTuple):
    """The vectors that are evaluated.

    Args:
        keys: the words, the most frequent first.
        vectors: float32, shape (words, dimensions).
        norms: their lengths, shape (words,).
    """

    keys: Sequence[str]
    vectors: np.ndarray
    norms: np.ndarray

    def first(self, count: int | None) -> Words:
        """The first words only; all of them for None."""
        return Words(self.keys[:count], self.vectors[:count], self.norms[:count])

    def unit(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of length 1; a vector of zeros stays one."""
        norms = self.norms[rows, None]
        return self.vectors[rows] / np.where(norms == 0, 1, norms)


def evaluate_word_pairs(
    words: Words,
    pairs: FilePath,
    delimiter: str,
    encoding: str,
    restrict_vocab: int | None,
    case_insensitive: bool,
    dummy4unknown: bool,
) -> tuple[Correlation, Correlation, float]:
    """See :meth:`KeyedVectors.evaluate_word_pairs`."""
    words = words.first(restrict_vocab)
    index = _index(words.keys, case_insensitive)
    judged: list[float] = []
    rows: list[tuple[int, int] | None] = []  # None: unknown, similarity 0
    unknown = 0
    for number, line in enumerate(decoded_lines(pairs, encoding), 1):
        if line.startswith("#"):
            continue
        parts = line.split(delimiter)
        try:
            first, second, score = _cased(parts, case_insensitive)
            judgement = float(score)
        except ValueError:
            logger.info("%s, line %d: skipped, it is no word pair with a number", pairs, number)
            continue
        if first in index and second in index:
            rows.append((index[first], index[second]))
        else:
            unknown += 1
            if not dummy4unknown:
                continue
            rows.append(None)
        judged.append(judgement)
    if not judged:
        raise ValueError(
            f"evaluate_word_pairs: {pairs} holds no pair of known words with a number, separated "
            f"by {delimiter!r}"
        )
    similarities = np.zeros(len(rows), np.float32)
    known = [number for number, row in enumerate(rows) if row is not None]
    if known:
        left, right = np.array([rows[number] for number in known]).T
        similarities[known] = np.einsum("nd,nd->n", words.unit(left), words.unit(right))
    total = len(judged) if dummy4unknown else len(judged) + unknown
    return pearson(judged, similarities), spearman(judged, similarities), 100 * unknown / total


def evaluate_word_analogies(
    words: Words,
    analogies: FilePath,
    restrict_vocab: int | None,
    case_insensitive: bool,
    dummy4unknown: bool,
) -> tuple[float, list[Section]]:
    """See :meth:`KeyedVectors.evaluate_word_analogies`."""
    words = words.first(restrict_vocab)
    index = _index(words.keys, case_insensitive)
    sections: list[Section] = []
    outcomes: list[tuple[Section, Quadruple, bool]] = []  # in the order of the file
    asked: list[tuple[int, Quadruple]] = []  # place in `outcomes`, and the words
    for section, quadruple in _questions(analogies, case_insensitive, sections):
        known = all(word in index for word in quadruple)
        if known:
            asked.append((len(outcomes), quadruple))
        if known or dummy4unknown:
            outcomes.append((section, quadruple, False))
    for start in range(0, len(asked), QUESTIONS_AT_ONCE):
        batch = asked[start : start + QUESTIONS_AT_ONCE]
        answers = _answers(words, [question for _, question in batch], index, case_insensitive)
        for (place, question), answer in zip(batch, answers, strict=True):
            section, _, _ = outcomes[place]
            outcomes[place] = (section, question, answer == question[3])
    for section, question, right in outcomes:
        section["correct" if right else "incorrect"].append(question)
    total: Section = {"section": "Total accuracy", "correct": [], "incorrect": []}
    for section in sections:
        total["correct"] += section["correct"]
        total["incorrect"] += section["incorrect"]
    count = len(total["correct"]) + len(total["incorrect"])
    return len(total["correct"]) / count if count else 0.0, [*sections, total]


def _questions(
    path: FilePath, case_insensitive: bool, sections: list[Section]
) -> Iterator[tuple[Section, Quadruple]]:
    """The questions of a file and the section of each; every section is put into `sections`."""
    for number, line in enumerate(decoded_lines(path), 1):
        if line.startswith(": "):
            name = line.lstrip(": ").strip()
            sections.append({"section": name, "correct": [], "incorrect": []})
            continue
        if not sections:
            raise ValueError(
                f"evaluate_word_analogies: {path}, line {number}: a line ': SECTION' must stand "
                "before the first question"
            )
        question = _cased(line.split(), case_insensitive)
        if len(question) != 4:
            logger.info("%s, line %d: skipped, it is no four words", path, number)
            continue
        yield sections[-1], (question[0], question[1], question[2], question[3])
    if not sections:
        raise ValueError(f"evaluate_word_analogies: {path} is empty")


def _answers(
    words: Words, questions: Sequence[Quadruple], index: dict[str, int], case_insensitive: bool
) -> list[str]:
    """For a, b, c the word nearest to b - a + c (3CosAdd of Mikolov et al. 2013) other than these
    three."""
    rows = np.array([[index[word] for word in question[:3]] for question in questions])
    a, b, c = (words.unit(rows[:, column]) for column in range(3))
    similarities = (b + c - a) @ words.vectors.T  # of each question to each word
    with np.errstate(divide="ignore", invalid="ignore"):
        similarities /= words.norms
    similarities[:, words.norms == 0] = 0
    np.put_along_axis(similarities, rows, -np.inf, axis=1)

    def name(row: int) -> str:
        return words.keys[row].upper() if case_insensitive else words.keys[row]

    answers = []
    for number, best in enumerate(similarities.argmax(axis=1)):
        answer = name(best)
        given = questions[number][:3]
        if answer in given:  # another spelling of one of the three
            nearest = np.argsort(-similarities[number], kind="stable")[:CANDIDATES]
            answer = next((other for other in map(name, nearest) if other not in given), "")
        answers.append(answer)
    return answers


def _index(keys: Sequence[str], case_insensitive: bool) -> dict[str, int]:
    """Row of each word; of several spellings the first one's."""
    rows = range(len(keys) - 1, -1, -1)
    return {(keys[row].upper() if case_insensitive else keys[row]): row for row in rows}


def _cased(words: list[str], case_insensitive: bool) -> list[str]:
    return [word.upper() for word in words] if case_insensitive else words
