"""Checks of a model's arguments: a wrong one is an error that says what it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


def whole(name: str, value: object, least: int, most: int = 2**31 - 1) -> int:
    """A whole number within bounds."""
    if not isinstance(value, int | np.integer) or not least <= int(value) <= most:
        raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    return int(value)


def number(name: str, value: object, least: float, most: float = math.inf) -> float:
    """A finite number within bounds."""
    right = isinstance(value, int | float | np.integer | np.floating)
    if not right or not math.isfinite(value) or not least <= value <= most:  # type: ignore
        bounds = f"from {least:g}" + (f" to {most:g}" if most < math.inf else "")
        raise ValueError(f"{name} must be a finite number {bounds}, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def flag(name: str, value: object) -> bool:
    """A bool, or 0 or 1 as gensim writes it."""
    if not isinstance(value, bool | int | np.bool_ | np.integer) or value not in (0, 1):
        raise ValueError(f"{name} must be 0, 1, False or True, got {value!r}")
    return bool(value)


def one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of several words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")
    return value


class Fixed(NamedTuple):
    """An argument of gensim's that has one possible value here."""

    value: Any
    reason: str


GENSIMS_OTHERS: Mapping[str, Fixed] = {
    "max_vocab_size": Fixed(None, "all words are counted; max_final_vocab limits what is kept"),
    "hashfxn": Fixed(hash, "gensim 4 does not use it either"),
    "null_word": Fixed(0, "it belongs to a model that is not here"),
    "trim_rule": Fixed(None, "choose the words with min_count and max_final_vocab"),
    "sorted_vocab": Fixed(1, "the vocabulary is always sorted by falling count"),
    "batch_words": Fixed(10_000, "the corpus is not cut into batches"),
    "comment": Fixed(None, "keep it beside the model"),
}
"""What gensim's constructors accept and these do not, but for the usual value."""


def refuse_others(given: Mapping[str, Any]) -> None:
    """Raise for arguments of gensim's that would change something and cannot be followed.

    Raises:
        NotImplementedError: one has another value than its usual one.
        TypeError: gensim does not know it either.
    """
    for name, value in given.items():
        if name not in GENSIMS_OTHERS:
            raise TypeError(f"unexpected argument {name!r}")
        usual, reason = GENSIMS_OTHERS[name]
        if value is not usual and value != usual:
            raise NotImplementedError(
                f"{name}={value!r} is not supported, only {usual!r}: {reason}"
            )
