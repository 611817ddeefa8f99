"""An emulation of the GPU's training loop in plain Python: the windows and negatives that it draws,
and for each window one step of gradient descent, in float64, through autograd on the reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkern.embedding import reference
from seqkern.embedding.triton.windows import draw_negatives, draw_windows


class DeviceEmulation:
    """The tables (float64) after the training that `train_` was asked for with `options`.

    Args:
        strands: 0: window after window; else the steps of so many windows at once, from as many
            parts of the text.
        together: contexts of a window of skip-gram that make their step together.
        programs: of these parts of the windows one is trained after the other, with bags of its own
            and with all rates of learning; for bags only.
    """

    def __init__(
        self, input_rows: Tensor, output_rows: Tensor, tokens: Tensor, options: dict[str, Any],
        strands: int = 0, together: int = 32, programs: int = 1,
    ) -> None:  # fmt: skip
        self.o = {
            "window": 5, "shrink_windows": True, "negatives": 5, "share_negatives": True,
            "cbow_mean": True, "noise": None, "paths": None, "bags": None, **options,
        }  # fmt: skip
        self.input, self.output = input_rows.double().cpu(), output_rows.double().cpu()
        self.dtype = input_rows.dtype
        self.loss, self.together = 0.0, together
        o, device = self.o, tokens.device
        self.cbow = o["model"] == "cbow"
        generator = torch.Generator(device)
        generator.manual_seed(o["seed"])
        shared = o["share_negatives"] or o["paths"] is not None
        windows = draw_windows(
            tokens, o["keep"], o["window"], o["shrink_windows"], self.cbow, shared, generator
        )
        negatives = [None] * len(windows)
        if o["noise"] is not None:
            noise = o["noise"]
            drawn, _ = draw_negatives(
                windows.targets, noise.thresholds, noise.aliases, o["negatives"], generator
            )
            negatives = drawn.cpu()
        self.words = windows.words.cpu()
        listed = [t.tolist() for t in (windows.targets, windows.low, windows.high, windows.skipped)]
        todo = [
            (target, [p for p in range(low, high) if p != skipped], negative)
            for target, low, high, skipped, negative in zip(*listed, negatives, strict=True)
        ]
        self.centres = listed[3]
        self.pairs = len(todo) if self.cbow else sum(len(places) for _, places, _ in todo)
        with torch.device("cpu"):  # whatever the test's own is
            if o["bags"] is not None and not strands and (self.cbow or shared):
                self.run_bags(todo, -(-len(todo) // programs))
            else:
                self.run(todo, strands)

    def run(self, todo: list[tuple[int, list[int], Tensor | None]], strands: int) -> None:
        """The windows one after the other, or by rounds: the i-th of every part of the text."""
        o = self.o
        rounds = [[window] for window in todo]
        if strands:
            each = -(-len(todo) // strands)
            rounds = [todo[i::each] for i in range(each)]
        for number, some in enumerate(rounds):
            lr = o["lr"] + (o["final_lr"] - o["lr"]) * number / len(rounds)
            before = self.input.clone(), self.output.clone()
            after = [self.input.clone(), self.output.clone()]
            for window in some:
                self.input, self.output = (t.clone() for t in before)
                self.step(*window, lr)
                after[0] += self.input - before[0]
                after[1] += self.output - before[1]
            self.input, self.output = (self.rounded(t) for t in after)

    def run_bags(self, todo: list[tuple[int, list[int], Tensor | None]], each: int) -> None:
        """The windows one after the other, with composite rows that live from the word's entry into
        reach of a window until it leaves: those of skip-gram are means, those of CBOW sums."""
        o, reach, places = self.o, self.o["window"], len(self.words)
        bags = [self.bag(place) for place in range(places)]
        sizes = [max(len(bag), 1) for bag in bags]
        composites = torch.zeros(places, self.input.shape[1], dtype=torch.float64)
        gains = torch.zeros_like(composites)  # of each row of the bag
        entered = left = 0

        def leave(until: int) -> None:
            nonlocal left
            for place in range(left, min(until, entered)):
                for row in bags[place].tolist():
                    self.input[row] = self.rounded(self.input[row] + gains[place])
            left = max(left, until)

        for number, ((target, contexts, negatives), centre) in enumerate(
            zip(todo, self.centres, strict=True)
        ):
            lr = o["lr"] + (o["final_lr"] - o["lr"]) * (number % each) / each
            if number % each == 0:
                leave(places)
                gains.zero_()
                entered = left = 0
            leave(centre - reach)
            for place in range(max(entered, centre - reach), min(places, centre + reach + 1)):
                total = self.input[bags[place]].sum(0)
                composites[place] = total if self.cbow else total / sizes[place]
            entered = max(entered, min(places, centre + reach + 1))
            if self.cbow:
                rows = sum(len(bags[place]) for place in contexts)
                mean = o["cbow_mean"]
                scale = 1 / rows if mean and rows else float(not mean)
                vector = scale * composites[contexts].sum(0)
                gradient = self.gradient(vector[None], target, negatives, lr)[0]
                for place in contexts:
                    gain = -lr / (1 if mean else max(rows, 1)) * gradient
                    gains[place] += gain
                    composites[place] += len(bags[place]) * gain
            else:
                for i in range(0, len(contexts), self.together):
                    some = contexts[i : i + self.together]
                    gain = -lr * self.gradient(composites[some], target, negatives, lr)
                    gains[some] += gain
                    composites[some] += gain
            self.output = self.rounded(self.output)
        leave(places)

    def rounded(self, rows: Tensor) -> Tensor:
        return rows if self.dtype == torch.float32 else rows.to(self.dtype).double()

    def bag(self, place: int) -> Tensor:
        word = int(self.words[place])
        if self.o["bags"] is None:
            return torch.tensor([word])
        offsets, rows = (t.cpu() for t in self.o["bags"])
        return rows[offsets[word] : offsets[word + 1]].long()

    def step(self, target: int, places: list[int], negatives: Tensor | None, lr: float) -> None:
        bags = [self.bag(place) for place in places]
        if self.cbow:
            rows = torch.cat(bags)
            count = max(len(rows), 1)
            mean = self.o["cbow_mean"]
            vector = self.input[rows].sum(0) / (count if mean else 1)
            gradient = self.gradient(vector[None], target, negatives, lr)[0]
            if len(rows):
                self.input.index_add_(
                    0, rows, (-lr / (1 if mean else count) * gradient).expand(len(rows), -1)
                )
            return
        for some in [bags[i : i + self.together] for i in range(0, len(bags), self.together)]:
            vectors = torch.stack([self.input[bag].sum(0) / max(len(bag), 1) for bag in some])
            gradients = self.gradient(vectors, target, negatives, lr)
            for bag, gradient in zip(some, gradients, strict=True):
                if len(bag):
                    self.input.index_add_(0, bag, (-lr * gradient).expand(len(bag), -1))

    def gradient(self, vectors: Tensor, target: int, negatives: Tensor | None, lr: float) -> Tensor:
        """Of the vectors, each an example; makes the outputs' step."""
        vectors = vectors.clone().requires_grad_()
        output = self.output.clone().requires_grad_()
        examples = len(vectors)
        own = None
        if negatives is not None:
            own = negatives.long().masked_fill(negatives == target, -1).expand(examples, -1)
        paths = self.o["paths"]
        loss = examples * reference.objective(
            vectors,
            output,
            torch.arange(examples)[:, None],
            torch.full((examples,), target),
            own,
            None if paths is None else reference.Paths(*(t.cpu() for t in paths)),
        )
        of_vectors, of_output = torch.autograd.grad(loss, (vectors, output))
        self.output = self.output - lr * of_output
        self.loss += float(loss.detach())
        return of_vectors
