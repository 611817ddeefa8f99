"""The demo: one language model, trained on real text with PyTorch and then with seqkern, and word
vectors of the same text.

Both trainings start from the same weights and see the same batches; they take turns step by step,
so that a busy machine slows both alike. The demo prints whether the losses agree, how much faster
one is, and a sample of the model's output, and draws the curves. Then it trains word vectors,
prints some neighbours, and measures gensim beside them where it is installed.
"""

from __future__ import annotations

import argparse

import torch

from seqkern.core.backends import explain
from seqkern.core.errors import UserError
from seqkern.demo.agreement import Agreement
from seqkern.demo.options import add_arguments, check_picture
from seqkern.demo.plot import draw
from seqkern.demo.training import Training, train_in_turns
from seqkern.demo.words import train_words
from seqkern.models import Alphabet
from seqkern.swapping.swap import SwapReport, swap
from seqkern.text import documentation_text, read_text

__all__ = ["add_arguments", "run"]

TEXT_LIMIT = 1_000_000  # characters
SAMPLE_LENGTH = 300  # characters
SAMPLE_TEMPERATURE = 0.7


def run(options: argparse.Namespace) -> int:
    """Run the demo with parsed options.

    Returns:
        0, or 1 if the two loss curves disagree.

    Raises:
        UserError: an option cannot be followed; the message is one sentence.
    """
    check_picture(options.out)
    _check_extras()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(options.threads or threads)
        status = _compare_trainings(options)
        if options.word_epochs:
            train_words(options.text, options.word_epochs, options.seed)
        return status
    finally:
        torch.set_num_threads(threads)


def _compare_trainings(options: argparse.Namespace) -> int:
    text = read_text(options.text, TEXT_LIMIT) if options.text else documentation_text(TEXT_LIMIT)
    if len(text) <= options.seq:
        raise UserError(
            f"the text has {len(text)} characters, too few for sequences of {options.seq}; "
            f"give a longer text or a smaller --seq"
        )
    alphabet = Alphabet.of(text)
    numbers = alphabet.encode(text)
    print(f"text      {options.text or 'documentation of the installed Python packages'}")
    print(f"          {len(text):,} characters, {len(alphabet) - 1} different")

    def start(swapped: bool) -> tuple[Training, SwapReport | None]:
        training = Training(numbers, len(alphabet), options)
        return training, swap(training.model) if swapped else None

    # The first step of a process is slow, so neither side is charged for it.
    for swapped in (False, True):
        start(swapped)[0].step()
    with_torch, _ = start(False)
    with_seqkern, report = start(True)
    print(f"model     {with_torch.describe()}")
    print(f"swap      {_indented(str(report))}")
    example = torch.empty(options.batch, options.seq, with_seqkern.model.embedding.embedding_dim)
    print(f"backend   {explain(with_seqkern.model.lstm, example).backend}")

    times = train_in_turns(with_torch, with_seqkern, options.steps)

    agreement = Agreement.of(with_torch.losses, with_seqkern.losses)
    print(f"losses    {agreement}")
    before, after = times.medians()
    print(
        f"speed     {before * 1e3:.1f} ms a step with torch.nn, {after * 1e3:.1f} ms with seqkern: "
        f"{before / after:.2f} times as fast (medians, {torch.get_num_threads()} threads)"
    )
    prompt = text[:20]
    sample = with_seqkern.model.generate(
        alphabet.encode(prompt),
        SAMPLE_LENGTH,
        temperature=SAMPLE_TEMPERATURE,
        generator=torch.Generator().manual_seed(options.seed),
    )
    print(f"sample    {_indented(prompt + alphabet.decode(sample))}")
    draw(with_torch.losses, with_seqkern.losses, times, options.out)
    print(f"curves    {options.out}")
    return 0 if agreement.holds else 1


def _indented(text: str) -> str:
    """The text with its further lines under its first one."""
    return text.replace("\n", "\n          ")


def _check_extras() -> None:
    try:
        import matplotlib.figure  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the demo needs {error.name}; install it with: pip install 'seqkern[demo]'"
        ) from error
