"""The commands ``vectors`` and ``nearest``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from seqkern.core.cli_options import check_output, integer, real
from seqkern.core.errors import UserError
from seqkern.text import TextFormatError
from seqkern.word2vec import formats
from seqkern.word2vec.fasttext import FastText
from seqkern.word2vec.keyed_vectors import KeyedVectors
from seqkern.word2vec.model import Word2Vec
from seqkern.word2vec.placement import device_of

_WHOLE_NUMBERS = (
    ("dim", 100, 1, 65_536, "dimensions of a vector"),
    ("window", 5, 1, 10_000, "how far a context word may be"),
    ("min-count", 5, 0, 2**31 - 1, "leave out words that are rarer"),
    ("max-vocab", None, 1, 2**31 - 1, "keep only so many words (default: all)"),
    ("negative", 5, 1, 10_000, "noise words drawn for each word"),
    ("epochs", 5, 1, 1_000_000, "passes over the text"),
    ("threads", None, 1, 1024, "CPU threads (default: PyTorch's choice)"),
    ("seed", 1, 0, 2**63 - 1, "of everything random"),
)


def add_vectors_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``vectors``."""
    parser.add_argument(
        "corpus",
        type=Path,
        metavar="CORPUS",
        help="UTF-8 text, one sentence a line; gzip, bzip2, xz and zstd are decompressed",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", required=True, help="where to write the vectors"
    )
    parser.add_argument(
        "--binary", action="store_true", help="write word2vec's binary format (default: text)"
    )
    parser.add_argument(
        "--counts", type=Path, metavar="FILE", help="where to write the words and their counts"
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--sg", action="store_true", default=True, help="skip-gram (this is the default)"
    )
    model.add_argument("--cbow", dest="sg", action="store_false", help="CBOW, which is faster")
    parser.add_argument(
        "--hs", action="store_true", help="hierarchical softmax (default: negative sampling)"
    )
    parser.add_argument(
        "--fasttext", action="store_true", help="make words of character n-grams, from 3 to 6"
    )
    for name, default, least, most, text in _WHOLE_NUMBERS:
        parser.add_argument(
            f"--{name}",
            type=integer(least, most),
            default=default,
            metavar="N",
            help=text if default is None else f"{text} (default: %(default)s)",
        )
    for name, value, text in (
        ("sample", 1e-3, "thin out words with a greater share of the text; 0: none"),
        ("alpha", 0.025, "learning rate at the start"),
    ):
        parser.add_argument(
            f"--{name}",
            type=real(0, 1),
            default=value,
            metavar="X",
            help=f"{text} (default: %(default)s)",
        )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="where to train: cpu, or a CUDA GPU such as cuda or cuda:1 (default: %(default)s)",
    )
    parser.add_argument(
        "--errors",
        choices=("strict", "replace"),
        default="strict",
        help="what to do with text that is no UTF-8: an error, or U+FFFD (default: %(default)s)",
    )
    parser.add_argument("--loss", action="store_true", help="show the loss; a little slower")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="the same vectors with any number of threads; slower",
    )
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")


def run_vectors(options: argparse.Namespace) -> int:
    """Train word vectors on a text and write them.

    Raises:
        UserError: an option or the text cannot be used.
    """
    try:
        device_of(options.device)
    except ValueError as error:
        raise UserError(f"--device: {error}") from error
    check_output("--out", options.out)
    if options.counts is not None:
        check_output("--counts", options.counts)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        return _train_and_write(options)
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{error.filename}: {error.strerror}") from error
    except TextFormatError as error:  # which says how one continues in Python
        raise UserError(str(error).replace('errors="replace"', "--errors replace")) from error
    except torch.OutOfMemoryError as error:
        raise UserError(f"--device: {options.device} has too little memory: {error}") from error
    finally:
        torch.set_num_threads(threads)


