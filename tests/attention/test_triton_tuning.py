"""Which calls of Triton's attention are tuned, with which tiles, and that any gives the results."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
import torch

import seqkern
from seqkern.core.triton import support, tuning

if support.missing:
    pytest.skip(support.missing, allow_module_level=True)

from seqkern.attention import reference
from seqkern.attention.triton import tuning as attention_tuning
from seqkern.attention.triton.settings import _ALTERNATIVES, Tiles, alternatives, tiles_of
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from tests.attention.triton_calls import MOST_ALTERNATIVES, backwards, calls, extras, forwards
from tests.triton_device import DEVICE
from tests.triton_launches import recorded
from tests.triton_resources import ARCHITECTURES

KERNELS = {
    "forward": "attention_forward_kernel",
    "forward by descriptors": "attention_forward_kernel",
    "queries": "attention_backward_queries_kernel",
    "keys": "attention_backward_keys_kernel",
}
CASES = [
    (kernel, width, architecture)
    for kernel, widths in _ALTERNATIVES.items()
    for width in widths
    for architecture in ARCHITECTURES
]


@pytest.mark.parametrize("kernel, width, architecture", CASES)
def test_every_alternative_is_in_the_record(kernel, width, architecture):
    """As what one of the calls launches, of which test_triton_resources says that it fits."""
    capability = divmod(architecture, 10)
    offered = alternatives(kernel, capability, width)
    assert len(offered) <= MOST_ALTERNATIVES
    which = "forward" if kernel.startswith("forward") else "backward"
    launched = {"plain": set(), "causal": set()}
    for what, number in itertools.product(launched, range(1, 1 + MOST_ALTERNATIVES)):
        with recorded(architecture) as launches:
            calls()[f"{which} {width} bfloat16 {what}, alternative {number}"]()
        for launch in launches:
            if launch.name == KERNELS[kernel]:
                o = launch.options
                launched[what].add((o["QUERIES"], o["KEYS"], o["num_warps"], o["num_stages"]))
    fixed = tiles_of(kernel, capability, width, torch.bfloat16)
    assert fixed not in offered and len(set(offered)) == len(offered)
    assert all(set(offered) <= found for found in launched.values())


def asked(call) -> list[tuple[str, tuple[Tiles, ...], bool]]:
    """What a call would have tuned on a GPU: names, candidates, whether it is large enough."""
    found = []

    def choose(name, candidates, launch, device, *, large):
        found.append((name, candidates, large))
        return candidates[0]

    with recorded(90), tuning.tune(), mock.patch.object(tuning, "choose", choose):
        call()
    return found


def test_a_choice_is_one_of_layers_and_not_of_batches_and_lengths():
    def names(*arguments, **options):
        return [name for name, _, _ in asked(lambda: forwards(*arguments, **options))]

    (name,) = names(64, torch.bfloat16)
    assert name == "attention forward by descriptors, width 64, bfloat16"
    assert names(64, torch.bfloat16, 70) == names(64, torch.bfloat16, 1000) == [name]
    others = [
        names(128, torch.bfloat16),
        names(64, torch.float16),
        names(64, torch.bfloat16, is_causal=True),
    ]
    assert others == [
        ["attention forward by descriptors, width 128, bfloat16"],
        ["attention forward by descriptors, width 64, float16"],
        [name + ", causal"],
    ]
    of_backward = [name for name, _, _ in asked(lambda: backwards(64, torch.bfloat16))]
    assert of_backward == [f"attention {k}, width 64, bfloat16" for k in ("queries", "keys")]


def test_the_fixed_tiles_come_first_and_few_follow():
    for call in (forwards, backwards):
        for width in (64, 128, 256):
            for name, candidates, _ in asked(lambda: call(width, torch.bfloat16)):  # noqa: B023
                kernel = name.removeprefix("attention ").partition(",")[0]
                assert candidates[0] == tiles_of(kernel, (9, 0), width, torch.bfloat16)
                assert len(candidates) <= 1 + MOST_ALTERNATIVES


def test_what_is_large_enough():
    assert asked(lambda: forwards(64, torch.bfloat16, 1024))[0][2] is False  # 2 * 4 * 2**20
    with mock.patch.object(attention_tuning, "_LARGE", 2**23):
        assert asked(lambda: forwards(64, torch.bfloat16, 1024))[0][2] is True
        assert asked(lambda: forwards(64, torch.bfloat16, 1023))[0][2] is False


@pytest.mark.parametrize(
    "option", [None, *sorted(extras(torch.bfloat16, 8, 8).keys() - {"is_causal"})]
)
def test_what_is_not_plain_keeps_the_fixed_tiles(option):
    everything = extras(torch.bfloat16, 1024, 1024)
    if option is None:
        options, width, dtype = {}, 64, torch.float32
    else:
        options, width, dtype = {option: everything[option]}, 64, torch.bfloat16
        if option in ("seed", "dropout_p"):
            options = {name: everything[name] for name in ("seed", "dropout_p")}
    assert not asked(lambda: forwards(width, dtype, **options))
    if option != "sinks":  # of which the backward kernels know nothing
        assert not asked(lambda: backwards(width, dtype, **options))


def test_widths_that_do_not_fill_their_row_keep_the_fixed_tiles():
    assert not asked(lambda: forwards(40, torch.bfloat16))
    assert not asked(lambda: forwards(33, torch.bfloat16))


def test_nothing_is_asked_where_tuning_is_off():
    with mock.patch.object(tuning, "choose", side_effect=AssertionError), recorded(90):
        forwards(64, torch.bfloat16)


def test_explain_says_whether_tiles_are_tuned(monkeypatch):
    from seqkern.attention import choice
    from seqkern.core import backends

    monkeypatch.setattr(choice, "refusals", lambda *_: dict.fromkeys(backends.BACKENDS, ""))
    monkeypatch.setattr(choice, "_automatic", lambda *_: "triton")
    q = torch.zeros(1, 1, 4, 64)
    said = choice.explanation("sdpa", q, (q, q)).reasons["triton"]
    assert "fixed tile sizes (tuning is off)" in said
    with tuning.tune():
        said = choice.explanation("sdpa", q, (q, q)).reasons["triton"]
        assert "fixed tile sizes (only a CUDA GPU is tuned for, not cpu)" in said
        monkeypatch.setattr(tuning, "refusal", lambda device: "")
        said = choice.explanation("sdpa", q, (q, q)).reasons["triton"]
        assert "tile sizes tuned where" in said


@pytest.mark.triton
@pytest.mark.skipif(not support.INTERPRETED, reason="pretends to time the interpreter")
@pytest.mark.parametrize("best", [0, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_whichever_is_the_fastest_gives_the_results(monkeypatch, tmp_path, best, causal):
    other = Tiles(16, 16, 4, 1)
    launched: list[tuple[int, int]] = []

    def milliseconds(launches):
        for launch in launches:
            launch()
        return [float(place != best) for place in range(len(launches))]

    constants = Tiles.options.fget

    def options(tiles):
        launched.append(tiles[:2])
        return constants(tiles)

    monkeypatch.setenv(tuning.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(Tiles, "options", property(options))
    monkeypatch.setattr(attention_tuning, "alternatives", lambda *_: (other,))
    monkeypatch.setattr(attention_tuning, "_LARGE", 1)
    monkeypatch.setattr(tuning, "milliseconds", milliseconds)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(tuning, "refusal", lambda device: "")
    monkeypatch.setattr(tuning, "gpu", lambda device: "the interpreter")
    monkeypatch.setattr(tuning, "_known", {})
    monkeypatch.setattr(tuning, "_absent", set())
    # More queries than sum their rows anew, in a kernel that nobody tunes.
    q, k, v = (torch.randn(1, 2, n, 64, device=DEVICE).bfloat16() for n in (66, 50, 50))
    leaves = [t.requires_grad_() for t in (q, k, v)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    weights = torch.randn(1, 2, 66, 64, device=DEVICE)
    expected, _ = reference.attention(*exact, is_causal=causal)
    right = [expected, *torch.autograd.grad(expected, exact, weights.double())]
    with seqkern.use_backend("triton"), tuning.tune():
        for _ in range(2):
            launched.clear()
            found = sdpa(q, k, v, is_causal=causal)
            grads = torch.autograd.grad(found, leaves, weights.bfloat16())
            for mine, exact_result in zip([found, *grads], right, strict=True):
                error = (mine.double() - exact_result).norm() / exact_result.norm()
                assert error < 1e-2
            (chosen,) = {launched[-1]}
            assert chosen == ((32, 32), (16, 16))[best]
    assert launched == [chosen] * 3  # forward, queries, keys; nothing is timed again
    assert len(list((tmp_path / "tuning").iterdir())) == 3
