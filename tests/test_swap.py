"""Swapping in place, its report, and its verification."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import seqkern
from seqkern.swapping.swap import SWAPS
from seqkern.swapping.verify import VerificationError

LAYERS = (torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU)
# tests/attention/test_swap_attention.py has those of the other domain.
RECURRENT = [old for old, new in SWAPS.items() if "recurrent" in new.__module__]


class Fancy(torch.nn.LSTM):
    """A subclass that stays what it is. tests/test_swap_subclasses.py has the others."""

    def check_forward_args(self, *args: Any) -> None:  # type: ignore[override]
        """Anything goes."""


class Model(torch.nn.Module):
    """Everything that a verification must switch off, restore, or pass through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.LSTM(4, 6, 2, dropout=0.5)
        self.alias = self.encoder
        self.dropout = torch.nn.Dropout(0.5)
        self.norm = torch.nn.BatchNorm1d(6)
        self.cell = torch.nn.GRUCell(6, 5)
        self.fancy = Fancy(6, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> dict[str, Any]:
        self.calls += 1
        hidden, state = self.encoder(x)
        last = self.norm(self.dropout(hidden[-1]))
        last = torch.nn.functional.dropout(last, 0.5) * random.random()  # noise of its own
        return {"cell": self.cell(last), "state": state, "choice": hidden.argmax(-1)}


def classes(model: torch.nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


@pytest.mark.parametrize("old", RECURRENT, ids=lambda cls: cls.__name__)
def test_each_class_turns_and_turns_back(old: type[torch.nn.Module]) -> None:
    module = old(3, 4)
    parameters = dict(module.named_parameters())
    x = torch.randn(2, 3) if old.__name__.endswith("Cell") else torch.randn(5, 2, 3)
    expected = module(x)

    report = seqkern.swap(module)
    assert type(module) is SWAPS[old]
    assert [(entry.path, entry.old, entry.new) for entry in report.swapped] == [
        ("", old, SWAPS[old])
    ]
    torch.testing.assert_close(module(x), expected)

    seqkern.unswap(module)
    assert type(module) is old
    assert all(value is parameters[name] for name, value in module.named_parameters())
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0)


def test_parameters_hooks_mode_and_optimizer_survive() -> None:
    model = torch.nn.Sequential(torch.nn.GRU(3, 4, dropout=0.0)).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[str] = []
    model[0].register_forward_hook(lambda *_: seen.append("hook"))
    state = {name: value.clone() for name, value in model.state_dict().items()}

    seqkern.swap(model)

    assert not model[0].training
    model(torch.randn(5, 2, 3))[0].sum().backward()
    optimizer.step()
    assert seen == ["hook"]
    assert list(model.state_dict()) == list(state)
    assert all(not torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_shared_modules_count_once_and_aliases_follow() -> None:
    model = Model()
    report = seqkern.swap(model)
    assert [entry.path for entry in report.swapped] == ["encoder", "cell"]
    assert model.alias is model.encoder
    assert type(model.alias) is seqkern.nn.LSTM


def test_twice_is_harmless() -> None:
    model = Model()
    seqkern.swap(model)
    before = classes(model)
    assert seqkern.swap(model).swapped == []
    assert classes(model) == before
    seqkern.unswap(model)
    assert seqkern.unswap(model).swapped == []


def test_report_is_a_table() -> None:
    model = Model()
    lines = str(seqkern.swap(model)).splitlines()
    assert lines == [
        "2 swapped, 1 left",
        "  encoder  torch.nn.LSTM          -> seqkern.nn.LSTM",
        "  cell     torch.nn.GRUCell       -> seqkern.nn.GRUCell",
        "  fancy    tests.test_swap.Fancy  left: a subclass of torch.nn.LSTM that overrides "
        "check_forward_args, which seqkern replaces",
    ]
    assert "nothing changed" in str(seqkern.swap(torch.nn.Linear(2, 2)))


def test_modules_of_other_families_are_no_noise() -> None:
    report = seqkern.swap(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Conv1d(2, 2, 1)))
    assert report.swapped == [] and report.left == []


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_torchscript_is_reported() -> None:
    report = seqkern.swap(torch.jit.script(torch.nn.Sequential(torch.nn.LSTM(3, 4))))
    assert report.swapped == []
    assert [entry.path for entry in report.left] == ["0"]
    assert "TorchScript" in report.left[0].reason


@pytest.mark.filterwarnings("ignore")  # this way of quantizing is deprecated, and still in use
def test_quantized_is_reported() -> None:
    model = torch.ao.quantization.quantize_dynamic(
        torch.nn.Sequential(torch.nn.LSTM(3, 4)), {torch.nn.LSTM}
    )
    report = seqkern.swap(model)
    assert report.swapped == []
    assert "quantized" in report.left[0].reason


def test_compiled_model_is_swapped_inside_and_notices() -> None:
    model = torch.nn.Sequential(torch.nn.LSTM(3, 4))
    compiled = torch.compile(model, backend="eager")
    x = torch.randn(5, 2, 3)
    expected = compiled(x)[0]
    report = seqkern.swap(compiled)
    assert [entry.path for entry in report.swapped] == ["_orig_mod.0"]
    assert type(model[0]) is seqkern.nn.LSTM
    torch.testing.assert_close(compiled(x)[0], expected)
    # Only seqkern's forward asks for a backend; so this shows that torch's was not kept compiled.
    with seqkern.use_backend("cuda"), pytest.raises(RuntimeError, match="cuda"):
        compiled(x)


@pytest.mark.parametrize("make", LAYERS, ids=lambda cls: cls.__name__)
def test_parametrized_modules_turn_and_keep_their_parametrization(make: Any) -> None:
    module = make(3, 4)
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    x = torch.randn(5, 2, 3)
    expected = module(x)[0]

    report = seqkern.swap(module)
    assert [entry.path for entry in report.swapped] == [""]
    assert isinstance(module, SWAPS[make])
    torch.testing.assert_close(module(x)[0], expected)
    module(x)[0].sum().backward()
    assert module.parametrizations.weight_hh_l0.original0.grad is not None

    seqkern.unswap(module)
    assert isinstance(module, make) and not isinstance(module, SWAPS[make])
    torch.testing.assert_close(module(x)[0], expected)

    seqkern.swap(module)
    torch.nn.utils.parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is SWAPS[make]
    torch.testing.assert_close(module(x)[0], expected)


@pytest.mark.parametrize("function", [seqkern.swap, seqkern.unswap])
@pytest.mark.parametrize("wrong", [None, [torch.nn.LSTM(2, 2)], torch.nn.LSTM, {"a": 1}])
def test_wrong_type(function: Any, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"swap: model must be a torch.nn.Module, got \w+"):
        function(wrong)


class TestVerify:
    def test_says_what_it_measured(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = Model()
        report = seqkern.swap(model, verify=torch.randn(5, 3, 4))
        verification = report.verification
        assert verification is not None
        assert verification.backward
        assert 0 <= verification.deviation <= verification.tolerance == 1e-4
        assert verification.speedup > 0
        assert capsys.readouterr().out == f"{verification}\n"
        assert "largest deviation" in str(verification) and "times as fast" in str(verification)
        assert type(model.encoder) is seqkern.nn.LSTM

    def test_leaves_no_trace(self) -> None:
        model = Model()
        model.encoder.weight_ih_l0.grad = gradient = torch.ones(24, 4)
        buffers = {name: (value, value.clone()) for name, value in model.named_buffers()}
        weights = {name: value.clone() for name, value in model.named_parameters()}
        x = torch.randn(5, 3, 4, requires_grad=True)
        state = (torch.get_rng_state(), random.getstate())

        seqkern.swap(model, verify=x)

        assert torch.equal(torch.get_rng_state(), state[0])
        assert random.getstate() == state[1]
        assert x.grad is None
        assert model.encoder.weight_ih_l0.grad is gradient
        assert torch.equal(gradient, torch.ones(24, 4))
        assert all(p.grad is None for p in model.parameters() if p.grad is not gradient)
        for name, value in model.named_buffers():
            assert value is buffers[name][0] and torch.equal(value, buffers[name][1])
        assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
        assert (model.dropout.p, model.encoder.dropout, model.calls) == (0.5, 0.5, 0)
        assert model.training and model.dropout.training

    @pytest.mark.parametrize(
        "example",
        [
            torch.randn(5, 2, 3),
            (torch.randn(5, 2, 3), torch.randn(1, 2, 4)),
            [torch.randn(5, 2, 3), None],
            {"input": torch.randn(5, 2, 3), "hx": torch.randn(1, 2, 4)},
            pack_sequence([torch.randn(5, 3), torch.randn(2, 3)]),
            (pack_sequence([torch.randn(5, 3), torch.randn(2, 3)]), torch.randn(1, 2, 4)),
        ],
        ids=["tensor", "tuple", "list", "dict", "packed", "tuple with packed"],
    )
    def test_kinds_of_inputs(self, example: Any) -> None:
        report = seqkern.swap(torch.nn.GRU(3, 4), verify=example)
        assert report.verification is not None and report.verification.backward

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_the_coarsest_dtype_sets_the_tolerance(self, dtype: torch.dtype) -> None:
        module = torch.nn.LSTM(3, 4, dtype=dtype)
        report = seqkern.swap(module, verify=torch.randn(5, 2, 3, dtype=dtype))
        assert report.verification is not None
        assert report.verification.tolerance == {torch.float64: 1e-9, torch.bfloat16: 5e-2}[dtype]

    def test_nothing_to_differentiate(self) -> None:
        module = torch.nn.LSTM(3, 4).requires_grad_(False)
        report = seqkern.swap(module, verify=torch.randn(5, 2, 3))
        assert report.verification is not None and not report.verification.backward
        # ... but an input that asks for its gradient gets it compared
        module = torch.nn.LSTM(3, 4).requires_grad_(False)
        report = seqkern.swap(module, verify=torch.randn(5, 2, 3, requires_grad=True))
        assert report.verification is not None and report.verification.backward

    def test_infinite_outputs_may_agree(self) -> None:
        class Masked(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rnn = torch.nn.RNN(3, 4)

            def forward(self, x: Tensor) -> Tensor:
                scores = self.rnn(x)[0]
                return scores.masked_fill(torch.arange(4) == 2, float("-inf"))

        report = seqkern.swap(Masked(), verify=torch.randn(5, 2, 3))
        assert report.verification is not None and report.verification.backward

    def test_gradients_are_compared_within_no_grad_too(self) -> None:
        with torch.no_grad():
            report = seqkern.swap(torch.nn.LSTM(3, 4), verify=torch.randn(5, 2, 3))
        assert report.verification is not None and report.verification.backward

    def test_looks_inside_distributed_data_parallel(self) -> None:
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
        try:
            model = torch.nn.parallel.DistributedDataParallel(torch.nn.GRU(3, 4))
            x = torch.randn(5, 2, 3)
            report = seqkern.swap(model, verify=x)
            assert [entry.path for entry in report.swapped] == ["module"]
            model(x)[0].sum().backward()  # the verification left its reducer ready to work
        finally:
            torch.distributed.destroy_process_group()

    def test_nothing_swapped(self, capsys: pytest.CaptureFixture[str]) -> None:
        report = seqkern.swap(torch.nn.Linear(2, 2), verify=torch.randn(1, 2))
        assert report.verification is None
        assert "nothing to verify" in capsys.readouterr().out


@pytest.fixture
def replace_gru(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Lets a test decide what takes the place of torch.nn.GRU."""

    def replace(forward: Any) -> None:
        monkeypatch.setitem(SWAPS, torch.nn.GRU, type("GRU", (torch.nn.RNNBase,), {}))
        SWAPS[torch.nn.GRU].forward = forward  # type: ignore[method-assign]

    yield replace


def right(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    output, h_n, *_ = torch._VF.gru(
        x, x.new_zeros(1, x.shape[1], 4), module._flat_weights, True, 1, 0.0, False, False, False
    )
    return output, h_n


def off(module: Any, x: Tensor) -> Any:
    output, h_n = right(module, x)
    return output * 1.01, h_n


def wrong_gradient(module: Any, x: Tensor) -> Any:
    output, h_n = right(module, x)
    return output + 0.1 * (module.weight_hh_l0.sum() - module.weight_hh_l0.sum().detach()), h_n


def nan(module: Any, x: Tensor) -> Any:
    output, h_n = right(module, x)
    return output, torch.where(torch.arange(4) == 1, float("nan"), h_n)


def other_shape(module: Any, x: Tensor) -> Any:
    output, h_n = right(module, x)
    return output, h_n[0]


def other_dtype(module: Any, x: Tensor) -> Any:
    output, h_n = right(module, x)
    return output, h_n.double()


def fewer(module: Any, x: Tensor) -> Any:
    return (right(module, x)[0],)


def broken(module: Any, x: Tensor) -> Any:
    raise ZeroDivisionError("no such kernel")


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (off, r"output\[0\] deviates by 1\.0e-02, more than the 1e-04 allowed"),
        (wrong_gradient, r"the gradient of 0\.weight_hh_l0 deviates by"),
        (nan, r"output\[1\] deviates by nan"),
        (other_shape, r"output\[1\] was float32\[1, 2, 4\] and became float32\[2, 4\]"),
        (other_dtype, r"output\[1\] was float32\[1, 2, 4\] and became float64\[1, 2, 4\]"),
        (fewer, r"output\[1\] was float32\[1, 2, 4\] and became absent"),
        (broken, "the swapped model raised ZeroDivisionError: no such kernel"),
    ],
)
def test_a_disagreement_undoes_the_swap(replace_gru: Any, forward: Any, message: str) -> None:
    model = torch.nn.Sequential(torch.nn.GRU(3, 4))
    earlier = torch.nn.LSTM(2, 2)
    seqkern.swap(earlier)
    model.add_module("unused", earlier)
    model.forward = lambda x: model[0](x)
    replace_gru(forward)
    with pytest.raises(VerificationError, match=message) as caught:
        seqkern.swap(model, verify=torch.randn(5, 2, 3))
    assert "the swap was undone" in str(caught.value)
    assert type(model[0]) is torch.nn.GRU
    assert type(earlier) is seqkern.nn.LSTM  # swapped before, and none of this verification's doing


def test_a_right_replacement_passes_the_same_machinery(replace_gru: Any) -> None:
    replace_gru(right)
    report = seqkern.swap(torch.nn.GRU(3, 4), verify=torch.randn(5, 2, 3))
    assert report.verification is not None and report.verification.deviation < 1e-6


def test_verification_refuses_what_it_cannot_judge() -> None:
    model = torch.nn.Sequential(torch.nn.LazyLinear(3))
    model.add_module("rnn", torch.nn.GRU(3, 4))
    with pytest.raises(ValueError, match="lazy"):
        seqkern.swap(model, verify=torch.randn(5, 2, 3))
    assert type(model.rnn) is torch.nn.GRU

    module = torch.nn.GRU(3, 4)
    with pytest.raises(ValueError, match=r"output\[0\] of the original model holds NaN"):
        seqkern.swap(module, verify=torch.full((5, 2, 3), float("nan")))
    assert type(module) is torch.nn.GRU

    with pytest.raises(RuntimeError, match="input.size"):  # torch's own message, before any swap
        seqkern.swap(module, verify=torch.randn(5, 2, 7))
    assert type(module) is torch.nn.GRU


def test_packed_output_is_compared() -> None:
    class Packed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.LSTM(3, 4)

        def forward(self, x: PackedSequence) -> tuple[PackedSequence, Any]:
            return self.rnn(x)

    example = pack_sequence([torch.randn(2, 3), torch.randn(5, 3)], enforce_sorted=False)
    report = seqkern.swap(Packed(), verify=example)
    assert report.verification is not None
