"""Progress of a training."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from seqkern.core.errors import UserError


class Progress(NamedTuple):
    """The progress of a training."""

    epoch: int
    """From 0."""
    epochs: int
    """Of this training."""
    words: int
    """Words of the text that were read so far, all epochs together."""
    total_words: int
    """That will be read."""
    words_per_second: float
    """Since the start of this training."""
    learning_rate: float
    """At present."""
    loss: float | None
    """Mean over the pairs of this epoch so far; None if it is not computed."""


Listener = Callable[[Progress], object]


class Bar:
    """A progress bar on the standard error stream, for use in a ``with`` block.

    Raises:
        UserError: tqdm is not installed.
    """

    def __init__(self) -> None:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise UserError(
                "a progress bar needs tqdm; install it with: pip install 'seqkern[demo]'"
            ) from error
        self._make = tqdm
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.refresh()  # a short training ends between two of its own
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        if self._bar is None:
            self._bar = self._make(
                total=progress.total_words,
                unit="word",
                unit_scale=True,
                dynamic_ncols=True,
                leave=False,
            )
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        self._bar.set_description(f"epoch {progress.epoch + 1}/{progress.epochs}", refresh=False)
        self._bar.set_postfix_str(
            f"{progress.words_per_second / 1e6:.2f} M words/s, "
            f"lr {progress.learning_rate:.4f}{loss}",
            refresh=False,
        )
        self._bar.update(progress.words - self._bar.n)
