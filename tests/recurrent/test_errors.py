"""Bad arguments: PyTorch's error class and wording, naming the argument and both shapes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.torch_version import TorchVersion

import seqkern
from seqkern.nn import functional
from tests.recurrent import single_layer

LAYERS = ("LSTM", "GRU", "RNN")


def pair(name: str, h: torch.Tensor):
    return (h, h) if name == "LSTM" else h


def error_of(module: torch.nn.Module, *args) -> Exception:
    with pytest.raises(Exception) as info:  # noqa: PT011 (the class is compared by the caller)
        module(*args)
    return info.value


# Calls that both refuse in the same words.
SAME = {
    "rank 1": lambda n: (torch.randn(5),),
    "rank 4": lambda n: (torch.randn(2, 2, 2, 5),),
    "input size": lambda n: (torch.randn(3, 2, 4),),
    "no time step": lambda n: (torch.randn(0, 2, 5),),
    "input dtype": lambda n: (torch.randn(3, 2, 5).double(),),
    "integer input": lambda n: (torch.ones(3, 2, 5, dtype=torch.long),),
    "input on meta": lambda n: (torch.randn(3, 2, 5, device="meta"),),
    "states of rank 2": lambda n: (torch.randn(3, 2, 5), pair(n, torch.zeros(2, 6))),
    "states of a wrong batch": lambda n: (torch.randn(3, 2, 5), pair(n, torch.zeros(1, 3, 6))),
    "states of a wrong width": lambda n: (torch.randn(3, 2, 5), pair(n, torch.zeros(1, 2, 7))),
    "states of wrong layers": lambda n: (torch.randn(3, 2, 5), pair(n, torch.zeros(2, 2, 6))),
    "unbatched, states of rank 3": lambda n: (torch.randn(3, 5), pair(n, torch.zeros(1, 1, 6))),
    "unbatched, wrong states": lambda n: (torch.randn(3, 5), pair(n, torch.zeros(1, 7))),
}


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("name", LAYERS)
def test_same_class_and_words_as_pytorch(name, case):
    args = SAME[case](name)
    expected = error_of(getattr(torch.nn, name)(5, 6), *args)
    found = error_of(getattr(seqkern.nn, name)(5, 6), *args)
    assert type(found) is type(expected)
    assert str(found) == str(expected)


# Where PyTorch's words come from deep inside, or its fused LSTM says nothing and reads past the
# end: our own sentence, of PyTorch's class. The pattern must be found in it.
OURS = {
    "packed data of rank 3": (
        lambda n: (PackedSequence(torch.randn(3, 1, 5), torch.tensor([3])),),
        "input must have 2 dimensions, got 3",
    ),
    "packed input size": (
        lambda n: (PackedSequence(torch.randn(3, 4), torch.tensor([3])),),
        "input.size(-1) must be equal to input_size. Expected 5, got 4",
    ),
    "states of another dtype": (
        lambda n: (torch.randn(3, 2, 5), pair(n, torch.zeros(1, 2, 6).double())),
        "same dtype, but got Float and Double: input is torch.float32, h0 is torch.float64",
    ),
    "states on another device": (
        lambda n: (torch.randn(3, 2, 5), pair(n, torch.zeros(1, 2, 6, device="meta"))),
        "Input and hidden tensors are not at the same device, found input tensor at cpu and "
        "hidden tensor at meta",
    ),
    "increasing batch_sizes": (
        lambda n: (PackedSequence(torch.randn(5, 5), torch.tensor([2, 3])),),
        "batch_sizes must never increase, got [2, 3]",
    ),
    "too little data": (
        lambda n: (PackedSequence(torch.randn(4, 5), torch.tensor([3, 2])),),
        "they add up to 5, input has 4 rows",
    ),
    "too much data": (
        lambda n: (PackedSequence(torch.randn(6, 5), torch.tensor([3, 2])),),
        "they add up to 5, input has 6 rows",
    ),
    "packed, states of a wrong batch": (
        lambda n: (
            pack_padded_sequence(torch.randn(3, 2, 5), [3, 2]),
            pair(n, torch.zeros(1, 3, 6)),
        ),
        "size (1, 2, 6), got [1, 3, 6]",
    ),
}


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("case", OURS)
@pytest.mark.parametrize("name", LAYERS)
def test_clearer_than_pytorch(name, case, backend):
    make, words = OURS[case]
    words = re.escape(words)
    if backend == "torch" and case in ("states of another dtype", "states on another device"):
        words = "dtype|device|data type"  # PyTorch's operator says this itself, in several ways
    with seqkern.use_backend(backend), pytest.raises(RuntimeError, match=words):
        getattr(seqkern.nn, name)(5, 6)(*make(name))


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells(name):
    hx = (lambda h: (h, h)) if name == "LSTMCell" else (lambda h: h)
    bad = [
        (torch.randn(3, 4),),
        (torch.randn(3, 5), hx(torch.zeros(3, 7))),
        (torch.randn(3, 5), hx(torch.zeros(4, 6))),
        (torch.randn(3, 5, 5),),
        (torch.randn(3, 5), hx(torch.zeros(1, 3, 6))),
    ]
    for args in bad:
        expected = error_of(getattr(torch.nn, name)(5, 6), *args)
        found = error_of(getattr(seqkern.nn, name)(5, 6), *args)
        assert type(found) is type(expected)
        assert str(found) == str(expected)
    for args in [
        (torch.randn(3, 5).double(),),
        (torch.randn(3, 5), hx(torch.zeros(3, 6).double())),
    ]:
        expected = error_of(getattr(torch.nn, name)(5, 6), *args)
        found = error_of(getattr(seqkern.nn, name)(5, 6), *args)
        assert type(found) is type(expected)
        assert "mat1 and mat2 must have the same dtype" in str(found)


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_states_of_a_cell_that_are_no_matrix(name):
    """In the words of torch 2.15; until 2.14 PyTorch took the first dimension for a batch."""
    hx = (lambda h: (h, h)) if name == "LSTMCell" else (lambda h: h)
    for args, rank in [
        ((torch.randn(3, 5), hx(torch.zeros(6))), 1),
        ((torch.randn(3, 5), hx(torch.zeros(3))), 1),
        ((torch.randn(5), hx(torch.zeros(1, 6))), 3),  # both get a dimension more
    ]:
        words = f"Expected 2D hidden0 (batch x hidden_size), but got {rank}D tensor"
        found = error_of(getattr(seqkern.nn, name)(5, 6), *args)
        assert type(found) is RuntimeError
        assert str(found) == words
        if TorchVersion(torch.__version__) >= "2.15":
            expected = error_of(getattr(torch.nn, name)(5, 6), *args)
            assert type(expected) is RuntimeError
            assert str(expected) == words


def test_second_states_that_are_no_matrix():
    words = re.escape("Expected 2D hidden1 (batch x hidden_size), but got 0D tensor")
    for backend in ("auto", "reference"):
        with seqkern.use_backend(backend), pytest.raises(RuntimeError, match=words):
            functional.lstm_cell(
                torch.randn(3, 5),
                (torch.zeros(3, 6), torch.zeros(())),
                torch.randn(24, 5),
                torch.randn(24, 6),
            )


@pytest.mark.parametrize("name", LAYERS)
def test_constructor(name):
    for args, kwargs in [
        ((5, 6), {"proj_size": 6}),
        ((5, 6), {"proj_size": -1}),
        ((5, 6), {"dropout": 2}),
        ((5, 6), {"dropout": True}),
        ((5, 6), {"dropout": "much"}),
        ((5, 6), {"num_layers": 0}),
        ((5,), {}),
        ((5, 6), {"unknown": 1}),
    ]:
        with pytest.raises(Exception) as expected:  # noqa: PT011
            getattr(torch.nn, name)(*args, **kwargs)
        with pytest.raises(expected.type):
            getattr(seqkern.nn, name)(*args, **kwargs)
    with pytest.raises(ValueError, match="Unknown nonlinearity 'sin'"):
        seqkern.nn.RNN(5, 6, nonlinearity="sin")
    with pytest.warns(UserWarning, match="non-zero dropout expects num_layers greater than 1"):
        getattr(seqkern.nn, name)(5, 6, dropout=0.5)


def weights(gates: int = 4) -> list[torch.Tensor]:
    rows = gates * 6
    return [torch.randn(rows, 5), torch.randn(rows, 6), torch.randn(rows), torch.randn(rows)]


@pytest.mark.parametrize(
    "index, bad, words",
    [
        (0, torch.randn(23, 5), "same number of rows"),
        (0, torch.randn(24), "w_ih and w_hh must have 2 dimensions"),
        (1, torch.randn(24, 7), "Expected w_hh size (24, 6), got [24, 7]"),
        (2, torch.randn(23), "Expected b_ih size (24,), got [23]"),
        (3, torch.randn(24, 1), "Expected b_hh size (24,), got [24, 1]"),
        (1, torch.randn(24, 6).double(), "w_hh is torch.float64"),
    ],
)
def test_weights_of_a_layer(index, bad, words):
    tensors = weights()
    tensors[index] = bad
    with pytest.raises(RuntimeError, match=re.escape(words)):
        single_layer.lstm_layer(torch.randn(3, 2, 5), None, None, *tensors)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
@pytest.mark.parametrize("index", range(4))
def test_functional_checks_every_weight(backend, index):
    """PyTorch's fused LSTM would read past the end of these."""
    tensors = weights()
    tensors[index] = tensors[index][:-4].contiguous()
    with seqkern.use_backend(backend), pytest.raises(RuntimeError, match="size|rows"):
        functional.lstm(torch.randn(3, 2, 5), None, tensors)


