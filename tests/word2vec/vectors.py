"""Word vectors for tests."""

from __future__ import annotations

import numpy as np

from seqkern.word2vec import KeyedVectors


def some_vectors(words: int = 50, size: int = 7, seed: int = 0) -> KeyedVectors:
    """Random vectors of the words w0, w1, ... with falling counts."""
    rng = np.random.default_rng(seed)
    names = [f"w{number}" for number in range(words)]
    vectors = rng.standard_normal((words, size)).astype(np.float32)
    return KeyedVectors.from_arrays(names, vectors, np.arange(words, 0, -1))


def toward(*angles: float) -> np.ndarray:
    """Vectors of the plane at these angles in degrees, of length 2."""
    radians = np.deg2rad(angles)
    return 2 * np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
