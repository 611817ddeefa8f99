"""Word vectors by word: looking up, neighbours, evaluation, files.

The names and results are those of gensim 4's ``KeyedVectors``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from seqkern.core.atomic_file import FilePath
from seqkern.word2vec import evaluation, formats
from seqkern.word2vec.correlation import Correlation

Key = str | int
"""A word, or the number of its row."""
KeyOrVector = Key | np.ndarray
Weighted = KeyOrVector | tuple[KeyOrVector, float]


class KeyedVectors:
    """Words and their vectors.

    A word's vector is a read-only view of its row in `vectors`; copy it before changing it. Other
    vectors may be assigned to `vectors`; after writing into the array itself call
    :meth:`forget_norms`.

    Args:
        vector_size: number of dimensions.

    Attributes:
        index_to_key: the words, the most frequent first where they come from a training.
        key_to_index: the row of each word.
        vectors: float32, shape (words, vector_size).
        counts: how often each word occurred, int64, shape (words,); None where unknown.

    Raises:
        ValueError: vector_size is not a whole number from 1.
    """

    def __init__(self, vector_size: int) -> None:
        if not isinstance(vector_size, int | np.integer) or vector_size < 1:
            raise ValueError(f"vector_size must be a whole number from 1, got {vector_size!r}")
        self.vector_size = int(vector_size)
        self.index_to_key: list[str] = []
        self.key_to_index: dict[str, int] = {}
        self.vectors = np.empty((0, self.vector_size), np.float32)
        self.counts: np.ndarray | None = None
        self._norms: tuple[np.ndarray, np.ndarray] | None = None  # of which vectors, and theirs

    @classmethod
    def from_arrays(
        cls, words: Sequence[str], vectors: np.ndarray, counts: np.ndarray | None = None
    ) -> KeyedVectors:
        """Take words and vectors as they are, without a copy of the vectors.

        Args:
            words: different words.
            vectors: float32, shape (words, dimensions), rows of any stride.
            counts: int64, shape (words,).

        Raises:
            ValueError: shapes or dtype do not fit, or a word comes twice.
        """
        if vectors.ndim != 2 or len(vectors) != len(words) or vectors.dtype != np.float32:
            raise ValueError(
                f"vectors must be float32 of shape ({len(words)}, dimensions), got "
                f"{vectors.dtype} of shape {vectors.shape}"
            )
        made = cls(vectors.shape[1])
        made.index_to_key = list(words)
        made.key_to_index = {word: row for row, word in enumerate(words)}
        if len(made.key_to_index) != len(words):
            raise ValueError("words must be different from each other")
        made.vectors = vectors
        made.counts = counts
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vector_size={self.vector_size}, {len(self)} keys)"

    def __len__(self) -> int:
        return len(self.index_to_key)

    def __contains__(self, key: object) -> bool:
        return self.has_index_for(key)

    def __getitem__(self, key_or_keys: Key | Iterable[Key]) -> np.ndarray:
        """The vector of a word, shape (vector_size,), or of several, (words, vector_size).

        Raises:
            KeyError: an unknown word.
        """
        if isinstance(key_or_keys, str | int | np.integer):
            return self.get_vector(key_or_keys)
        rows = [self.get_vector(key) for key in key_or_keys]
        return np.stack(rows) if rows else np.empty((0, self.vector_size), np.float32)

    def has_index_for(self, key: object) -> bool:
        """Whether the word, or the number, has a row."""
        if isinstance(key, str):
            return key in self.key_to_index
        return isinstance(key, int | np.integer) and 0 <= int(key) < len(self)

    def get_index(self, key: Key, default: int | None = None) -> int:
        """The row of a word.

        Raises:
            KeyError: it is unknown and there is no `default`.
        """
        if self.has_index_for(key):
            return self.key_to_index[key] if isinstance(key, str) else int(key)
        if default is None:
            raise KeyError(f"{key!r} is not among the {len(self)} words")
        return default

    def get_vector(self, key: Key, norm: bool = False) -> np.ndarray:
        """The vector of a word, float32, shape (vector_size,), read-only.

        Args:
            key: a word or the number of a row.
            norm: scaled to length 1 (a vector of zeros stays as it is).

        Raises:
            KeyError: an unknown word.
        """
        row = self.get_index(key)
        vector = self.vectors[row]
        if norm:
            vector = vector / (self.norms[row] or np.float32(1))
        vector.setflags(write=False)
        return vector

    def get_vecattr(self, key: Key, attr: str) -> Any:
        """What is known of a word beside its vector: ``"count"``, how often it occurred.

        Raises:
            KeyError: an unknown word or attribute, or an unknown count.
        """
        if attr != "count" or self.counts is None:
            raise KeyError(f"there is no attribute {attr!r}")
        return int(self.counts[self.get_index(key)])

    @property
    def norms(self) -> np.ndarray:
        """The lengths of the vectors, float32, shape (words,)."""
        if self._norms is None or self._norms[0] is not self.vectors:
            self._norms = self.vectors, np.linalg.norm(self.vectors, axis=1)
        return self._norms[1]

    def forget_norms(self) -> None:
        """Drops the cached lengths, because `vectors` has changed."""
        self._norms = None

    def get_normed_vectors(self) -> np.ndarray:
        """All vectors scaled to length 1, a new array of shape (words, vector_size)."""
        return self._words.unit(np.arange(len(self)))

    def add_vectors(
        self, keys: Sequence[str], weights: ArrayLike, *, replace: bool = False
    ) -> None:
        """Append words.

        Args:
            keys: the words.
            weights: their vectors, shape (words, vector_size).
            replace: give words that are already here the new vector; else they keep theirs.

        Raises:
            ValueError: the shape does not fit.
        """
        given = np.asarray(weights, np.float32)
        if isinstance(keys, str) or given.shape != (len(keys), self.vector_size):
            raise ValueError(
                f"add_vectors: weights must be of shape (number of keys, {self.vector_size}), got "
                f"{given.shape} for the keys {keys!r:.80}"
            )
        vectors = dict.fromkeys(keys, 0)
        fresh: list[int] = []
        changed: list[tuple[int, int]] = []
        for number, key in enumerate(keys):
            if key not in self.key_to_index and vectors[key] == 0:
                vectors[key] = len(self) + len(fresh) + 1
                fresh.append(number)
            elif replace:
                row = self.key_to_index.get(key, vectors[key] - 1)
                changed.append((row, number))
        self.vectors = np.concatenate([self.vectors, given[fresh]])
        for row, number in changed:
            self.vectors[row] = given[number]
        for number in fresh:
            self.key_to_index[keys[number]] = len(self.index_to_key)
            self.index_to_key.append(keys[number])
        if fresh:
            self.counts = None  # unknown for the new words
        self.forget_norms()

    def get_mean_vector(
        self,
        keys: Sequence[KeyOrVector],
        weights: ArrayLike | None = None,
        pre_normalize: bool = True,
        post_normalize: bool = False,
        ignore_missing: bool = True,
    ) -> np.ndarray:
        """The weighted mean of vectors, float32, shape (vector_size,).

        Args:
            keys: words, numbers of rows, or vectors, at least one.
            weights: a number for each of them; None: 1.
            pre_normalize: scale the vectors of words to length 1 before (vectors given as such are
                taken as they are).
            post_normalize: scale the mean to length 1.
            ignore_missing: leave unknown words out; else they are an error. If all are unknown the
                mean is 0.

        Raises:
            ValueError: no keys, or another number of weights.
            KeyError: an unknown word, if `ignore_missing` is false.
        """
        factors = np.ones(len(keys)) if weights is None else np.asarray(weights, np.float64)
        if len(keys) == 0 or factors.shape != (len(keys),):
            raise ValueError(
                f"a mean needs at least one key and as many weights, got {len(keys)} keys and "
                f"weights of shape {factors.shape}"
            )
        mean = np.zeros(self.vector_size, np.float32)
        total = 0.0
        for key, factor in zip(keys, factors, strict=True):
            if isinstance(key, np.ndarray):
                vector = self._checked(key)
            elif key in self:
                vector = self.get_vector(key, norm=pre_normalize)
            elif ignore_missing:
                continue
            else:
                raise KeyError(f"{key!r} is not among the {len(self)} words")
            mean += np.float32(factor) * vector
            total += abs(factor)
        if total > 0:
            mean /= np.float32(total)
        return _unit(mean) if post_normalize else mean

    def most_similar(
        self,
        positive: Weighted | Sequence[Weighted] | None = None,
        negative: Weighted | Sequence[Weighted] | None = None,
        topn: int | None = 10,
        clip_start: int = 0,
        clip_end: int | None = None,
        restrict_vocab: int | None = None,
    ) -> list[tuple[str, float]] | np.ndarray:
        """The words whose vectors point most nearly in the direction of a mean of vectors.

        Args:
            positive: a word, a number of a row or a vector, or several, each alone or as a pair
                with its weight (1).
            negative: the same, with weight -1: ``most_similar(["king", "woman"], ["man"])``.
            topn: how many words; None: the cosines with all words as an array of shape (words,).
            clip_start: first row that is searched.
            clip_end: row at which to stop; None: all.
            restrict_vocab: search only the first, that is most frequent, so many words; takes
                precedence over the other two.

        Returns:
            Pairs of a word and its cosine, the nearest first, without the words that were given.

        Raises:
            KeyError: an unknown word.
            ValueError: nothing was given, or a vector of another size.
        """
        if topn is not None and topn < 1:
            return []
        if restrict_vocab:
            clip_start, clip_end = 0, restrict_vocab
        plus, minus = _listed(positive), _listed(negative)
        keys: list[KeyOrVector] = []
        weights: list[float] = []
        for item, usual in [(item, 1.0) for item in plus] + [(item, -1.0) for item in minus]:
            key, weight = item if isinstance(item, tuple) else (item, usual)
            keys.append(key)
            weights.append(float(weight))
        if not keys:
            raise ValueError("most_similar needs at least one word or vector")
        target = self.get_mean_vector(keys, weights, post_normalize=True, ignore_missing=False)
        cosines = self._cosines(target, clip_start, clip_end)
        if topn is None:
            return cosines
        given = {
            self.get_index(key) - clip_start
            for key in keys
            if not isinstance(key, np.ndarray) and self.has_index_for(key)
        }
        best = _largest(cosines, topn + len(given))
        nearest = [row for row in best if row not in given][:topn]
        return [(self.index_to_key[row + clip_start], float(cosines[row])) for row in nearest]

    def similar_by_word(
        self, word: str, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> list[tuple[str, float]] | np.ndarray:
        """:meth:`most_similar` of one word."""
        return self.most_similar([word], topn=topn, restrict_vocab=restrict_vocab)

    def similar_by_vector(
        self, vector: np.ndarray, topn: int | None = 10, restrict_vocab: int | None = None
    ) -> list[tuple[str, float]] | np.ndarray:
        """:meth:`most_similar` of one vector."""
        return self.most_similar([vector], topn=topn, restrict_vocab=restrict_vocab)

    def similarity(self, w1: Key, w2: Key) -> float:
        """The cosine between the vectors of two words; 0 if one is a vector of zeros.

        Raises:
            KeyError: an unknown word.
        """
        return float(_unit(self[w1]) @ _unit(self[w2]))

    def distance(self, w1: Key, w2: Key) -> float:
        """1 - :meth:`similarity`."""
        return 1 - self.similarity(w1, w2)

    def n_similarity(self, ws1: Sequence[Key], ws2: Sequence[Key]) -> float:
        """The cosine between the means of two sets of words. Unknown words are left out.

        Raises:
            ValueError: a set is empty.
        """
        one, other = (self.get_mean_vector(words, pre_normalize=False) for words in (ws1, ws2))
        return float(_unit(one) @ _unit(other))

    def rank_by_centrality(self, words: Sequence[Key]) -> list[tuple[float, Key]]:
        """Pairs of the cosine with the mean of all the words, each of length 1, and the word, the
        most central first. Unknown words are left out.

        Raises:
            ValueError: no word is known.
        """
        known = [word for word in words if word in self]
        if not known:
            raise ValueError(f"none of the words {words!r:.80} is known")
        vectors = np.stack([_unit(self[word]) for word in known])
        cosines = vectors @ _unit(vectors.mean(axis=0))
        pairs = [(float(cosine), word) for cosine, word in zip(cosines, known, strict=True)]
        return sorted(pairs, key=lambda pair: pair[0], reverse=True)

    def doesnt_match(self, words: Sequence[Key]) -> Key:
        """The word that is farthest from the mean of all; errors of :meth:`rank_by_centrality`."""
        return self.rank_by_centrality(words)[-1][1]

    def evaluate_word_pairs(
        self,
        pairs: FilePath,
        delimiter: str = "\t",
        encoding: str = "utf8",
        restrict_vocab: int | None = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
    ) -> tuple[Correlation, Correlation, float]:
        """Correlation of cosines with people's judgements of similarity.

        Args:
            pairs: a file with lines of two words and a number, WordSim-353 for example, compressed
                or not; lines that begin with # and lines of another kind are skipped.
            delimiter: between the three.
            encoding: of the file.
            restrict_vocab: only the first, that is most frequent, so many words count as known.
            case_insensitive: compare words in upper case; of several spellings the first one's
                vector is taken.
            dummy4unknown: pairs with an unknown word count with similarity 0; else they are left
                out.

        Returns:
            Pearson's and Spearman's correlation, each with a two-sided p-value (see
            :mod:`seqkern.word2vec.correlation`), and the percentage of pairs with unknown words.

        Raises:
            ValueError: no pair can be judged, or only one; or the file is in another encoding, or
                damaged (a ``TextFormatError``).
            OSError: the file cannot be read.
        """
        return evaluation.evaluate_word_pairs(
            self._words, pairs, delimiter, encoding, restrict_vocab, case_insensitive, dummy4unknown
        )

    def evaluate_word_analogies(
        self,
        analogies: FilePath,
        restrict_vocab: int | None = 300_000,
        case_insensitive: bool = True,
        dummy4unknown: bool = False,
    ) -> tuple[float, list[dict[str, Any]]]:
        """How many questions "a is to b as c is to ?" are answered by the word nearest to
        b - a + c (Mikolov et al. 2013, "Efficient estimation of word representations").

        Args:
            analogies: a file with lines of four words, in sections that begin with ": NAME", such
                as ``questions-words.txt``; UTF-8, compressed or not.
            restrict_vocab: only the first, that is most frequent, so many words count as known and
                as possible answers.
            case_insensitive: as in :meth:`evaluate_word_pairs`.
            dummy4unknown: questions with an unknown word count as not answered; else they are left
                out.

        Returns:
            The share of right answers, from 0 to 1, and for each section, and at last for all
            together, a dict of its name and the lists ``correct`` and ``incorrect`` of questions.

        Raises:
            ValueError: the file is empty or does not begin with a section; or it is no UTF-8, or
                damaged (a ``TextFormatError``).
            OSError: the file cannot be read.
        """
        return evaluation.evaluate_word_analogies(
            self._words, analogies, restrict_vocab, case_insensitive, dummy4unknown
        )

    def save_word2vec_format(
        self,
        fname: FilePath,
        fvocab: FilePath | None = None,
        binary: bool = False,
        write_header: bool = True,
        prefix: str = "",
    ) -> None:
        """Write the vectors as word2vec does. A file is written completely or not at all.

        Args:
            fname: the file.
            fvocab: a second file for the words and their counts.
            binary: the binary format; else text.
            write_header: False leaves out the first line of a text file: GloVe's format.
            prefix: put before each word.

        Raises:
            ValueError: a word is empty or holds white space, which the format cannot hold; or there
                are no counts to write.
            OSError: a file cannot be written.
        """
        if fvocab is not None:
            if self.counts is None:
                raise ValueError("fvocab: these vectors have no counts to write")
            formats.save_counts(fvocab, self.index_to_key, self.counts, prefix)
        formats.save(
            fname,
            self.index_to_key,
            self.vectors,
            binary=binary,
            header=write_header,
            prefix=prefix,
        )

    @classmethod
    def load_word2vec_format(
        cls,
        fname: FilePath,
        fvocab: FilePath | None = None,
        binary: bool = False,
        unicode_errors: str = "strict",
        limit: int | None = None,
        no_header: bool = False,
    ) -> KeyedVectors:
        """Read vectors that word2vec, gensim, fastText (``.vec``) or GloVe wrote.

        A file that gzip, bzip2, xz or zstd compressed is decompressed while it is read, whatever
        its name (zstd by a package such as `zstandard`, or by Python 3.14).

        Args:
            fname: the file.
            fvocab: a file of words and their counts.
            binary: the binary format; else text.
            unicode_errors: ``replace`` or ``ignore`` reads words that are no UTF-8, which old
                word2vec cut in the middle of a character.
            limit: read only the first so many words.
            no_header: a text file without the first line: GloVe's format.

        Raises:
            FormatError: a file is damaged or something else; says at which byte. It is a
                ``ValueError``.
            OSError: a file cannot be read.
        """
        loaded = formats.load(
            fname,
            binary=binary,
            header=not no_header,
            limit=limit,
            unicode_errors=unicode_errors,
        )
        counts = None
        if fvocab is not None:
            known = formats.load_counts(fvocab, unicode_errors)
            missing = next((word for word in loaded.words if word not in known), None)
            if missing is not None:
                raise formats.FormatError(f"fvocab: {fvocab} has no count of the word {missing!r}")
            counts = np.array([known[word] for word in loaded.words], np.int64)
        return KeyedVectors.from_arrays(loaded.words, loaded.vectors, counts)

    @property
    def _words(self) -> evaluation.Words:
        return evaluation.Words(self.index_to_key, self.vectors, self.norms)

    def _cosines(self, target: np.ndarray, start: int, end: int | None) -> np.ndarray:
        """With a vector of length 1; 0 for vectors of zeros."""
        norms = self.norms[start:end]
        return (self.vectors[start:end] @ target) / np.where(norms == 0, 1, norms)

    def _checked(self, vector: np.ndarray) -> np.ndarray:
        if vector.shape != (self.vector_size,):
            raise ValueError(f"a vector must be of shape ({self.vector_size},), got {vector.shape}")
        return vector


def _listed(items: Weighted | Sequence[Weighted] | None) -> list[Weighted]:
    """One or several as a list; the rows of a matrix are vectors."""
    if items is None:
        return []
    if isinstance(items, str | int | np.integer):
        return [items]
    if isinstance(items, np.ndarray):
        return [items] if items.ndim == 1 else list(items)
    return list(items)  # type: ignore[arg-type]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The positions of the largest values, the largest first, of equal ones the earlier first, NaN
    last."""
    values = np.where(np.isnan(values), np.float32(-np.inf), values)
    if count < len(values):
        border = np.partition(values, len(values) - count)[len(values) - count]
        candidates = np.flatnonzero(values >= border)
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(-values[candidates], kind="stable")][:count]


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    return vector / length if length else vector