def test_functional_counts_its_arguments():
    x = torch.randn(3, 2, 5)
    with pytest.raises(RuntimeError, match="got an incorrect number of RNN parameters: 3"):
        functional.lstm(x, None, weights()[:3])
    with pytest.raises(RuntimeError, match="lstm expects 2 hidden states, got 1"):
        functional.lstm(x, (torch.zeros(1, 2, 6),), weights())
    with pytest.raises(RuntimeError, match="input must have 3 dimensions, got 2"):
        functional.gru(x[0], None, weights(3))
    with pytest.raises(RuntimeError, match="batch_sizes must be an int64 tensor on the CPU"):
        functional.gru(x[0], None, weights(3), batch_sizes=torch.tensor([2], dtype=torch.int32))
    with pytest.raises(RuntimeError, match="batch_sizes must have 1 dimension"):
        functional.gru(x[0], None, weights(3), batch_sizes=torch.tensor([[2]]))
    with pytest.raises(RuntimeError, match="input must have 2 dimensions, got 3"):
        functional.lstm_cell(x, None, *weights())
    with pytest.raises(RuntimeError, match="b_ih and b_hh must be given both or neither"):
        functional.gru_cell(x[0], None, *weights(3)[:3])


def test_operators_refuse_what_would_read_outside():
    """The compiled operators themselves, without the checks in Python."""
    x, w = torch.randn(3, 2, 5), weights()
    run = torch.ops.seqkern.lstm_forward
    tail = (None, None, None, False, False)
    zeros = torch.zeros
    for args in [
        (x, None, None, w[0][:-1], w[1], w[2], w[3]),
        (x, None, None, w[0], w[1][:, :-1], w[2], w[3]),
        (x, None, None, w[0], w[1], w[2][:-1], w[3]),
        (x, None, None, w[0], w[1], w[2], None),
        (x[..., :-1], None, None, *w),
        (x, zeros(2, 5), None, *w),
        (x, None, zeros(3, 6), *w),
        (x, zeros(6), None, *w),
        (x[0, 0], None, None, *w),
        (x.double(), None, None, *w),
        (x.half(), None, None, *[t.half() for t in w]),
    ]:
        with pytest.raises(RuntimeError):
            run(*args, *tail)
    for sizes in ([2, 3], [3, 3], [6, -1], [5, 0, 1], [2, 1]):
        with pytest.raises(RuntimeError):
            run(
                x.view(6, 5)[:5], zeros(sizes[0], 6), zeros(sizes[0], 6), *w, None, None,
                torch.tensor(sizes), False, False,
            )  # fmt: skip


