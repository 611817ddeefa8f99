"""Training the demo's model."""

from __future__ import annotations

import argparse

import torch
from torch.nn.functional import cross_entropy

from seqkern.core.timing import PairTimes, interleave
from seqkern.models import CharLM

LEARNING_RATE = 4e-3
LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped


class Training:
    """A model, its optimizer and its stream of random batches, all from one seed.

    Args:
        numbers: the text as character numbers, int64, shape (characters,).
        characters: size of the alphabet.
        options: the demo's options.
    """

    def __init__(self, numbers: torch.Tensor, characters: int, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.model = CharLM(characters, hidden=options.hidden, layers=options.layers)
        self.losses: list[float] = []
        self._numbers = numbers
        self._shape = (options.batch, options.seq)
        self._generator = torch.Generator().manual_seed(options.seed)
        self._optimizer = torch.optim.Adam(self.model.parameters(), LEARNING_RATE)

    def describe(self) -> str:
        """The model and its batches in one line."""
        lstm = self.model.lstm
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"LSTM of {lstm.num_layers} x {lstm.hidden_size} units, {parameters:,} parameters, "
            f"batches of {self._shape[0]} x {self._shape[1]} characters"
        )

    def step(self) -> None:
        """One step of the optimizer, on a batch of windows from anywhere in the text."""
        batch, length = self._shape
        starts = torch.randint(len(self._numbers) - length, (batch, 1), generator=self._generator)
        windows = self._numbers[starts + torch.arange(length + 1)]
        logits, _ = self.model(windows[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
        self._optimizer.step()
        self.losses.append(loss.item())


def train_in_turns(with_torch: Training, with_seqkern: Training, steps: int) -> PairTimes:
    """Run both for so many steps, in turn, with a progress bar. Returns the time of each step."""
    from tqdm import tqdm

    with tqdm(total=steps, desc="training", unit="step", leave=False, dynamic_ncols=True) as bar:

        def show_progress() -> None:
            done = min(len(with_torch.losses), len(with_seqkern.losses))
            if done > bar.n:
                losses = f"{with_torch.losses[done - 1]:.3f} / {with_seqkern.losses[done - 1]:.3f}"
                bar.set_postfix_str(f"loss {losses}", refresh=False)
                bar.update(done - bar.n)

        return interleave(
            with_torch.step,
            with_seqkern.step,
            steps,
            prepare_first=show_progress,
            prepare_second=show_progress,
        )
