"""The modules in a PyTorch program: states, copies, hooks, parametrizations, swaps."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import seqkern
from tests.recurrent.cases import LAYERS, Case, make

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


def both(name: str, *args, **kwargs):
    theirs = getattr(torch.nn, name)(*args, **kwargs)
    ours = getattr(seqkern.nn, name)(*args, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def first(result):
    """The hidden states, of a layer or a cell."""
    return result[0] if isinstance(result, tuple) else result


def sample(name: str) -> torch.Tensor:
    return torch.randn(3, 5) if name.endswith("Cell") else torch.randn(4, 3, 5)


@pytest.mark.parametrize("name", NAMES)
def test_same_parameters_from_the_same_seed(name):
    torch.manual_seed(1)
    theirs = getattr(torch.nn, name)(5, 6)
    torch.manual_seed(1)
    ours = getattr(seqkern.nn, name)(5, 6)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_both_ways(name):
    ours, theirs = both(name, 5, 6)
    other = getattr(torch.nn, name)(5, 6)
    other.load_state_dict(ours.state_dict())
    x = sample(name)
    assert torch.equal(first(other(x)), first(theirs(x)))


@pytest.mark.parametrize("name", NAMES)
def test_attributes_and_repr(name):
    options = {} if name.endswith("Cell") else {"num_layers": 2, "dropout": 0.25}
    ours, theirs = both(name, 5, 6, bias=False, **options)
    assert repr(ours) == repr(theirs)
    assert vars(ours).keys() == vars(theirs).keys()
    for key in theirs.__constants__:
        assert getattr(ours, key) == getattr(theirs, key)
    if not name.endswith("Cell"):
        assert len(ours.all_weights) == 2
        ours.flatten_parameters()


def test_positional_arguments_in_pytorchs_order():
    def values(module):
        return {k: v for k, v in vars(module).items() if not k.startswith("_")}

    for name, args in [
        ("RNN", (5, 6, 2, "relu", False, True, 0.5, True)),
        ("GRU", (5, 6, 2, False, True, 0.5, True)),
        ("LSTM", (5, 6, 2, False, True, 0.5, True, 3)),
        ("RNNCell", (5, 6, False, "relu")),
    ]:
        ours, theirs = both(name, *args)
        assert values(ours) == values(theirs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "save"])
def test_copies(name, how):
    ours = getattr(seqkern.nn, name)(5, 6)
    if how == "deepcopy":
        copied = copy.deepcopy(ours)
    elif how == "pickle":
        copied = pickle.loads(pickle.dumps(ours))
    else:
        buffer = io.BytesIO()
        torch.save(ours, buffer)
        buffer.seek(0)
        copied = torch.load(buffer, weights_only=False)
    x = sample(name)
    assert torch.equal(first(copied(x)), first(ours(x)))
    with torch.no_grad():
        next(copied.parameters()).zero_()
    assert not torch.equal(first(copied(x)), first(ours(x)))


@pytest.mark.parametrize("name", NAMES)
def test_becoming_ours_and_pytorchs_again_by_class(name):
    theirs = getattr(torch.nn, name)(5, 6)
    x = sample(name)
    before = first(theirs(x))
    calls = []
    theirs.register_forward_hook(lambda *_: calls.append(1))
    theirs.__class__ = getattr(seqkern.nn, name)
    torch.testing.assert_close(first(theirs(x)), before)
    copy.deepcopy(theirs)(x)
    theirs.__class__ = getattr(torch.nn, name)
    assert torch.equal(first(theirs(x)), before)
    assert len(calls) == 3


@pytest.mark.parametrize("kind", LAYERS)
def test_changed_weights_are_seen(kind):
    """In place, without a version (`.data`), by replacement and by load_state_dict."""
    module = make(seqkern.nn, kind, Case(4, 3, 5, 6), torch.float32)
    x = torch.randn(4, 3, 5)

    def reference():
        with seqkern.use_backend("reference"):
            return module(x)[0]

    changes = [
        lambda: module.weight_hh_l0.data.add_(0.1),
        lambda: module.weight_hh_l0.detach().numpy().__imul__(0.5),
        lambda: setattr(module, "weight_hh_l0", torch.nn.Parameter(torch.randn(
            module.weight_hh_l0.shape))),
        lambda: module.load_state_dict({k: v + 0.1 for k, v in module.state_dict().items()}),
        lambda: torch.nn.utils.vector_to_parameters(
            torch.randn(sum(p.numel() for p in module.parameters())) / 3, module.parameters()),
    ]  # fmt: skip
    before = module(x)[0]
    for change in changes:
        change()
        after = module(x)[0]
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, reference())
        before = after


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("old", [False, True], ids=["parametrizations", "hook"])
def test_weight_norm(name, old):
    weight = "weight_hh" if name.endswith("Cell") else "weight_hh_l0"
    ours, theirs = both(name, 5, 6)
    for module in (ours, theirs):
        if old:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                torch.nn.utils.weight_norm(module, weight)
        else:
            parametrizations.weight_norm(module, weight)
    x = sample(name)
    for _ in range(2):
        results = [first(m(x)) for m in (ours, theirs)]
        torch.testing.assert_close(*results)
        for module, result in zip((ours, theirs), results, strict=True):
            module.zero_grad()
            result.square().sum().backward()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad)
        for module in (ours, theirs):
            torch.optim.SGD(module.parameters(), 0.1).step()
    copy.deepcopy(ours) if not old else None


@pytest.mark.parametrize("name", NAMES)
def test_casting_and_moving(name):
    ours, theirs = both(name, 5, 6)
    x = sample(name)
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        ours.to(dtype)
        theirs.to(dtype)
        found, expected = first(ours(x.to(dtype))), first(theirs(x.to(dtype)))
        tolerance = 2e-2 if dtype.itemsize == 2 else 1e-6
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert first(getattr(seqkern.nn, name)(5, 6, device="meta")(x.to("meta"))).is_meta


@pytest.mark.parametrize("name", NAMES)
def test_complex_goes_to_pytorch(name):
    ours, theirs = both(name, 5, 6, dtype=torch.complex64)
    x = sample(name).to(torch.complex64)
    assert torch.equal(first(ours(x)), first(theirs(x)))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"batch_first": True}], ids=str)
def test_dropout_is_pytorchs_from_the_same_seed(kind, options):
    case = Case(6, 3, 5, 8, layers=3, **options)
    theirs = make(torch.nn, kind, case, torch.float64)
    ours = make(seqkern.nn, kind, case, torch.float64)
    ours.load_state_dict(theirs.state_dict())
    ours.dropout = theirs.dropout = 0.5
    x = torch.randn((3, 6, 5) if case.batch_first else (6, 3, 5), dtype=torch.float64)
    outputs = []
    for module in (ours, theirs, ours, ours):
        torch.manual_seed(3)
        outputs.append(module(x)[0])
    torch.testing.assert_close(outputs[0], outputs[1])
    assert torch.equal(outputs[2], outputs[3])
    assert not torch.allclose(ours(x)[0], outputs[0])
    assert not torch.allclose(ours.eval()(x)[0], outputs[0])
    torch.testing.assert_close(ours(x)[0], theirs.eval()(x)[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_output_unpacks_to_the_dense_result(kind):
    module = make(seqkern.nn, kind, Case(5, 3, 4, 6, batch_first=True), torch.float64)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    lengths = torch.tensor([2, 5, 3])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    output, final = module(packed)
    output, found_lengths = pad_packed_sequence(output, batch_first=True)
    assert torch.equal(found_lengths, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, alone_final = module(x[row : row + 1, :length])
        torch.testing.assert_close(output[row : row + 1, :length], alone, rtol=0, atol=1e-14)
        assert not output[row, length:].any()
        for mine, right in zip(
            final if isinstance(final, tuple) else (final,),
            alone_final if isinstance(alone_final, tuple) else (alone_final,),
            strict=True,
        ):
            torch.testing.assert_close(mine[:, row : row + 1], right, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", LAYERS)
def test_batch_of_nothing(kind):
    for options in ({}, {"layers": 2, "bidirectional": True, "batch_first": True}):
        case = Case(3, 0, 5, 6, **options)
        theirs, ours = (
            make(library, kind, case, torch.float32) for library in (torch.nn, seqkern.nn)
        )
        x = torch.randn((0, 3, 5) if case.batch_first else (3, 0, 5), requires_grad=True)
        expected, found = theirs(x), ours(x)
        assert found[0].shape == expected[0].shape
        found[0].sum().backward()
        assert x.grad.shape == x.shape
        assert all(not p.grad.any() for p in ours.parameters())


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cell_of_an_empty_batch(name):
    assert first(getattr(seqkern.nn, name)(5, 6)(torch.randn(0, 5))).shape == (0, 6)


def test_methods_of_pytorchs_lstm():
    """Public, though not in RNNBase; some subclasses call them."""
    ours, theirs = both("LSTM", 5, 6, proj_size=2)
    x, hx = torch.randn(4, 3, 5), (torch.zeros(1, 3, 2), torch.zeros(1, 3, 6))
    assert ours.get_expected_cell_size(x, None) == theirs.get_expected_cell_size(x, None)
    ours.check_forward_args(x, hx, None)
    order = torch.tensor([2, 0, 1])
    permuted = ours.permute_hidden(hx, order)
    assert [p.shape for p in permuted] == [h.shape for h in hx]


def test_outputs_do_not_share_memory():
    module = seqkern.nn.LSTM(5, 6)
    output, (h, c) = module(torch.randn(1, 3, 5))
    assert len({t.data_ptr() for t in (output, h, c)}) == 3
