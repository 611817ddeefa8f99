"""Training steps of word vectors against plain PyTorch's."""

from __future__ import annotations

import pytest

from .embedding_cases import Case, grid
from .measuring import measure
from .pair import Pair


@pytest.mark.parametrize("case", grid(), ids=str)
def test_step(pair: Pair, case: Case) -> None:
    measure(pair, case, table="Objectives of word vectors")
