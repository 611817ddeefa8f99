"""The words that a model knows, and their counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

_MOST_WORDS = 2**31 - 1  # ids are int32


class Vocabulary:
    """Words in the order of their ids: falling count, ties by the UTF-8 bytes of the word.

    Args:
        words: the words, all different, in the order of their ids.
        counts: how often each was seen, int64 (V,). They fall or stay.
        total_words: how many words the text has, with those that are not in the vocabulary.
            None: the sum of `counts`.
        total_sentences: how many sentences the text has.

    Attributes:
        words: list of str.
        counts: int64 tensor (V,).
        total_words, total_sentences: as above.

    Raises:
        TypeError: a word that is no str, or counts that are no int64 tensor.
        ValueError: a word twice, counts of another length, negative or rising.
    """

    def __init__(
        self,
        words: Sequence[str],
        counts: Tensor,
        *,
        total_words: int | None = None,
        total_sentences: int = 0,
    ) -> None:
        self.words = list(words)
        for word in self.words:
            if not isinstance(word, str):
                raise TypeError(f"words should hold str; it holds {word!r}")
        self._ids = {word: number for number, word in enumerate(self.words)}
        if len(self._ids) < len(self.words):
            twice = next(w for number, w in enumerate(self.words) if self._ids[w] != number)
            raise ValueError(f"words should be all different; it holds {twice!r} twice")
        if counts.dtype != torch.int64:
            raise TypeError(f"counts should be int64; it is {counts.dtype}")
        if counts.shape != (len(self.words),):
            raise ValueError(
                f"counts should have the shape ({len(self.words)},), one for each word; it has"
                f" {tuple(counts.shape)}"
            )
        if bool((counts < 0).any()) or bool((counts[1:] > counts[:-1]).any()):
            raise ValueError("counts should not be negative and should fall or stay")
        self.counts = counts
        self.total_words = int(counts.sum()) if total_words is None else total_words
        self.total_sentences = total_sentences

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        *,
        min_count: int = 1,
        max_vocab: int | None = None,
        total_sentences: int = 0,
    ) -> Vocabulary:
        """The vocabulary of words counted elsewhere.

        Args:
            counts: how often each word was seen.
            min_count: rarer words are left out.
            max_vocab: at most as many words are kept, the most frequent ones.
            total_sentences: how many sentences the text has.
        """
        min_count, max_vocab = check_limits(min_count, max_vocab)
        total = sum(counts.values())
        chosen = [(word, count) for word, count in counts.items() if count >= min_count]
        chosen.sort(key=lambda item: (-item[1], item[0].encode()))
        del chosen[max_vocab:]
        return cls(
            [word for word, _ in chosen],
            torch.tensor([count for _, count in chosen], dtype=torch.int64),
            total_words=total,
            total_sentences=total_sentences,
        )

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __getitem__(self, word: str) -> int:
        """The id of a word; KeyError for one that is not in the vocabulary."""
        return self._ids[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} words of {self.total_words:,} in the text)"


def check_limits(min_count: int, max_vocab: int | None) -> tuple[int, int]:
    """Both limits as the text core wants them; ValueError for one that leaves no word."""
    if min_count < 0:
        raise ValueError(f"min_count should not be negative; it is {min_count}")
    if max_vocab is not None and max_vocab < 1:
        raise ValueError(f"max_vocab should be None or at least 1; it is {max_vocab}")
    most = _MOST_WORDS if max_vocab is None else min(max_vocab, _MOST_WORDS)
    return max(min_count, 1), most
