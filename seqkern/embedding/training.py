r"""word2vec's training loop over a piece of an encoded corpus, as one operator that works in place.

The objectives are those of `seqkern.embedding.reference`; the sequence of updates is word2vec.c's
(Mikolov et al. 2013): each kept word in turn is the centre of a window, and every window makes a
step of stochastic gradient descent before the next window. Within a window all products use the
rows before its step, and rows that occur twice get both steps.

- Skip-gram: each context word's input row predicts the centre word. The negatives of a window are
  drawn once and shared by its contexts (Ji, Satish, Li & Dubey 2016), which costs no quality and
  makes a window three small matrix products; `share_negatives=False` draws them for each pair.
- CBOW: the mean of the context rows predicts the centre word; each row gets the whole gradient of
  the mean. With `cbow_mean=False` the sum predicts, and each row gets its gradient divided by
  their number. (So do word2vec.c and gensim; the gradients of the objective are the other way
  round.)
- Bags (fastText, Bojanowski et al. 2017): a word's input row is the mean over its bag, each row of
  which gets the whole gradient. With CBOW the mean is over the rows of all bags. The composite row
  is made when the word enters the range of a window and written back to the table when it leaves,
  so that words which share an n-gram do not read each other's steps until then.
- A negative that is the centre word itself is left out.

Several threads train parts of the tokens without locks (Hogwild: Niu, Recht, Re & Wright 2011).
Cores that change the same row invalidate its cache lines for each other, which costs the whole gain
of a second thread where they share no cache. There each thread works on copies of frequent rows (of
words with low numbers, and of inner nodes with high ones, up to 4 MB of each table) and adds what a
copy has gained to the table after some dozens of uses. Each call measures the latency between its
cores, in some microseconds. The upper nodes of the tree of hierarchical softmax, with which every
path begins, are copied in any case.

The deterministic mode cuts the tokens into 16 strands, for any number of threads. In each round
every strand makes the step of its next window on copies of the current rows, and the steps
are then added to the tables in the strands' order: a batch of 16 windows from as many places in the
text. It takes longer than the ordinary mode, and more threads hardly shorten that.

On a GPU some hundred windows of different parts of the text are stepped side by side, without locks
as well; the deterministic mode takes 128 strands. Its random numbers differ from the CPU's.
Windows of more than 32 contexts (skip-gram) make their step in parts of 32. In the deterministic
mode, and for pairs with negatives of their own, composite rows of bags are made for each window, of
the rows as they stand then.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from seqkern.core import library
from seqkern.embedding.registration import triton_operators

_train = triton_operators.by_backend("embedding_train_")
# What trains tables that lie on a device.
BACKEND_ON = {"cpu": "cpu", "cuda": "triton"}

MODELS = ("skipgram", "cbow")


class Noise(Protocol):
    """Walker's alias table of V words. The word k, uniform in [0, V), is drawn if 32 more random
    bits are less than thresholds[k], else the word aliases[k]."""

    @property
    def thresholds(self) -> Tensor:
        """int32 (V,), the bits of an unsigned number"""

    @property
    def aliases(self) -> Tensor:
        """int32 (V,)"""


class Paths(Protocol):
    """`seqkern.embedding.reference.Paths`: the inner nodes on the path to each word."""

    @property
    def offsets(self) -> Tensor:
        """int64 (V + 1,)"""

    @property
    def nodes(self) -> Tensor:
        """int32 (L,)"""

    @property
    def codes(self) -> Tensor:
        """uint8 (L,)"""


class Bags(Protocol):
    """The input rows of each word: rows[offsets[w]:offsets[w + 1]]."""

    @property
    def offsets(self) -> Tensor:
        """int64 (V + 1,)"""

    @property
    def rows(self) -> Tensor:
        """int32 (L,)"""


class Tally(NamedTuple):
    """What a call has done."""

    words: int
    """tokens that are words"""
    kept: int
    """words that subsampling left in"""
    pairs: int
    """predictions: pairs of a context and a centre word; with CBOW, centre words with a context"""
    loss: float | None
    """the mean over `pairs` of the objective, each taken before its own update; None unless asked
    for. No single term exceeds 87. NaN without pairs."""


def train_(
    input_rows: Tensor,
    output_rows: Tensor,
    tokens: Tensor,
    *,
    model: str,
    keep: Tensor,
    noise: Noise | None = None,
    paths: Paths | None = None,
    bags: Bags | None = None,
    window: int = 5,
    shrink_windows: bool = True,
    negatives: int = 5,
    share_negatives: bool = True,
    cbow_mean: bool = True,
    lr: float,
    final_lr: float,
    seed: int,
    threads: int | None = None,
    deterministic: bool = False,
    compute_loss: bool = False,
    copies: bool | None = None,
) -> Tally:
    """Trains both tables in place on `tokens`.

    Args:
        input_rows: float32 or bfloat16 (rows, d) on the CPU or a CUDA GPU, where all other tensors
            have to be, too; row w belongs to word w, or the rows are those that `bags` names.
            Contiguous rows, whose stride may exceed d. Rows of whole cache lines (64 bytes) are
            fastest.
        output_rows: the same for words (with `noise`) or inner nodes (with `paths`).
        tokens: int32 (n,), word ids from 0 to V - 1; -1 ends a sentence, and so does its 2^20th
            kept word.
        model: "skipgram" or "cbow".
        keep: float32 (V,), the probability that an occurrence of the word is kept.
        noise: negative sampling: the distribution of negatives.
        paths: hierarchical softmax. One of `noise` and `paths`.
        bags: fastText's bags of subword rows.
        window: the most words on each side that are contexts, from 1 to 10,000.
        shrink_windows: draws the size of each window uniformly from 1 to `window`.
        negatives: drawn for each window, from 1 to 10,000.
        share_negatives: False draws `negatives` for each pair; skip-gram only.
        lr, final_lr: the learning rate falls linearly over the tokens of this call. With several
            threads each one covers the whole range, over its own part.
        seed: of all random numbers. Calls with different seeds draw different ones.
        threads: parts into which the tokens are cut at sentence ends, each trained by a thread of
            its own, from 1 to 4,096; at most torch.get_num_threads() of them run at a time, which
            is also the number if none is given. With one thread the same seed gives the same bits.
            A GPU has threads of its own.
        deterministic: gives the same bits for any number of threads, though not those of
            `deterministic=False`, and not the same for every instruction-set level.
        compute_loss: adds up the loss, at some cost.
        copies: whether several threads work on copies of frequent rows, as above; None: as is
            faster. A GPU makes none.

    Raises:
        ValueError: `model` is none of these, or `noise` and `paths` are both given or both missing.
        RuntimeError: a tensor has a wrong shape or dtype, a number is out of its range, or a token
            is no word; the message names it. The tables are then as they were.
    """
    if model not in MODELS:
        raise ValueError(f"model must be 'skipgram' or 'cbow', got {model!r}")
    if (noise is None) == (paths is None):
        given = "neither" if noise is None else "both"
        raise ValueError(
            "give one of noise (negative sampling) and paths (hierarchical softmax); "
            f"got {given} of them"
        )
    library.require_cpu()
    refused = device_refusal(input_rows.device)
    if refused:
        raise RuntimeError(
            f"input_rows must be on the CPU or a CUDA GPU, got {input_rows.device}: {refused}"
        )
    with torch.no_grad():
        tally: Tensor = _train[BACKEND_ON[input_rows.device.type]](
            input_rows,
            output_rows,
            tokens,
            keep,
            None if noise is None else noise.thresholds,
            None if noise is None else noise.aliases,
            None if paths is None else paths.offsets,
            None if paths is None else paths.nodes,
            None if paths is None else paths.codes,
            None if bags is None else bags.offsets,
            None if bags is None else bags.rows,
            model == "cbow",
            window,
            shrink_windows,
            negatives,
            share_negatives,
            cbow_mean,
            lr,
            final_lr,
            _as_int64(seed),
            torch.get_num_threads() if threads is None else threads,
            deterministic,
            compute_loss,
            -1 if copies is None else int(copies),
        )
    torch.autograd.graph.increment_version((input_rows, output_rows))
    words, kept, pairs, loss = tally.tolist()
    mean = loss / pairs if pairs else float("nan")
    return Tally(int(words), int(kept), int(pairs), mean if compute_loss else None)


def device_refusal(device: torch.device) -> str:
    """Why `train_` does not run on tensors of this device; "" where it does."""
    if device.type == "cpu":
        return "" if library.cpu.loaded else str(library.cpu.reason)
    if device.type != "cuda":
        return "no kernel trains there"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA GPU"
    if device.index is not None and device.index >= torch.cuda.device_count():
        return f"torch sees {torch.cuda.device_count()} CUDA GPUs"
    return triton_operators.refusal(device)


def _as_int64(seed: int) -> int:
    """The lower 64 bits of any integer, as a signed one."""
    bits = int(seed) & (2**64 - 1)
    return bits - 2**64 if bits >= 2**63 else bits
