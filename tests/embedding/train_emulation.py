"""An emulation of the training loop in plain Python: the same random numbers, and for each window
one step of gradient descent through autograd on `seqkern.embedding.reference`, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from seqkern.embedding import reference
from seqkern.embedding.training import Tally

MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15


class Noise(NamedTuple):
    thresholds: Tensor
    aliases: Tensor


class Bags(NamedTuple):
    offsets: Tensor
    rows: Tensor


def mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class Random:
    def __init__(self, seed: int, stream: int) -> None:
        self.state = mixed(seed & MASK) ^ mixed((stream * STEP + 1) & MASK)

    def next(self) -> int:
        self.state = (self.state + STEP) & MASK
        return mixed(self.state)

    def next32(self) -> int:
        return self.next() >> 32


@dataclass
class Options:
    model: str
    keep: Tensor
    noise: Noise | None = None
    paths: reference.Paths | None = None
    bags: Bags | None = None
    window: int = 5
    shrink_windows: bool = True
    negatives: int = 5
    share_negatives: bool = True
    cbow_mean: bool = True
    lr: float = 0.025
    final_lr: float = 0.025
    seed: int = 1


@dataclass
class Window:
    """A centre word's window: places of the sentence's kept words."""

    centre: int
    contexts: list[int]
    lr: float


@dataclass
class Sentence:
    words: list[int]
    windows: list[Window] = field(default_factory=list)


class Emulation:
    """One part of the tokens, trained from `run` on; `tables` are float64 copies."""

    def __init__(
        self, input_rows: Tensor, output_rows: Tensor, options: Options, part: int = 0
    ) -> None:
        self.dtype = input_rows.dtype
        self.input, self.output = input_rows.double().clone(), output_rows.double().clone()
        self.options = options
        self.random = [Random(options.seed, 3 * part + purpose) for purpose in range(3)]
        self.words = self.kept = self.pairs = 0
        self.loss = 0.0

    def run(self, tokens: Tensor) -> Tally:
        for sentence in self.sentences(tokens):
            if self.options.bags is not None:
                self.train_bags(sentence)
            else:
                self.train_words(sentence)
        mean = self.loss / self.pairs if self.pairs else float("nan")
        return Tally(self.words, self.kept, self.pairs, mean)

    def sentences(self, tokens: Tensor) -> Iterator[Sentence]:
        """Subsampled sentences of two words or more, with their windows."""
        o = self.options
        slope = (o.final_lr - o.lr) / max(len(tokens), 1)
        position, ids = 0, tokens.tolist()
        while position < len(ids):
            begin, words = position, []
            while position < len(ids) and ids[position] >= 0:
                limit = int(float(o.keep[ids[position]]) * 2**32)
                if self.random[0].next32() < limit:
                    words.append(ids[position])
                position += 1
            self.words += position - begin
            self.kept += len(words)
            sentence = Sentence(words)
            for centre in range(len(words)) if len(words) > 1 else ():
                size = o.window
                if o.shrink_windows:
                    size = 1 + (self.random[1].next32() * o.window >> 32)
                low, high = max(0, centre - size), min(len(words) - 1, centre + size)
                contexts = [place for place in range(low, high + 1) if place != centre]
                lr = o.lr + slope * (begin + (position - begin) * centre / len(words))
                sentence.windows.append(Window(centre, contexts, lr))
            if len(words) > 1:
                yield sentence
            position += 1

    def draw(self, word: int) -> Tensor | None:
        """(K,) negatives, -1 in the place of the word itself."""
        o = self.options
        if o.noise is None:
            return None
        drawn = []
        for _ in range(o.negatives):
            product = self.random[2].next() * len(o.noise.aliases)
            entry, fraction = product >> 64, (product & MASK) >> 32
            threshold = int(o.noise.thresholds[entry]) & (2**32 - 1)
            other = entry if fraction < threshold else int(o.noise.aliases[entry])
            drawn.append(-1 if other == word else other)
        return torch.tensor(drawn)

    def step(
        self, rows: Tensor, inputs: Tensor, word: int, lr: float, mean: bool = False
    ) -> Tensor:
        """Steps of the outputs for examples `inputs` (E, C), places in `rows`, that share their
        negatives; returns the gradient of `rows`, which are float64 and stay as they are."""
        rows = rows.clone().requires_grad_()
        output = self.output.clone().requires_grad_()
        negatives = self.draw(word)
        examples = len(inputs)
        loss = examples * reference.objective(
            rows,
            output,
            inputs,
            torch.full((examples,), word),
            None if negatives is None else negatives.expand(examples, -1),
            self.options.paths,
            mean=mean,
        )
        gradient, output_gradient = torch.autograd.grad(loss, (rows, output))
        self.output = self.rounded(self.output - lr * output_gradient)
        self.loss += float(loss.detach())
        return gradient

    def rounded(self, rows: Tensor) -> Tensor:
        """To the tables' dtype; float32 keeps the exact value."""
        return rows if self.dtype == torch.float32 else rows.to(self.dtype).double()

    def train_words(self, sentence: Sentence) -> None:
        o = self.options
        for window in sentence.windows:
            word = sentence.words[window.centre]
            contexts = torch.tensor([sentence.words[place] for place in window.contexts])
            if o.model == "cbow":
                self.pairs += 1
                gradient = self.step(self.input, contexts[None], word, window.lr, o.cbow_mean)
                # The whole gradient of the mean, or the part of each of the sum.
                times = len(contexts) if o.cbow_mean else 1 / len(contexts)
                self.input = self.rounded(self.input - window.lr * times * gradient)
                continue
            self.pairs += len(contexts)
            for some in [contexts] if o.share_negatives else contexts.split(1):
                gradient = self.step(self.input, some[:, None], word, window.lr)
                self.input = self.rounded(self.input - window.lr * gradient)

    def train_bags(self, sentence: Sentence) -> None:
        """Composite rows live from the word's entry into reach of a window until it leaves."""
        o, cbow = self.options, self.options.model == "cbow"
        offsets = o.bags.offsets.tolist()
        bags = [o.bags.rows[offsets[w] : offsets[w + 1]].long() for w in sentence.words]
        composites = torch.zeros(len(bags), self.input.shape[1], dtype=torch.float64)
        steps = torch.zeros_like(composites)
        entered = left = 0

        def leave(until: int) -> None:
            nonlocal left
            for place in range(left, until):
                for row in bags[place].tolist():
                    self.input[row] = self.rounded(self.input[row] + steps[place])
            left = max(left, until)

        for window in sentence.windows:
            leave(window.centre - o.window)
            for place in range(entered, min(len(bags), window.centre + o.window + 1)):
                composites[place] = self.input[bags[place]].sum(0)
                if not cbow:
                    composites[place] /= max(len(bags[place]), 1)
                entered = place + 1
            word, contexts = sentence.words[window.centre], torch.tensor(window.contexts)
            if cbow:
                self.pairs += 1
                rows = sum(len(bags[place]) for place in window.contexts)
                scale = 1 / rows if o.cbow_mean and rows else 1.0
                gradient = self.step(composites * scale, contexts[None], word, window.lr)
                for place in window.contexts:
                    step = -window.lr * gradient[place]
                    if not o.cbow_mean:
                        step = step / rows if rows else step * 0
                    steps[place] += step
                    composites[place] += len(bags[place]) * step
                continue
            self.pairs += len(contexts)
            for some in [contexts] if o.share_negatives else contexts.split(1):
                step = -window.lr * self.step(composites, some[:, None], word, window.lr)
                steps += step
                composites += step
        leave(len(bags))
