"""Layers against PyTorch and the float64 reference: forward and every gradient."""

from __future__ import annotations

import copy

import pytest
import torch

import seqkern
from seqkern.recurrent import reference
from tests.parity import assert_all_parity
from tests.recurrent import single_layer
from tests.recurrent.cases import (
    DTYPES,
    KERNEL_DTYPES,
    LAYERS,
    Case,
    check,
    fits,
    inputs,
    make,
    names,
    outputs,
)

# Around the kernels' blocks of 16 hidden units and their split of the batch over threads.
SHAPES = [
    Case(1, 1, 1, 1),
    Case(4, 1, 3, 1, states=True),
    Case(1, 5, 8, 16, states=True),
    Case(6, 1, 10, 32),
    Case(5, 2, 7, 15),
    Case(7, 3, 16, 17, states=True),
    Case(3, 4, 33, 48),
    Case(9, 8, 5, 31),
    Case(4, 17, 12, 40, states=True),
    Case(3, 35, 24, 64),
    Case(2, 6, 130, 100),
    Case(40, 2, 6, 20),
]
OPTIONS = [
    Case(5, 3, 7, 18, bias=False),
    Case(5, 3, 7, 18, batch_first=True, states=True),
    Case(5, 3, 7, 18, bidirectional=True),
    Case(5, 3, 7, 18, layers=3, states=True),
    Case(6, 4, 9, 20, layers=2, bidirectional=True, states=True),
    Case(6, 4, 9, 20, layers=2, bidirectional=True, bias=False, batch_first=True),
    Case(5, 1, 7, 18, unbatched=True),
    Case(5, 1, 7, 18, unbatched=True, states=True, bidirectional=True, batch_first=True),
    Case(5, 3, 7, 18, strided=True, states=True),
    Case(5, 3, 7, 18, strided=True, batch_first=True, layers=2),
    Case(5, 3, 7, 18, proj=5, states=True),
    Case(5, 19, 7, 33, proj=1),
    Case(4, 2, 9, 33, proj=16, layers=2, bidirectional=True, bias=False),
]
RAGGED = [
    Case(6, 4, 7, 18, lengths=(6, 6, 3, 1)),
    Case(6, 4, 7, 18, lengths=(6, 6, 3, 1), states=True, bidirectional=True),
    Case(6, 4, 7, 18, lengths=(6, 6, 6, 5)),
    Case(6, 4, 7, 18, lengths=(6, 6, 6, 6), layers=2),
    Case(1, 4, 7, 16, lengths=(1, 1, 1, 1), bidirectional=True),
    Case(8, 1, 3, 20, lengths=(8,), states=True),
    Case(6, 4, 7, 18, lengths=(2, 6, 1, 4), sorted=False, states=True),
    Case(6, 4, 7, 18, lengths=(2, 6, 1, 4), sorted=False, layers=2, bidirectional=True),
    Case(6, 4, 7, 18, lengths=(2, 6, 1, 4), sorted=False, batch_first=True, bias=False),
    Case(9, 35, 6, 17, lengths=tuple(9 - i // 4 for i in range(35)), bidirectional=True),
    Case(6, 4, 7, 18, lengths=(6, 5, 3, 3), proj=6, bidirectional=True, states=True),
    Case(20, 3, 4, 64, lengths=(20, 11, 2)),
]


def _grid(cases: list[Case]) -> list:
    return [
        pytest.param(kind, case, id=f"{kind}-{case}")
        for kind in LAYERS
        for case in cases
        if fits(kind, case)
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind, case", _grid(SHAPES + OPTIONS + RAGGED))
def test_as_near_to_the_truth_as_pytorch(kind, case, dtype):
    check(kind, case, dtype)


# What each instruction-set level must get right by itself: tails in every direction, ragged time.
ISA_CASES = [
    Case(1, 1, 1, 1),
    Case(7, 3, 16, 17, states=True),
    Case(3, 35, 33, 48),
    Case(4, 16, 64, 64, states=True),
    Case(6, 5, 9, 100, bidirectional=True),
    Case(6, 4, 7, 18, lengths=(6, 6, 3, 1), states=True, bidirectional=True),
    Case(6, 4, 7, 40, proj=6, states=True),
]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind, case", _grid(ISA_CASES))
def test_every_instruction_set_level(isa, kind, case, dtype):
    check(kind, case, dtype)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "kind, case",
    _grid(
        [
            Case(12, 1, 32, 96),
            Case(12, 40, 32, 96, states=True),
            Case(3, 2, 3, 8),
            Case(5, 3, 70, 65, states=True, layers=2),
            Case(6, 19, 40, 64, proj=20, states=True),
            Case(12, 6, 32, 130, proj=100, states=True),  # threads share the projection's columns
            Case(12, 6, 32, 130, lengths=(12, 12, 9, 5, 5, 1), bidirectional=True),
        ]
    ),
)
def test_several_threads(kind, case, dtype, threads):
    torch.set_num_threads(threads)
    check(kind, case, dtype)


# Without gradients the projected input is kept for a chunk of steps only: a megabyte or 512 rows.
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize(
    "kind, case",
    _grid(
        [
            Case(12, 600, 3, 96, bidirectional=True, states=True),
            Case(
                20, 600, 3, 96, lengths=tuple(20 - i // 40 for i in range(600)), bidirectional=True
            ),
        ]
    ),
)
def test_inference_in_several_chunks_of_steps(kind, case, dtype):
    theirs = make(torch.nn, kind, case, dtype)
    ours = make(seqkern.nn, kind, case, dtype)
    ours.load_state_dict(theirs.state_dict())
    exact = copy.deepcopy(ours).double()
    x, states = inputs(kind, case, dtype)
    with torch.no_grad():
        found, expected = (outputs(module, case, x, states) for module in (ours, theirs))
        with seqkern.use_backend("reference"):
            in_float64 = outputs(exact, case, x.double(), [s.double() for s in states])
    assert_all_parity(found, expected, in_float64, names(ours, states)[: len(in_float64)])


# The backward sums up the gradients of the weights by chunks of at most 512 rows, or of one step.
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize(
    "kind, case",
    _grid(
        [
            Case(11, 130, 5, 24, bidirectional=True, states=True),
            Case(11, 130, 5, 24),
            Case(3, 530, 5, 18, states=True),
            Case(11, 130, 5, 24, proj=7, bidirectional=True),
            Case(
                20,
                200,
                5,
                18,
                lengths=tuple(20 - i // 12 for i in range(200)),
                bidirectional=True,
                states=True,
            ),
        ]
    ),
)
def test_training_in_several_chunks_of_steps(kind, case, dtype, threads):
    torch.set_num_threads(threads)
    check(kind, case, dtype)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "kind, case",
    _grid(
        [
            Case(5, 3, 7, 18, layers=2, bidirectional=True, batch_first=True),
            Case(6, 4, 7, 18, lengths=(2, 6, 1, 4), sorted=False, states=True),
            Case(6, 4, 7, 18, proj=6, bidirectional=True),
        ]
    ),
)
def test_other_backends(kind, case, dtype, backend):
    check(kind, case, dtype, backend)


@pytest.mark.parametrize("kind", LAYERS)
def test_reference_is_pytorch_in_float64(kind):
    """The reference itself, against torch.nn, not against our kernels."""
    for case in [*OPTIONS[:8], *RAGGED]:
        if fits(kind, case):
            check(kind, case, torch.float64, backend="reference")


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chunks_of_a_stream_equal_the_whole(kind, dtype):
    case = Case(12, 3, 6, 20, layers=2)
    module = make(seqkern.nn, kind, case, dtype)
    x, _ = inputs(kind, case, dtype)
    with torch.no_grad():
        whole, final = module(x)
        state, parts = None, []
        for chunk in x.split([5, 1, 6]):
            part, state = module(chunk, state)
            parts.append(part)
    # Chunks of another length may take another block of the matrix product.
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 1e-2)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=tolerance)
    for ours, expected in zip(state, final, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance)


ONE_LAYER = {
    "lstm": (single_layer.lstm_layer, reference.lstm, 4, 2, {}),
    "gru": (single_layer.gru_layer, reference.gru, 3, 1, {}),
    "rnn": (single_layer.rnn_layer, reference.rnn, 1, 1, {}),
    "relu": (single_layer.rnn_layer, reference.rnn, 1, 1, {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", ["dense", "ragged", "one step"])
@pytest.mark.parametrize("name", ONE_LAYER)
def test_one_layer_in_one_direction(name, shape, reverse, states, backend):
    function, reference_layer, gates, count, options = ONE_LAYER[name]
    lead = {"dense": (4, 3), "ragged": (8,), "one step": (3,)}[shape]
    sizes = torch.tensor([3, 2, 2, 1]) if shape == "ragged" else None
    x = torch.randn(*lead, 5, dtype=torch.float64)
    hidden = [torch.randn(3, 6, dtype=torch.float64) if states else None for _ in range(count)]
    shapes = [(gates * 6, 5), (gates * 6, 6), (gates * 6,), (gates * 6,)]
    weights = [torch.randn(s, dtype=torch.float64) for s in shapes]
    arguments = (x, *hidden, *weights)
    expected = reference_layer(*arguments, batch_sizes=sizes, reverse=reverse, **options)
    with seqkern.use_backend(backend):
        found = function(*arguments, batch_sizes=sizes, reverse=reverse, **options)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-13)
