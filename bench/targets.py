"""What a benchmark is meant to reach."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Least ratios of the peer's time to ours for one row of the report."""

    mean: float
    """Geometric mean over all shapes."""
    one: float | None = None
    """Geometric mean over the shapes with batch size 1."""
    worst: float | None = None
    """Every single shape."""


QUANTITIES = {
    "ratio": "times the peer's speed",
    "tflops": "TFLOP/s",
    "copy": "of the copy's bandwidth",
    "step_us": "us a step",
}
"""What a goal is about, and its unit. `ratio`: the peer's time over ours; `copy`: the bytes that
have to be read, in our time, over the bandwidth of the GPU's own copy; of a time less is better."""


@dataclass(frozen=True)
class Goal:
    """A row of the table of what the GPU kernels are to reach.

    Attributes:
        name: what is measured, and against whom.
        cases: a regular expression for the names of its cases, from their beginning.
        bound: the least of the quantity; of a time the most.
        quantity: one of QUANTITIES.
        each: every case by itself is to reach it; else their geometric mean.
        quality: the vectors that were trained are to be no worse than the peer's
            (`word2vec_quality.ALLOWED`).
    """

    name: str
    cases: str
    bound: float
    quantity: str = "ratio"
    each: bool = False
    quality: bool = False

    def covers(self, case: str) -> bool:
        return re.match(self.cases, case) is not None

    @property
    def most(self) -> bool:
        """Whether less is better."""
        return self.quantity == "step_us"

    def reached(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound

    def __str__(self) -> str:
        sign = "≤" if self.most else "≥"
        unit = "" if self.quantity == "ratio" else f" {QUANTITIES[self.quantity]}"
        return (
            f"{sign} {self.bound:g}{unit}, {'each' if self.each else 'mean'}"
            f"{', equal quality' if self.quality else ''}"
        )


GPU_GOALS = (
    Goal(
        "attention forward, bf16, d 64 and 128, 2k to 16k, causal and not / PyTorch's FLASH",
        "attention forward bf16 d",
        1.2,
        each=True,
    ),
    Goal(
        "attention forward, d 128, not causal: absolute",
        r"attention forward bf16 d128 \d+$",
        400,
        "tflops",
        each=True,
    ),
    Goal(
        "attention forward and backward, the same / PyTorch's FLASH",
        "attention training bf16 d",
        1.1,
        each=True,
    ),
    Goal(
        "attention with a dense mask or a bias gradient / PyTorch's choice",
        "attention (dense mask|bias gradient) ",
        1.5,
        each=True,
    ),
    Goal(
        "attention decode, one query, GQA 32/8, 4k to 64k keys, bf16",
        "attention decode bf16 ",
        0.8,
        "copy",
        each=True,
    ),
    Goal(
        "LSTM and GRU by Triton, bf16 and fp32, B 1 to 128, H 128 and 256, T=512 / cuDNN",
        r"triton (LSTM|GRU) (inference|training) (bf16|f32) 512x",
        1.2,
    ),
    Goal(
        "skip-gram with negative sampling, d 100 and 300 / gensim's best on the CPUs",
        "training skip-gram NS ",
        20,
        each=True,
        quality=True,
    ),
    Goal(
        "LSTM fp16, T=1024, B=16, H 768 and 1024, forward / cuDNN's persistent kernel",
        "cuda LSTM inference f16 1024x16x",
        1.0,
        each=True,
    ),
    Goal(
        "LSTM fp16, the same, forward and backward / cuDNN's persistent kernel",
        "cuda LSTM training f16 1024x16x",
        1.0,
        each=True,
    ),
    Goal(
        "LSTM bf16 and fp32, GRU bf16, B 1 to 128, H 256 to 1536 / cuDNN",
        r"cuda (LSTM (inference|training) (bf16|f32)|GRU (inference|training) bf16) 512x",
        2.0,
    ),
    Goal(
        "ragged LSTM, lengths even in [T/4, T] / cuDNN packed",
        "cuda ragged LSTM ",
        3.0,
    ),
    Goal("LSTM step at B=16, H=768, bf16", "cuda LSTM step bf16 16x768", 1.5, "step_us", each=True),
)
"""On one H200, medians of many rounds."""
