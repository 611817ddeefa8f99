"""`swap(verify=...)` reports correctly: of values that do not repeat, of a busy machine, of modules
that are slower, and of attention that no module stands for."""

from __future__ import annotations

import contextlib
import itertools
import random
import time

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import seqkern
from seqkern.core import timing
from seqkern.core.timing import PairTimes, Shortest, shortest
from seqkern.swapping.example_run import Call
from seqkern.swapping.module_timing import Slower, advice, captured_calls, outermost, slower_modules
from seqkern.swapping.repeatability import changing_parametrizations
from seqkern.swapping.snapshot import Snapshot
from seqkern.swapping.verify import Verification, VerificationError


class Noise(nn.Module):
    """Another weight each time it is read."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1 * torch.randn_like(weight)


class OwnGenerator(nn.Module):
    """Draws from a generator that cannot be restored."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1 * torch.randn(weight.shape, generator=self.generator)


class SameValue(nn.Module):
    """The same weight each time, but what is drawn after it depends on how often it was read."""

    def forward(self, weight: Tensor) -> Tensor:
        torch.rand(())
        return weight * 1.0


class ThirdTime(nn.Module):
    """Changes its value at the third reading only."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("readings", torch.zeros(()))

    def forward(self, weight: Tensor) -> Tensor:
        self.readings += 1
        return weight * (1.0 if self.readings < 3 else 2.0)


class TestParametrizationsThatDoNotRepeat:
    @pytest.mark.parametrize("kind", [Noise, OwnGenerator, SameValue, ThirdTime])
    def test_every_kind_is_held(self, kind):
        """Beside a model that draws random numbers of its own, which have to be the same, too."""
        rnn = nn.LSTM(3, 4)
        parametrize.register_parametrization(rnn, "weight_hh_l0", kind())
        model = nn.Sequential(rnn)
        model.forward = lambda x: rnn(x)[0] * torch.rand(1)  # type: ignore[method-assign]
        verification = seqkern.swap(model, verify=torch.randn(5, 2, 3)).verification
        assert verification is not None and verification.deviation < 1e-5
        assert verification.held == ("0.weight_hh_l0",)
        assert "forward" not in vars(rnn.parametrizations.weight_hh_l0)
        assert not torch.equal(rnn(torch.ones(5, 2, 3))[0], torch.zeros(5, 2, 4))

    def test_what_repeats_is_not_held_and_its_source_is_compared(self):
        rnn = nn.LSTM(3, 4)
        parametrizations.weight_norm(rnn, "weight_hh_l0")
        assert changing_parametrizations(rnn) == {}

    def test_compiled(self):
        rnn = nn.GRU(3, 4)
        parametrizations.spectral_norm(rnn, "weight_hh_l0")
        compiled = torch.compile(nn.Sequential(rnn), backend="eager")
        verification = seqkern.swap(compiled, verify=torch.randn(5, 2, 3)).verification
        assert verification is not None and verification.deviation < 1e-5

    def test_an_original_that_does_not_repeat_is_named(self):
        generator = torch.Generator().manual_seed(0)
        model = nn.Sequential(nn.GRU(3, 4))
        model.forward = lambda x: (
            model[0](x)[0]
            * torch.rand(  # type: ignore[method-assign]
                1, generator=generator
            )
        )
        with pytest.raises(VerificationError, match="the original model does not repeat"):
            seqkern.swap(model, verify=torch.randn(5, 2, 3))
        assert type(model[0]) is nn.GRU

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN, nn.LSTMCell, nn.GRUCell])
    def test_spectral_norm(self, cls, training):
        module = cls(3, 4)
        name = "weight_hh" if isinstance(module, nn.RNNCellBase) else "weight_hh_l0"
        parametrizations.spectral_norm(module, name)
        for buffer in module.buffers():  # far from where the iteration ends
            buffer.copy_(nn.functional.normalize(torch.randn_like(buffer), dim=0))
        module.train(training)
        buffers = {n: b.clone() for n, b in module.named_buffers()}
        x = torch.randn(5, 3) if isinstance(module, nn.RNNCellBase) else torch.randn(5, 2, 3)
        verification = seqkern.swap(module, verify=x).verification
        assert verification is not None and verification.deviation < 1e-5
        assert verification.held == ((name,) if training else ())
        assert ("does not repeat" in str(verification)) == training
        for n, buffer in module.named_buffers():
            assert torch.equal(buffer, buffers[n])

    @pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
    def test_random_numbers(self, cls):
        model = nn.ModuleDict({"rnn": cls(3, 4, num_layers=2)})
        model.forward = lambda x: model["rnn"](x)  # type: ignore[method-assign]
        for name in ("weight_hh_l0", "weight_ih_l1", "bias_ih_l0"):
            parametrize.register_parametrization(model["rnn"], name, Noise())
        verification = seqkern.swap(model, verify=torch.randn(5, 2, 3)).verification
        assert verification is not None and verification.deviation < 1e-5
        assert set(verification.held) == {
            f"rnn.{name}" for name in ("weight_hh_l0", "weight_ih_l1", "bias_ih_l0")
        }

    def test_multihead_attention(self):
        module = nn.MultiheadAttention(8, 2, batch_first=True)
        parametrizations.spectral_norm(module, "in_proj_weight")
        parametrizations.spectral_norm(module.out_proj)
        x = torch.randn(2, 5, 8)
        verification = seqkern.swap(module, verify=(x, x, x)).verification
        assert verification is not None and verification.deviation < 1e-4

    def test_the_old_spectral_norm_computes_once_anyway(self):
        module = torch.nn.utils.spectral_norm(nn.GRU(3, 4), "weight_hh_l0")
        verification = seqkern.swap(module, verify=torch.randn(5, 2, 3)).verification
        assert verification is not None and verification.held == ()

    def test_a_kernel_that_is_wrong_is_still_found_out(self, monkeypatch):
        module = nn.GRU(3, 4)
        parametrizations.spectral_norm(module, "weight_hh_l0")
        right = seqkern.nn.GRU.forward
        monkeypatch.setattr(
            seqkern.nn.GRU, "forward", lambda self, *args: [1.1 * y for y in right(self, *args)]
        )
        with pytest.raises(VerificationError, match=r"undone: output\[0\] deviates by 1.0e-01"):
            seqkern.swap(module, verify=torch.randn(5, 2, 3))


def measured(times: Shortest, slower: tuple[Slower, ...] = ()) -> Verification:
    return Verification(1e-7, "output", 1e-4, times, True, slower)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[0].running_mean.add_(1),
        lambda m: setattr(m[0], "eps", 1.0),
        lambda m: setattr(m[0], "running_mean", torch.zeros(2)),
        lambda m: torch.rand(1),
        lambda m: random.random(),
        lambda m: numpy.random.rand(),
    ],
    ids=["buffer", "attribute", "other buffer", "torch", "random", "numpy"],
)
def test_a_snapshot_knows_a_change(change):
    model = nn.Sequential(nn.BatchNorm1d(2))
    snapshot = Snapshot(model)
    assert snapshot.unchanged()
    change(model)
    assert not snapshot.unchanged()
    snapshot.restore()
    assert snapshot.unchanged()


class TestTimes:
    def test_less_than_a_core_is_a_busy_machine(self):
        times = shortest(PairTimes([4.0] * 3, [1.0] * 3), PairTimes([1.0], [1.0]))
        assert times.busy and times.ratio == 1.0

    def test_an_accelerator_works_while_the_processor_waits(self):
        times = shortest(PairTimes([4.0], [1.0]), PairTimes([0.1], [0.1]), accelerator=True)
        assert not times.busy and times.ratio == 0.25

    def test_quiet(self):
        times = shortest(PairTimes([2.0, 2.1, 2.2], [1.0, 1.1, 1.2]), PairTimes([4.0], [1.0]))
        assert not times.busy and times.ratio == 0.5
        text = str(measured(times))
        assert "2000.00 ms before, 1000.00 ms after, 2.00 times as fast" in text
        assert "\n" not in text

    def test_busy(self):
        """The rounds took unequally long: the processor's time counts, and a line says so."""
        times = shortest(PairTimes([2.0, 5.0, 6.0], [3.0, 5.0, 9.0]), PairTimes([4.0, 6], [2.0, 3]))
        assert times.busy and times.ratio == 0.5
        text = str(measured(times))
        assert "2.00 times as fast by processor time" in text
        assert "the machine is busy" in text and "4000.00 ms before and 2000.00 ms after" in text

    def test_one_slow_contestant_is_no_busy_machine(self):
        times = shortest(PairTimes([2.0, 5.0, 6.0], [3.0, 3.1, 3.2]), PairTimes([2.0], [3.0]))
        assert not times.busy

    def test_rounds_in_turn(self, monkeypatch):
        ran = []
        monkeypatch.setattr(timing, "timed", lambda run: run() or 1.0)
        monkeypatch.setattr(time, "process_time", itertools.count().__next__)
        monkeypatch.setattr(timing, "_has_accelerator", lambda: False)
        times = timing.interleave_cpu(lambda: ran.append("a"), lambda: ran.append("b"), seconds=8.0)
        assert "".join(ran) == "baa" + "abbaabba"
        assert (times.first, times.second, times.busy) == (1.0, 1.0, False)


