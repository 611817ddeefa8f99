"""Word2Vec: skip-gram and CBOW with negative sampling or hierarchical softmax (Mikolov et al. 2013,
"Distributed representations of words and phrases and their compositionality")."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqkern.core.atomic_file import FilePath
from seqkern.embedding.training import Tally, train_
from seqkern.text import (
    AliasTable,
    Bags,
    HuffmanPaths,
    Vocabulary,
    alias_table,
    huffman,
    keep_probability,
)
from seqkern.word2vec import corpora, tables
from seqkern.word2vec.arguments import flag, number, one_of, refuse_others, whole
from seqkern.word2vec.corpora import Encoded, Sentences
from seqkern.word2vec.divergence import LIMIT, DivergenceError, Watch, largest
from seqkern.word2vec.keyed_vectors import KeyedVectors
from seqkern.word2vec.placement import Placed, device_of
from seqkern.word2vec.progress import Bar, Listener
from seqkern.word2vec.training import (
    GPU_PIECE,
    LONGEST_SENTENCE,
    Schedule,
    Training,
    describe,
)


class Word2Vec:
    """Learns a vector for each word from the words around it; gensim 4's ``Word2Vec`` faster.

    With a corpus the model is trained at once; without one call :meth:`build_vocab` and
    :meth:`train`. The vectors are in :attr:`wv`.

    Names, meanings and defaults are gensim's. An option of gensim's that is not supported raises
    ``NotImplementedError``; none is ignored. Different from gensim:

    - Hierarchical softmax and negative sampling exclude each other: with ``hs=1`` set
      ``negative=0`` (gensim warns that both together are probably a mistake).
    - The negatives of a word are drawn once for all its contexts (``share_negatives``).
    - The learning rate falls with the words that were read, not by jobs.
    - :meth:`get_latest_training_loss` is the mean of the loss of the latest epoch.
    - ``max_final_vocab`` keeps exactly so many words where gensim drops all that tie for the last
      place.

    Args:
        sentences: an iterable of lists of words; read once, so a generator is enough.
        corpus_file: path of a UTF-8 text instead, one sentence a line, words between white space;
            the fastest way. What gzip, bzip2, xz or zstd compressed is decompressed while it is
            read (zstd by a package such as `zstandard`, or by Python 3.14).
        vector_size: dimensions of a vector.
        alpha: learning rate at the start.
        window: the largest distance of a context word from the centre word.
        min_count: rarer words are left out.
        max_vocab_size: None; see above.
        sample: threshold of word2vec's subsampling of frequent words: a word whose share of the
            text is f is kept with probability min(1, sqrt(sample / f) + sample / f); 0 keeps all;
            from 1 on, the count from which words are thinned.
        seed: with ``workers=1`` or ``deterministic`` the same seed gives the same vectors, bit for
            bit, on one machine.
        workers: threads, but never more than ``torch.get_num_threads()``, which is the number of
            cores unless it was set: more threads than cores would only wait for each other.
        min_alpha: learning rate at the end.
        sg: 1: skip-gram; 0: CBOW.
        hs: 1: hierarchical softmax; 0: negative sampling.
        negative: noise words drawn for each word.
        ns_exponent: they are drawn in proportion to their counts to this power.
        cbow_mean: 1: CBOW takes the mean of the context's vectors; 0: the sum.
        epochs: passes over the corpus.
        compute_loss: measure the loss, at some cost.
        callbacks: objects with ``on_train_begin``, ``on_epoch_begin``, ``on_epoch_end`` and
            ``on_train_end``, each called with the model.
        max_final_vocab: keep only so many, the most frequent, words.
        shrink_windows: draw each word's window from 1 to `window`, so that near words count more.
        share_negatives: skip-gram draws the noise words once for a word and all its contexts, which
            is faster and no worse (Ji et al. 2016, "Parallelizing word2vec in shared and
            distributed memory"); False draws them for each pair as word2vec does.
        deterministic: the same vectors for any number of threads, slower. Without it the threads
            update the tables without locks (Recht et al. 2011, "Hogwild").
        device: where to train: "cpu", or a CUDA GPU such as "cuda", onto which the tables are
            copied for the training and back; `workers` means nothing there. Its random numbers are
            different from the CPU's, and without `deterministic` no two trainings are alike. (Not
            yet measured on a GPU.)
        errors: what to do with a `corpus_file` that is no UTF-8: "strict" raises an error that says
            where; "replace" reads U+FFFD there.
        progress: True shows a progress bar (needs tqdm); a function is called now and then with a
            :class:`seqkern.word2vec.Progress`.
        gensims_others: other arguments of gensim's constructor, accepted with their default values.

    Attributes:
        wv: the :class:`KeyedVectors`.
        corpus_count: sentences of the corpus.
        corpus_total_words: its words, unknown ones included.

    Raises:
        ValueError: an argument is out of bounds; the message says what it should be.
        TypeError: both or neither of the sources where one is needed.
        NotImplementedError: an option of gensim's that is not supported.
        CorpusError: a ``ValueError``: no word of the corpus is frequent enough.
        OSError: the corpus cannot be read, or there is too little room in TMPDIR for it.
        TextFormatError: a ``ValueError``: it is no UTF-8, or compressed and damaged.
        DivergenceError: a ``FloatingPointError``: a number of the vectors is above 10,000 or NaN.
    """

    wv: KeyedVectors

    def __init__(
        self,
        sentences: Sentences | None = None,
        corpus_file: FilePath | None = None,
        vector_size: int = 100,
        alpha: float = 0.025,
        window: int = 5,
        min_count: int = 5,
        max_vocab_size: None = None,
        sample: float = 1e-3,
        seed: int = 1,
        workers: int = 3,
        min_alpha: float = 0.0001,
        sg: int = 0,
        hs: int = 0,
        negative: int = 5,
        ns_exponent: float = 0.75,
        cbow_mean: int = 1,
        epochs: int = 5,
        compute_loss: bool = False,
        callbacks: Sequence[Any] = (),
        max_final_vocab: int | None = None,
        shrink_windows: bool = True,
        *,
        share_negatives: bool = True,
        deterministic: bool = False,
        device: torch.device | str = "cpu",
        errors: str = "strict",
        progress: bool | Listener = False,
        **gensims_others: Any,
    ) -> None:
        refuse_others({"max_vocab_size": max_vocab_size, **gensims_others})
        self.vector_size = whole("vector_size", vector_size, 1)
        self.alpha = number("alpha", alpha, 0)
        self.min_alpha = number("min_alpha", min_alpha, 0)
        self.window = whole("window", window, 1, 10_000)
        self.min_count = whole("min_count", min_count, 0)
        self.sample = number("sample", sample, 0)
        self.seed = whole("seed", seed, 0, 2**63 - 1)
        self.workers = whole("workers", workers, 1)
        self.sg = flag("sg", sg)
        self.hs = flag("hs", hs)
        self.negative = whole("negative", negative, 0, 10_000)
        if self.hs == (self.negative > 0):
            raise ValueError(
                "give either hs=1 and negative=0 (hierarchical softmax) or hs=0 and negative from "
                f"1 on (negative sampling), got hs={hs!r} and negative={negative!r}"
            )
        self.ns_exponent = number("ns_exponent", ns_exponent, -100, 100)
        self.cbow_mean = flag("cbow_mean", cbow_mean)
        self.epochs = whole("epochs", epochs, 1)
        self.compute_loss = flag("compute_loss", compute_loss)
        self.max_final_vocab = (
            None if max_final_vocab is None else whole("max_final_vocab", max_final_vocab, 1)
        )
        self.shrink_windows = flag("shrink_windows", shrink_windows)
        self.share_negatives = flag("share_negatives", share_negatives)
        self.deterministic = flag("deterministic", deterministic)
        self.device = device_of(device)
        self.errors = one_of("errors", errors, ("strict", "replace"))
        self.progress = progress if callable(progress) else flag("progress", progress)

        self.corpus_count = 0
        self.corpus_total_words = 0
        self.train_count = 0
        self.vocabulary: Vocabulary | None = None
        self._encoded: Encoded | None = None
        self._loss: float | None = None
        self.wv = KeyedVectors(self.vector_size)
        if sentences is not None or corpus_file is not None:
            self.build_vocab(sentences, corpus_file)
            assert self._encoded is not None
            self._train_on(self._encoded, self.epochs, callbacks)
        elif callbacks:
            raise ValueError(
                "callbacks are for a training: give a corpus, too, or give them train()"
            )

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(vocab={len(self.wv)}, vector_size={self.vector_size}, "
            f"alpha={self.alpha})"
        )

    @property
    def threads(self) -> int:
        """The number of training threads; `workers`, at most PyTorch's."""
        return min(self.workers, torch.get_num_threads())

    def build_vocab(
        self, corpus_iterable: Sentences | None = None, corpus_file: FilePath | None = None
    ) -> None:
        """Count the words of a corpus, choose the vocabulary and start the vectors anew.

        The corpus is encoded in the same pass; :meth:`train` uses that as long as the file has not
        changed (path, size and time of the last change).

        Args:
            corpus_iterable: sentences, each a list of words.
            corpus_file: or the path of a text.

        Raises:
            ValueError, TypeError, OSError: as the constructor.
        """
        source = corpora.one_source("build_vocab", corpus_iterable, corpus_file)
        vocabulary, encoded = corpora.read(
            source,
            min_count=self.min_count,
            max_vocab=self.max_final_vocab,
            max_sentence=LONGEST_SENTENCE,
            errors=self.errors,
        )
        self._encoded = encoded
        self.corpus_count = vocabulary.total_sentences
        self.corpus_total_words = vocabulary.total_words
        self._start(vocabulary)

    def train(
        self,
        corpus_iterable: Sentences | None = None,
        corpus_file: FilePath | None = None,
        total_examples: int | None = None,
        total_words: int | None = None,
        epochs: int | None = None,
        start_alpha: float | None = None,
        end_alpha: float | None = None,
        compute_loss: bool | None = None,
        callbacks: Sequence[Any] = (),
    ) -> tuple[int, int]:
        """Learn from a corpus. Interrupted (Ctrl-C), the vectors are those trained so far.

        Training continues from vectors that were assigned to ``wv.vectors``, before it or by a
        callback. Words that ``wv.add_vectors`` appended keep their vectors and are not trained,
        since :meth:`build_vocab` chose others.

        Args:
            corpus_iterable: sentences, each a list of words; read once.
            corpus_file: or the path of a text.
            total_examples: the sentences of an epoch, or
            total_words: its words: by these the learning rate falls. None: those of the corpus.
            epochs: passes over it; None: as in the constructor.
            start_alpha: learning rate at the start, and
            end_alpha: at the end; None: as in the constructor, or as given before.
            compute_loss: None: as in the constructor.
            callbacks: as in the constructor.

        Returns:
            How many words were trained on, and how many words the text had, over all epochs. The
            first leaves out words that are not in the vocabulary or that subsampling drops.

        Raises:
            RuntimeError: there is no vocabulary yet.
            ValueError: ``wv`` has other words than the vocabulary, or vectors of another shape; or
                as the constructor.
            CorpusError: no word is in the vocabulary, or an iterator is exhausted.
            TypeError, OSError, TextFormatError, DivergenceError: as the constructor.
        """
        source = corpora.one_source("train", corpus_iterable, corpus_file)
        if self.vocabulary is None:
            raise RuntimeError("train: there is no vocabulary yet; call build_vocab first")
        passes = self.epochs if epochs is None else whole("epochs", epochs, 1)
        for name, value in (("total_examples", total_examples), ("total_words", total_words)):
            if value is not None:
                whole(name, value, 1, 2**63 - 1)
        if start_alpha is not None:
            self.alpha = number("start_alpha", start_alpha, 0)
        if end_alpha is not None:
            self.min_alpha = number("end_alpha", end_alpha, 0)
        if compute_loss is not None:
            self.compute_loss = flag("compute_loss", compute_loss)
        self.epochs = passes
        if self._encoded is None or not self._encoded.is_of(corpus_file):
            self._encoded = corpora.encode(
                source, self.vocabulary, max_sentence=LONGEST_SENTENCE, errors=self.errors
            )
        share = 1.0
        if total_words is not None:
            share = self._encoded.words / total_words
        elif total_examples is not None:
            share = self._encoded.sentences / total_examples
        return self._train_on(self._encoded, passes, callbacks, share)

    def get_latest_training_loss(self) -> float:
        """The mean loss of a pair of words, in nats, over the latest epoch, or as much of it as was
        trained.

        Raises:
            RuntimeError: the latest training did not compute it.
        """
        if self._loss is None:
            raise RuntimeError("no loss was computed; train with compute_loss=True")
        return self._loss

    def __getstate__(self) -> dict[str, Any]:
        """All but the encoded corpus, which is a temporary file of this process, the means of
        showing progress, and the table that `wv` holds, too."""
        if self.vocabulary is not None:
            self._take_over()
        kept = {**self.__dict__, "_encoded": None, "progress": False}
        for name in ("_input", "_shown", "_shown_table"):
            kept.pop(name, None)
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.vocabulary is not None:
            held = self._held_by_wv()
            self._input = tables.zeros(*held.shape)
            self._input.copy_(torch.from_numpy(held))
            self._publish()

    def _start(self, vocabulary: Vocabulary) -> None:
        """The initial tables for a vocabulary."""
        counts = vocabulary.counts
        self.vocabulary = vocabulary
        self._keep = keep_probability(counts, self._sample_share(counts))
        self._noise: AliasTable | None = None
        self._paths: HuffmanPaths | None = None
        if self.hs:
            self._paths = huffman(counts)
            self._output = tables.zeros(max(1, len(vocabulary) - 1), self.vector_size)
        else:
            # In proportion to the most frequent word, so that no power of a count overflows.
            self._noise = alias_table((counts / counts.max()).double() ** self.ns_exponent)
            self._output = tables.zeros(len(vocabulary), self.vector_size)
        self._bags: Bags | None = None
        self._start_input(vocabulary)
        self._loss = None
        self.train_count = 0
        self.wv = self._vectors(vocabulary)
        self._publish()

    def _start_input(self, vocabulary: Vocabulary) -> None:
        self._input = tables.zeros(len(vocabulary), self.vector_size)
        tables.fill_random(self._input, self.seed)

    def _vectors(self, vocabulary: Vocabulary) -> KeyedVectors:
        return KeyedVectors.from_arrays(
            vocabulary.words, self._input.numpy(), vocabulary.counts.numpy()
        )

    def _publish(self) -> None:
        """Makes `wv` use the tables."""
        self._shown = self.wv.vectors = self._input.numpy()  # the same memory
        self.wv.forget_norms()

    def _held_by_wv(self) -> np.ndarray:
        """The array of `wv` that is trained, and whatever rows follow."""
        return self.wv.vectors

    def _take_over(self) -> bool:
        """Copies into the tables what was assigned or appended to `wv` after :meth:`_publish`. What
        is written into its array is in them already.

        Returns:
            Whether there was something.

        Raises:
            ValueError: it cannot be trained on; says why.
        """
        self._check_words()
        if self.wv.vectors is self._shown:
            return False
        self._fill(self._trainable("wv.vectors", self.wv.vectors, len(self.wv)))
        self._publish()
        return True

    def _check_words(self) -> None:
        """`wv` begins with the words of the vocabulary."""
        assert self.vocabulary is not None
        if self.wv.index_to_key[: len(self.vocabulary)] != self.vocabulary.words:
            raise ValueError(
                f"wv must begin with the {len(self.vocabulary)} words that build_vocab chose, in "
                f"their order; it is {self.wv}. To train other words call build_vocab"
            )

    def _trainable(self, name: str, given: object, rows: int) -> np.ndarray:
        """A copy of given vectors as the tables hold them."""
        with np.errstate(over="ignore"):  # beyond float32's range: infinity
            vectors = np.array(given, np.float32, order="C")
        if vectors.shape != (rows, self.vector_size):
            raise ValueError(
                f"{name} must be of shape ({rows}, {self.vector_size}), a row for each word, got "
                f"{vectors.shape}"
            )
        # NaN is not less either.
        if vectors.size and not max(-float(vectors.min()), float(vectors.max())) < LIMIT:
            raise ValueError(f"{name} must hold finite numbers of less than {LIMIT:g}")
        return vectors

    def _fill(self, vectors: np.ndarray) -> None:
        """Copies vectors into the input table, which may get more rows."""
        if vectors.shape != self._input.shape:
            self._input = tables.zeros(*vectors.shape)
        self._input.copy_(torch.from_numpy(vectors))

    @property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """What is trained: words that were appended to `wv` are not."""
        assert self.vocabulary is not None
        return self._input[: len(self.vocabulary)], self._output

    def _sample_share(self, counts: Tensor) -> float:
        """`sample` as a share of the text."""
        if self.sample < 1:
            return self.sample
        return int(self.sample * (3 + np.sqrt(5)) / 2) / int(counts.sum())

    def _train_on(
        self,
        encoded: Encoded,
        epochs: int,
        callbacks: Sequence[Any],
        share: float = 1.0,
    ) -> tuple[int, int]:
        assert self.vocabulary is not None
        self._take_over()
        placed = Placed.on(
            self.device, self._tables, self._keep, self._noise, self._paths, self._bags
        )
        watch = Watch(placed, len(self.vocabulary))
        found = watch.all()
        if not found < LIMIT:
            raise DivergenceError(
                f"the vectors hold {describe(found)}: they were given so, or an earlier training "
                "diverged. Start anew (build_vocab does), or from what you saved before that"
            )
        training = Training(
            encoded.corpus,
            encoded.words,
            partial(self._step, placed),
            Schedule(self.alpha, self.min_alpha, epochs, share),
            (self.seed, self.train_count),
            None if placed.own is None else GPU_PIECE,
            watch,
        )
        self._loss = None
        _call(callbacks, "on_train_begin", self)
        with contextlib.ExitStack() as stack:
            listener: Listener | None = self.progress if callable(self.progress) else None
            if self.progress is True:
                listener = stack.enter_context(Bar())
            for epoch in range(epochs):
                _call(callbacks, "on_epoch_begin", self)
                if callbacks and (self._take_over() or placed.own is not None):
                    placed.take(self._tables)
                try:
                    training.epoch(epoch, listener)
                except BaseException:
                    self._finish(training, placed)
                    raise
                if callbacks or epoch == epochs - 1:
                    self._finish(training, placed)
                    if self._bags is not None:
                        training.refuse(largest([torch.from_numpy(self.wv.vectors)]))
                _call(callbacks, "on_epoch_end", self)
        self.train_count += 1
        _call(callbacks, "on_train_end", self)
        if not training.pairs:
            warnings.warn(
                f"nothing was learnt: of {encoded.words} words {training.kept // epochs} are in "
                "the vocabulary and left by subsampling, and none has another one near in its "
                "sentence",
                stacklevel=3,
            )
        return training.kept, encoded.words * epochs

    def _finish(self, training: Training, placed: Placed) -> None:
        """Updates the model after a training, complete or interrupted."""
        placed.bring_back()
        self._loss = training.loss
        self._publish()

    def _step(self, placed: Placed, tokens: Tensor, lr: float, final_lr: float, seed: int) -> Tally:
        return train_(
            placed.input_rows,
            placed.output_rows,
            tokens.to(placed.input_rows.device),
            model="skipgram" if self.sg else "cbow",
            keep=placed.keep,
            noise=placed.noise,
            paths=placed.paths,
            bags=placed.bags,
            window=self.window,
            shrink_windows=self.shrink_windows,
            negatives=self.negative,
            share_negatives=self.share_negatives or not self.sg,  # CBOW: one pair a window
            cbow_mean=self.cbow_mean,
            lr=lr,
            final_lr=final_lr,
            seed=seed,
            threads=self.threads,
            deterministic=self.deterministic,
            compute_loss=self.compute_loss,
        )


def _call(callbacks: Sequence[Any], name: str, model: Word2Vec) -> None:
    for callback in callbacks:
        method: Callable[[Word2Vec], object] | None = getattr(callback, name, None)
        if method is not None:
            method(model)
