"""What the kernels of word vectors are handed together: tensors as pointers, with strides.

What a call does not have is None, and compiles to nothing. What changes from call to call comes
beside these, as plain numbers, because Triton compiles anew where a number in a tuple becomes 1 or
divisible by 16.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Table(NamedTuple):
    """(rows, d), each row contiguous."""

    at: Any
    stride: int


class Bags(NamedTuple):
    """The rows of word w are rows[offsets[w]:offsets[w + 1]]."""

    offsets: Any
    rows: Any


class Paths(NamedTuple):
    """The way to the word w is nodes[offsets[w]:offsets[w + 1]], with a code for each."""

    offsets: Any
    nodes: Any
    codes: Any


class Saved(NamedTuple):
    """Float32 or float64: rows of each example, and the error of each of its terms."""

    hidden: Any
    grad_inputs: Any
    coefficients: Any


class Negatives(NamedTuple):
    """(windows, K): words, and the weight of each, 0 for one that does not count."""

    words: Any
    weights: Any


class Text(NamedTuple):
    """Words in order, and for each window what it predicts or is predicted by: a target, the places
    low to high of its contexts, and the one among them that is left out, or -1."""

    words: Any
    targets: Any
    low: Any
    high: Any
    skipped: Any


class Scratch(NamedTuple):
    """Memory of the programs of a launch; what a launch does not use has no elements."""

    composites: Any
    """float32 (programs, slots, d): contexts made of bags; or (programs, ring, d) the words within
    reach"""
    input_gains: Any
    """float32 (programs, slots, d), or (programs, d) where the contexts are one vector; beside a
    ring its rows as they were when their words came within reach"""
    output_gains: Any
    """float32 (programs, terms, d)"""
    errors: Any
    """float32 (programs, CONTEXTS, terms): of rows that are read in several chunks"""


class Own(NamedTuple):
    """Where the memory of one program lies in `Scratch`: its first row of composites and of input
    gains, and that of output gains. With RING a word's row is the one of its place modulo `ring`.
    """

    input: Any
    output: Any
    ring: Any


class Window(NamedTuple):
    """One window: its number m, and its entries of `Text`."""

    m: Any
    target: Any
    low: Any
    high: Any
    skipped: Any