class TestSlowerModules:
    def test_the_report_says_which_by_how_much_and_what_would_help(self):
        slower = Slower("decoder.attention", "MultiheadAttention", 1.25, "need_weights=False ...")
        lines = str(measured(Shortest(1, 1, 1, 1, False), (slower,))).splitlines()
        assert lines[1] == (
            "slower: decoder.attention (MultiheadAttention) takes 1.25 times as long as before; "
            "need_weights=False ..."
        )

    def test_each_is_timed_by_itself(self):
        modules = {"a": nn.GRU(3, 4), "b": nn.LSTM(3, 4)}
        calls = {name: Call((torch.randn(5, 2, 3),), {}) for name in modules}
        fake = iter(
            [
                Shortest(1, 1.7, 1, 1, False),
                Shortest(1, 1.5, 1, 1, False),
                Shortest(1, 1.5, 1, 0.9, True),
            ]
        )
        found = slower_modules(
            modules, calls, backward=True,
            prepare_before=lambda: None, prepare_after=lambda: None,
            interleaved=lambda *_, **__: next(fake),
        )  # fmt: skip
        assert [(s.path, s.kind, s.ratio) for s in found] == [("a", "GRU", 1.5)]

    def test_a_bad_moment_is_no_slow_module(self):
        fake = iter([Shortest(1, 9, 1, 9, False), Shortest(1, 1, 1, 1, False)])
        assert not slower_modules(
            {"a": nn.GRU(3, 4)}, {"a": Call((torch.randn(5, 2, 3),), {})}, backward=True,
            prepare_before=lambda: None, prepare_after=lambda: None,
            interleaved=lambda *_, **__: next(fake),
        )  # fmt: skip

    def test_arguments_hold_no_graph_but_ask_for_their_gradients(self):
        first, second = nn.Linear(3, 3), nn.GRU(3, 4)
        calls = captured_calls({"": second}, lambda: second(first(torch.randn(5, 2, 3))))
        (x,) = calls[""].args
        assert x.requires_grad and x.grad_fn is None

    def test_arguments_are_those_of_the_model(self):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        x = torch.randn(2, 5, 8)
        calls = captured_calls({"self_attn": layer.self_attn}, lambda: layer(x))
        assert calls["self_attn"].kwargs["need_weights"] is False
        assert not layer.self_attn._forward_pre_hooks

    def test_outermost(self):
        assert outermost(["a", "a.b", "ab", "c.d"]) == ["a", "ab", "c.d"]
        assert outermost(["", "a"]) == [""]

    @pytest.mark.parametrize(
        ("module", "call", "backward", "says"),
        [
            (nn.MultiheadAttention(8, 2), Call((1, 2, 3), {}), True, "need_weights=False"),
            (nn.MultiheadAttention(8, 2), Call((1, 2, 3, None, True), {}), True, "need_weights"),
            (nn.MultiheadAttention(8, 2), Call((1,), {"need_weights": False}), True, "use_backend"),
            (nn.LSTM(3, 4).eval(), Call((), {}), True, "prepack_"),
            (nn.GRUCell(3, 4), Call((), {}), False, "prepack_"),
            (nn.LSTM(3, 4), Call((), {}), True, "use_backend"),
        ],
    )
    def test_advice(self, module, call, backward, says):
        assert says in advice(module, call, backward)


