"""SkipGram and CBOW: two tables of word vectors with their loss; SubwordEmbedding: bags of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqkern.embedding import batch, checks, noise, ops
from seqkern.embedding.batch import Batch
from seqkern.embedding.huffman import huffman_paths
from seqkern.embedding.reference import Paths


class _Objective(nn.Module):
    """Both tables, the noise distribution or the tree, and what a call does with them."""

    in_embed: nn.Embedding
    out_embed: nn.Embedding
    thresholds: Tensor
    aliases: Tensor
    path_offsets: Tensor
    path_nodes: Tensor
    path_codes: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        negatives: int = 5,
        noise_counts: Tensor | None = None,
        hierarchical_softmax: Any = False,
        sparse: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_embeddings", num_embeddings, 1),
            ("embedding_dim", embedding_dim, 1),
            ("negatives", negatives, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer from {least} up, got {value!r}")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.negatives, self.sparse = negatives, sparse
        self.hierarchical_softmax = hierarchical_softmax is not False
        padding = checks.padding(padding_idx, num_embeddings)
        self.padding_idx = None if padding < 0 else padding
        names = ("thresholds", "aliases", "path_offsets", "path_nodes", "path_codes")
        tensors: dict[str, Tensor | None] = dict.fromkeys(names)
        self.longest_path = 0
        out_rows = num_embeddings
        if self.hierarchical_softmax:
            paths = _paths(hierarchical_softmax, noise_counts, num_embeddings)
            out_rows = num_embeddings - 1
            checks.path_tensors(*paths, out_rows)
            self.longest_path = batch.longest(paths)
            tensors |= dict(zip(names[2:], paths, strict=True))
        else:
            weights = noise.noise_weights(noise_counts, num_embeddings, padding)
            tensors |= dict(zip(names[:2], noise.alias_table(weights), strict=True))
        for name, tensor in tensors.items():
            # Made from the arguments again, so not part of the state that is saved.
            self.register_buffer(
                name, None if tensor is None else tensor.to(device), persistent=False
            )
        options = {"sparse": sparse, "device": device, "dtype": dtype}
        self.in_embed = nn.Embedding(
            num_embeddings, embedding_dim, padding_idx=self.padding_idx, **options
        )
        of_words = None if self.hierarchical_softmax else self.padding_idx
        self.out_embed = nn.Embedding(out_rows, embedding_dim, padding_idx=of_words, **options)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """word2vec's initialisation: in_embed uniform in +-0.5 / embedding_dim, out_embed 0."""
        half = 0.5 / self.embedding_dim
        with torch.no_grad():
            self.in_embed.weight.uniform_(-half, half)
            if self.padding_idx is not None:
                self.in_embed.weight[self.padding_idx] = 0
            self.out_embed.weight.zero_()

    def draw_negatives(self, *shape: int) -> Tensor:
        """Words from the noise distribution, int64 of this shape, by torch's generator.

        Raises:
            RuntimeError: the module computes a hierarchical softmax, which has no noise.
        """
        if self.hierarchical_softmax:
            raise RuntimeError("a module with hierarchical_softmax has no noise distribution")
        return noise.draw(noise.AliasTable(self.thresholds, self.aliases), shape)

    def forward(self, center: Tensor, context: Tensor, negatives: Tensor | None = None) -> Tensor:
        """The mean loss; the class says of what."""
        examples = self._batch(center, context, negatives)
        return ops.objective(self.in_embed.weight, self.out_embed.weight, examples, self.sparse)

    def update_(
        self, center: Tensor, context: Tensor, negatives: Tensor | None = None, *, lr: float
    ) -> Tensor:
        """One step of gradient descent on the **summed** loss of the batch, in place, without
        gradient tensors; returns the mean loss before the step.

        All of the step is computed at the weights as they were, and a row that occurs several times
        gets the sum of its gradients. bfloat16 weights are rounded once in each table. `lr` is a
        single pair's learning rate (word2vec.c starts at 0.025 for skip-gram), whatever the size of
        the batch: frequent words in a large batch take large steps.

        Args and errors: those of forward; ValueError for an lr that is not a finite number.
        """
        lr = float(lr)
        if not -float("inf") < lr < float("inf"):
            raise ValueError(f"lr must be a finite number, got {lr}")
        examples = self._batch(center, context, negatives)
        with torch.no_grad():
            return ops.update_(self.in_embed.weight, self.out_embed.weight, examples, lr)

    def _batch(self, center: Tensor, context: Tensor, negatives: Tensor | None) -> Batch:
        raise NotImplementedError

    def _negatives(self, negatives: Tensor | None, shape: Sequence[int]) -> Tensor | None:
        if self.hierarchical_softmax:
            if negatives is not None:
                raise ValueError("negatives must be None with hierarchical_softmax")
            return None
        return self.draw_negatives(*shape, self.negatives) if negatives is None else negatives

    def _own_paths(self) -> _ModulePaths | None:
        if not self.hierarchical_softmax:
            return None
        return _ModulePaths(self.path_offsets, self.path_nodes, self.path_codes, self.longest_path)

    def extra_repr(self) -> str:
        parts = [f"{self.num_embeddings}, {self.embedding_dim}"]
        if self.hierarchical_softmax:
            parts.append("hierarchical_softmax=True")
        else:
            parts.append(f"negatives={self.negatives}")
        if self.sparse:
            parts.append("sparse=True")
        if self.padding_idx is not None:
            parts.append(f"padding_idx={self.padding_idx}")
        return ", ".join(parts)


