"""`swap(verify=...)` tells the truth: of values that do not repeat, of a busy machine, of modules
that are slower, and of attention that no module stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import seqkern
from seqkern import timing
from seqkern.example_run import Call
from seqkern.module_timing import Slower, advice, captured_calls, outermost, slower_modules
from seqkern.timing import PairTimes, Shortest, shortest
from seqkern.verify import Verification, VerificationError


class Noise(nn.Module):
    """Another weight each time it is read."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 0.1 * torch.randn_like(weight)


class TestParametrizationsThatDoNotRepeat:
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
        assert verification is not None and verification.deviation <= 1e-4
        assert verification.held == ((name,) if training else ())
        assert ("each time it is read" in str(verification)) == training
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
            seqkern.nn.GRU, "forward", lambda self, *args: (right(self, *args)[0] * 1.1, None)
        )
        with pytest.raises(VerificationError, match="does not repeat its value"):
            seqkern.swap(module, verify=torch.randn(5, 2, 3))


def measured(times: Shortest, slower: tuple[Slower, ...] = ()) -> Verification:
    return Verification(1e-7, "output", 1e-4, times, True, slower)


class TestTimes:
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
        times = shortest(PairTimes([2.0, 5.0, 6.0], [3.0, 3.1, 3.2]), PairTimes([1.0], [1.0]))
        assert not times.busy

    def test_rounds_in_turn(self, monkeypatch):
        ran = []
        monkeypatch.setattr(timing, "timed", lambda run: run() or 1.0)
        times = timing.interleave_cpu(lambda: ran.append("a"), lambda: ran.append("b"), seconds=8.0)
        assert "".join(ran) == "ba" + "abbaabba"
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
        fake = iter([Shortest(1, 1.5, 1, 1, False), Shortest(1, 1.5, 1, 0.9, True)])
        found = slower_modules(
            modules, calls, backward=True, hold=False,
            prepare_before=lambda: None, prepare_after=lambda: None,
            interleaved=lambda *_, **__: next(fake),
        )  # fmt: skip
        assert [(s.path, s.kind, s.ratio) for s in found] == [("a", "GRU", 1.5)]

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
            (nn.LSTM(3, 4).eval(), Call((), {}), True, "freeze_"),
            (nn.GRUCell(3, 4), Call((), {}), False, "freeze_"),
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

    def test_none(self):
        report = seqkern.swap(nn.Sequential(nn.Linear(2, 2)), verify=torch.randn(1, 2))
        assert report.attention_calls == {} and "scaled_dot" not in str(report)

    def test_without_inputs_it_says_how_to_learn(self):
        assert "swap(model, verify=inputs) says" in str(seqkern.swap(nn.Linear(2, 2)))