class Direct(nn.Module):
    """Calls attention by itself, and through one of torch.nn's modules if it has one."""

    def __init__(self, module: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = module

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        return x if self.inner is None else self.inner(x, x, x, need_weights=False)[0]


class TestDirectCalls:
    def test_a_model_without_modules_to_swap(self, capsys):
        model = nn.Sequential(Direct(), Direct())
        model[0].register_buffer("seen", torch.zeros(()))
        report = seqkern.swap(model, verify=torch.randn(2, 5, 8))
        assert report.attention_calls == {"0": 1, "1": 1}
        for text in (capsys.readouterr().out, str(report)):
            assert "2 calls of torch.nn.functional.scaled_dot_product_attention" in text
            assert "(in 0, 1) are served by PyTorch's own operator" in text
        assert not model[0]._forward_pre_hooks and not model[0]._forward_hooks

    def test_beside_modules_that_are_swapped(self, capsys):
        model = Direct(nn.MultiheadAttention(8, 2, batch_first=True))
        report = seqkern.swap(model, verify=torch.randn(2, 5, 8))
        assert report.attention_calls == {"": 1}  # MultiheadAttention's own is seqkern's now
        assert "1 calls of torch.nn" in capsys.readouterr().out
        assert len(report.swapped) == 1 and "(in the model)" in str(report)

    def test_compiled(self):
        model = torch.compile(nn.Sequential(Direct(), Direct()), backend="eager")
        report = seqkern.swap(model, verify=torch.randn(2, 5, 8))
        assert report.attention_calls == {"_orig_mod.0": 1, "_orig_mod.1": 1}

    def test_after_an_error_that_the_model_catches(self):
        model = nn.Sequential(nn.Linear(3, 3), Direct())

        def forward(x: Tensor) -> Tensor:
            with contextlib.suppress(RuntimeError):
                model[0](x)
            return nn.functional.scaled_dot_product_attention(x, x, x) + model[1](x)

        model.forward = forward  # type: ignore[method-assign]
        report = seqkern.swap(model, verify=torch.randn(2, 5, 8))
        assert report.attention_calls == {"": 1, "1": 1}

    @pytest.mark.parametrize("extras", [{}, {"return_lse": True}])
    def test_calls_of_seqkern_do_not_count(self, extras):
        model = nn.Identity()
        ours = seqkern.nn.functional.scaled_dot_product_attention
        model.forward = lambda x: ours(x, x, x, **extras)  # type: ignore[method-assign]
        assert seqkern.swap(model, verify=torch.randn(2, 5, 8)).attention_calls == {}

    def test_lazy_parameters_are_not_initialised(self):
        model = nn.Sequential(nn.LazyLinear(3))
        with pytest.raises(ValueError, match="lazy"):
            seqkern.swap(model, verify=torch.randn(2, 5))
        assert nn.parameter.is_lazy(model[0].weight)

    def test_unswap_has_nothing_to_verify(self):
        assert "verify" not in str(seqkern.unswap(nn.Linear(2, 2)))

    def test_none(self):
        report = seqkern.swap(nn.Sequential(nn.Linear(2, 2)), verify=torch.randn(1, 2))
        assert report.attention_calls == {} and "scaled_dot" not in str(report)

    def test_without_inputs_it_says_how_to_learn(self):
        assert "swap(model, verify=inputs) says" in str(seqkern.swap(nn.Linear(2, 2)))