class _ModulePaths:
    """Paths with the length of the longest, which the module knows."""

    def __init__(self, offsets: Tensor, nodes: Tensor, codes: Tensor, depth: int) -> None:
        self.offsets, self.nodes, self.codes, self.depth = offsets, nodes, codes, depth


def _paths(given: Any, counts: Tensor | None, words: int) -> Paths:
    if words < 2:
        raise ValueError(f"hierarchical_softmax needs num_embeddings of 2 or more, got {words}")
    if given is not True:
        try:
            paths = Paths(given.offsets, given.nodes, given.codes)
        except AttributeError:
            raise TypeError(
                "hierarchical_softmax must be True, False, or paths: an object with the tensors "
                f"offsets, nodes and codes; got {type(given).__name__}"
            ) from None
        if paths.offsets.shape != (words + 1,):
            raise ValueError(
                f"hierarchical_softmax.offsets must have the shape [{words + 1}], one more than "
                f"num_embeddings, got {list(paths.offsets.shape)}"
            )
        return paths
    if counts is None:
        raise ValueError(
            "hierarchical_softmax=True needs noise_counts, the counts of the words, for its "
            "Huffman tree"
        )
    return huffman_paths(noise.checked_counts(counts, words))


class SkipGram(_Objective):
    """Skip-gram: two tables of word vectors and the loss that trains them (Mikolov et al. 2013).

    ``module(center, context, negatives=None)`` is the mean over the pairs of
    -log sigma(u_context . v_center) - sum_k log sigma(-u_k . v_center), v the rows of
    ``in_embed.weight`` and u those of ``out_embed.weight``, or the same over the context word's
    path in a Huffman tree; see :func:`seqkern.nn.functional.skipgram_loss`, which says what its
    arguments and errors are. Without `negatives` the call draws them, independently for each pair,
    from the noise distribution with torch's generator; one may be the context word itself and
    counts as any other. The word vectors are ``in_embed.weight``.

    Args:
        num_embeddings: the number of words, V.
        embedding_dim: the length of a vector, d.
        negatives: K, how many a call draws for each pair.
        noise_counts: (V,), how often each word occurs: words are drawn with probability
            proportional to counts ** 0.75; None: each as often. `padding_idx` is never drawn.
        hierarchical_softmax: True: the loss over the Huffman tree of `noise_counts`, and
            ``out_embed`` has V - 1 rows, its inner nodes. Or the paths of a tree, as in
            `skipgram_loss`.
        sparse: both gradients are sparse tensors, for torch.optim.SGD, SparseAdam and Adagrad.
        padding_idx: the word that is none: its row starts as 0 and gets no gradient.
        device, dtype: of the tables; float32 or bfloat16 (computed in float32), or float64.

    State: ``in_embed.weight`` (V, d) and ``out_embed.weight`` (V or V - 1, d). The noise
    distribution and the tree are made from the arguments and are not saved.

    Raises:
        ValueError: a number is out of its range, or noise_counts do not fit.

    >>> model = SkipGram(1000, 64, noise_counts=torch.arange(1000, 0, -1))
    >>> loss = model(torch.tensor([3, 4]), torch.tensor([[1, 2], [5, 6]]))  # 4 pairs
    >>> loss.backward()
    """

    def _batch(self, center: Tensor, context: Tensor, negatives: Tensor | None) -> Batch:
        return batch.skipgram(
            self.in_embed.weight,
            self.out_embed.weight,
            center,
            context,
            self._negatives(negatives, getattr(context, "shape", ())),
            self._own_paths(),
            self.padding_idx,
        )