def _train_and_write(options: argparse.Namespace) -> int:
    model = _model(options)
    start = time.perf_counter()
    model.build_vocab(corpus_file=options.corpus)
    seconds = time.perf_counter() - start
    print(
        f"text      {model.corpus_total_words:,} words in {model.corpus_count:,} sentences, "
        f"{len(model.wv):,} different ones kept\n"
        f"          counted and encoded in {seconds:.2f} s, "
        f"{model.corpus_total_words / seconds / 1e6:.1f} M words/s"
    )
    print(f"model     {describe(model)}", flush=True)
    start = time.perf_counter()
    kept, words = model.train(corpus_file=options.corpus)
    seconds = time.perf_counter() - start
    loss = f", loss {model.get_latest_training_loss():.4f}" if options.loss and kept else ""
    print(
        f"training  {words:,} words in {seconds:.1f} s, {words / seconds / 1e6:.2f} M words/s "
        f"({kept:,} after subsampling){loss}"
    )
    try:
        model.wv.save_word2vec_format(options.out, options.counts, binary=options.binary)
    except ValueError as error:
        raise UserError(f"--out: {error}") from error
    kind = "binary" if options.binary else "text"
    print(f"vectors   {options.out} ({kind}, {len(model.wv):,} words of {options.dim} dimensions)")
    return 0


def _model(options: argparse.Namespace) -> Word2Vec:
    settings: dict[str, Any] = {
        "vector_size": options.dim,
        "window": options.window,
        "min_count": options.min_count,
        "max_final_vocab": options.max_vocab,
        "negative": 0 if options.hs else options.negative,
        "hs": options.hs,
        "sg": options.sg,
        "epochs": options.epochs,
        "sample": options.sample,
        "alpha": options.alpha,
        "min_alpha": min(options.alpha, 1e-4),
        "seed": options.seed,
        "workers": torch.get_num_threads(),
        "compute_loss": options.loss,
        "deterministic": options.deterministic,
        "device": options.device,
        "errors": options.errors,
        "progress": not options.no_progress,
    }
    return FastText(**settings) if options.fasttext else Word2Vec(**settings)


def describe(model: Word2Vec) -> str:
    """What a model learns and how, in one line."""
    where = f"on {model.device}"
    if model.device.type == "cpu":
        where = "1 thread" if model.threads == 1 else f"{model.threads} threads"
    return (
        f"{'skip-gram' if model.sg else 'CBOW'}"
        f"{' of character n-grams' if isinstance(model, FastText) else ''}, "
        + ("hierarchical softmax" if model.hs else f"{model.negative} negatives")
        + f", {model.vector_size} dimensions, window {model.window}, {model.epochs} "
        f"{'epoch' if model.epochs == 1 else 'epochs'}, {where}"
    )


def add_nearest_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nearest``."""
    parser.add_argument(
        "vectors",
        type=Path,
        metavar="FILE",
        help="word vectors in word2vec's text or binary format, compressed or not",
    )
    parser.add_argument("words", nargs="+", metavar="WORD", help="whose neighbours to print")
    parser.add_argument(
        "--top",
        type=integer(1, 1_000_000),
        default=10,
        metavar="N",
        help="how many neighbours (default: %(default)s)",
    )
    parser.add_argument(
        "--limit", type=integer(1, 2**31 - 1), metavar="N", help="read only the first N words"
    )
    parser.add_argument(
        "--no-header", action="store_true", help="a text file without the first line, as GloVe's"
    )


def run_nearest(options: argparse.Namespace) -> int:
    """Print the nearest neighbours of words.

    Raises:
        UserError: the file cannot be read, or does not know a word.
    """
    try:
        vectors = KeyedVectors.load_word2vec_format(
            options.vectors,
            binary=not options.no_header and formats.looks_binary(options.vectors),
            limit=options.limit,
            no_header=options.no_header,
        )
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read {options.vectors}: {error.strerror}") from error
    for word in options.words:
        if word not in vectors:
            raise UserError(f"{word!r} is not among the {len(vectors)} words of {options.vectors}")
    for word in options.words:
        print(word)
        for neighbour, cosine in vectors.most_similar(word, topn=options.top):
            print(f"  {cosine:6.3f}  {neighbour}")
    return 0