NO_HIDDEN_UNIT = """
import torch
from seqkern.nn import functional as f

x, w = torch.randn(3, 2, 5), (torch.randn(0, 5), torch.randn(0, 0))
for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    try:
        getattr(f, name)(x, None, w, bias=False)
    except RuntimeError as error:
        print(error)
"""


def test_a_layer_without_hidden_units():
    """In a process of its own, since a division by zero would end it."""
    done = subprocess.run([sys.executable, "-c", NO_HIDDEN_UNIT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    sentence = "w_hh should have at least one row a gate and one column, but it has the shape"
    assert all(line.startswith(sentence) for line in lines)


def test_the_backward_checks_what_was_saved():
    x, w = torch.randn(3, 2, 5), weights()
    run = torch.ops.seqkern
    output, _, _, *saved = run.lstm_forward(x, None, None, *w, None, None, None, False, True)
    gates, cells, hidden = saved

    def backward(gates, cells):
        rest = (None, None, output, gates, cells, hidden, False, 127)
        return run.lstm_backward(torch.ones_like(output), None, None, x, None, None, *w[:2], *rest)

    backward(gates, cells)
    for wrong, words in [
        ((gates[:-1], cells), "gates"),
        ((gates.double(), cells), "gates should have the dtype of input"),
        ((gates, cells[:-1]), "cells"),
        ((gates, cells.double()), "cells should"),
        ((gates, cells.bfloat16()), "cells should"),
    ]:
        with pytest.raises(RuntimeError, match=words):
            backward(*wrong)