class CBOW(_Objective):
    """CBOW: as :class:`SkipGram`, but the mean of the context words' vectors predicts the center
    (Mikolov et al. 2013, "Efficient Estimation of Word Representations in Vector Space").

    ``module(center, context, negatives=None)`` with center (...), context (..., C) and negatives
    (..., K) is the mean over the center words; see :func:`seqkern.nn.functional.cbow_loss`. Context
    words equal to `padding_idx` are left out: shorter windows are filled up with it.

    Args:
        num_embeddings, embedding_dim: as in :class:`SkipGram`.
        mean: False: the sum of the context words' vectors instead of their mean.
        options: the other arguments, those of :class:`SkipGram`.

    Raises:
        ValueError: as :class:`SkipGram`.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, mean: bool = True, **options: Any
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, **options)
        self.mean = mean

    def _batch(self, center: Tensor, context: Tensor, negatives: Tensor | None) -> Batch:
        return batch.cbow(
            self.in_embed.weight,
            self.out_embed.weight,
            center,
            context,
            self._negatives(negatives, getattr(center, "shape", ())),
            self._own_paths(),
            self.mean,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.mean else ", mean=False")


class SubwordEmbedding(nn.Module):
    """Word vectors that are the mean of a word's own row and the rows of its character n-grams
    (Bojanowski, Grave, Joulin & Mikolov 2017, "Enriching Word Vectors with Subword Information").

    ``module(words)`` takes indices of any shape (...) and gives (..., d); it is differentiable and
    fused: no row is copied on the way. :meth:`vectors` gives those of strings, known or not.

    Args:
        bags: the rows of each of the V words: an object with the tensors offsets int64 (V + 1,) and
            rows int32; the bag of word w is rows[offsets[w]:offsets[w + 1]], its own row first.
            ``seqkern.text.Subwords.bags`` makes them, and :meth:`from_words` calls it.
        embedding_dim: the length of a vector, d.
        num_rows: rows of the table: V + buckets; None: as many as the bags name.
        mean: False: sums instead of means (the paper's; fastText's code takes means).
        sparse: the gradient is a sparse tensor, coalesced.
        subwords: what knows the n-grams of a string, such as ``seqkern.text.Subwords``: its method
            ``rows(word)`` gives their buckets. Needed by :meth:`vectors`.
        words: the V words, for :meth:`vectors`.
        device, dtype: of the table.

    State: ``weight`` (num_rows, d), which starts uniform in +-1 / d, as fastText's. The bags are
    made from the arguments and are not saved.

    Raises:
        RuntimeError: the bags' tensors do not have their dtypes or do not fit together.
        ValueError: embedding_dim or num_rows is out of its range.
    """

    weight: nn.Parameter
    bag_offsets: Tensor
    bag_rows: Tensor

    def __init__(
        self,
        bags: Any,
        embedding_dim: int,
        *,
        num_rows: int | None = None,
        mean: bool = True,
        sparse: bool = False,
        subwords: Any = None,
        words: Sequence[str] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        offsets: Tensor = bags.offsets
        rows: Tensor = bags.rows
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be 1 or more, got {embedding_dim}")
        if num_rows is None:
            num_rows = int(rows.max()) + 1 if len(rows) else 0
        if num_rows < 0:
            raise ValueError(f"num_rows must not be negative, got {num_rows}")
        checks.bag_tensors(offsets, rows, num_rows)
        self.num_embeddings, self.embedding_dim = len(offsets) - 1, embedding_dim
        self.num_rows, self.mean, self.sparse = num_rows, mean, sparse
        self.subwords = subwords
        self._index: dict[str, int] | None = None
        if words is not None:
            if len(words) != self.num_embeddings:
                raise ValueError(
                    f"words must be as many as the bags, {self.num_embeddings}, got {len(words)}"
                )
            self._index = {word: number for number, word in enumerate(words)}
        self.register_buffer("bag_offsets", offsets.to(device), persistent=False)
        self.register_buffer("bag_rows", rows.to(device), persistent=False)
        self.weight = nn.Parameter(torch.empty(num_rows, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def from_words(
        cls, words: Sequence[str], embedding_dim: int, subwords: Any, **options: Any
    ) -> SubwordEmbedding:
        """The module of these words: each has a row of its own, 0 to V - 1, and the buckets of its
        n-grams follow.

        Args:
            subwords: ``seqkern.text.Subwords(min_n, max_n, buckets)``, or an object with its
                ``bags(words, first_row)``, ``rows(word)`` and ``buckets``.
            options: those of the class besides bags, num_rows, subwords and words.
        """
        words = list(words)
        return cls(
            subwords.bags(words, len(words)),
            embedding_dim,
            num_rows=len(words) + subwords.buckets,
            subwords=subwords,
            words=words,
            **options,
        )

    def reset_parameters(self) -> None:
        """fastText's initialisation: uniform in +-1 / embedding_dim."""
        with torch.no_grad():
            self.weight.uniform_(-1 / self.embedding_dim, 1 / self.embedding_dim)

    def forward(self, words: Tensor) -> Tensor:
        """The vectors (..., d) of words (...) in [0, V), int64 or int32.

        Raises:
            IndexError: a word is out of range. RuntimeError: words are not indices.
        """
        return ops.bag_sum(
            self.weight, self.bag_offsets, self.bag_rows, words, mean=self.mean, sparse=self.sparse
        )

    def vectors(self, strings: Sequence[str]) -> Tensor:
        """The vectors (n, d) of strings: a known word's as forward gives it, any other's from its
        n-grams alone; 0 for one that has none.

        Raises:
            RuntimeError: the module was made without `subwords` or `words`.
            TypeError: `strings` is a single string.
        """
        if self.subwords is None or self._index is None:
            raise RuntimeError(
                "vectors of strings need the module to be made with subwords and words; "
                "see SubwordEmbedding.from_words"
            )
        if isinstance(strings, str):
            raise TypeError("strings must be a list of strings, not one string")
        offsets: list[int] = [0]
        rows: list[int] = []
        for string in strings:
            number = self._index.get(string)
            if number is None:
                rows += [self.num_embeddings + bucket for bucket in self.subwords.rows(string)]
            else:
                first, end = self.bag_offsets[number : number + 2].tolist()
                rows += self.bag_rows[first:end].tolist()
            offsets.append(len(rows))
        device = self.weight.device
        return ops.bag_sum(
            self.weight,
            torch.tensor(offsets, dtype=torch.int64, device=device),
            torch.tensor(rows, dtype=torch.int32, device=device),
            torch.arange(len(strings), device=device),
            mean=self.mean,
            sparse=self.sparse,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_embeddings} words, {self.embedding_dim}, num_rows={self.num_rows}"
            + ("" if self.mean else ", mean=False")
            + (", sparse=True" if self.sparse else "")
        )
