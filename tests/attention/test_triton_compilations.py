"""What the Triton kernels of attention are compiled for: layers, not batches and lengths."""

from __future__ import annotations

import pytest
import torch

from seqkern.core.triton import support

if support.missing:
    pytest.skip(support.missing, allow_module_level=True)

from seqkern.attention.triton.forward import forward
from tests.attention.triton_calls import backwards, forwards
from tests.triton_launches import recorded


def keys(call) -> set[str]:
    with recorded(90) as launches:
        call()
    return {launch.key(90) for launch in launches}


def packed(*lengths: int) -> None:
    cu = torch.tensor([0, *lengths]).cumsum(0)
    x = torch.empty(int(cu[-1]), 4, 64, dtype=torch.bfloat16, device="meta")
    forward(x, x, x, *[None] * 4, cu, cu, None, 0.1, 0.0, 0.0, True, 7, -1)


@pytest.mark.parametrize("options", [{}, {"is_causal": True, "window": (100, 1)}], ids=str)
def test_no_length_compiles_anew(options):
    def call(queries):
        return lambda: forwards(64, torch.bfloat16, queries, **options)

    assert keys(call(1024)) == keys(call(1000)) == keys(call(77)) != keys(call(1))
    assert keys(call(1)) == keys(call(3))  # decoding


def test_no_window_and_no_seed_compiles_anew():
    def call(window, seed):
        options = {"dropout_p": 0.1, "seed": torch.tensor(seed), "window": (window, 1)}
        return lambda: forwards(64, torch.bfloat16, **options)

    assert keys(call(1, 1)) == keys(call(16, 2**62)) == keys(call(500, 0))


def test_no_batch_of_packed_sequences_compiles_anew():
    assert keys(lambda: packed(70)) == keys(lambda: packed(300, 1, 90))


def test_no_stride_and_no_address_compiles_anew():
    def call(width, memory=0):
        x = torch.empty(2, 4, 300, width + memory, dtype=torch.bfloat16, device="meta")[..., :width]
        return lambda: forward(x, x, x, *[None] * 7, 0.1, 0.0, 0.0, True, -1, -1)

    assert keys(call(64)) == keys(call(64, 3)) == keys(call(64, 8))
    assert keys(call(40)) == keys(call(33)) == keys(call(36, 5)) != keys(call(48))


def test_gradients_that_nobody_asks_for_are_not_computed():
    def names(needs):
        with recorded(90) as launches:
            backwards(64, torch.bfloat16, needs)
        return [launch.name.removeprefix("attention_") for launch in launches]

    delta, of_queries, of_keys = "delta_kernel", "backward_queries_kernel", "backward_keys_kernel"
    assert names(7) == [delta, of_queries, of_keys]
    assert names(1) == [delta, of_queries] and names(4) == [delta, of_keys]
