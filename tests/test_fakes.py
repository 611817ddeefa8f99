"""Fake kernels take of an operator's arguments those that they name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seqkern.core.fakes import Fakes

torch.library.define("seqkern::scaled_rows", "(Tensor x, int rows, float scale) -> Tensor")


def scaled_rows(rows: int, x: Tensor) -> Tensor:
    return x.new_empty(rows, x.shape[1])


def test_arguments_by_name_in_any_order():
    Fakes(scaled_rows)
    x = torch.empty(2, 3, device="meta")
    assert torch.ops.seqkern.scaled_rows(x, 5, 1.0).shape == (5, 3)
    assert torch.ops.seqkern.scaled_rows(x, scale=1.0, rows=4).shape == (4, 3)


def test_an_argument_that_the_operator_has_not():
    def attention_dropout_mask(nothing: int) -> None: ...

    with pytest.raises(AssertionError, match=r"attention_dropout_mask has no arguments {'nothing'"):
        Fakes(attention_dropout_mask)
