"""Which way through time a call takes, what is compiled for it, and who may run it: no kernel runs
here."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import seqkern
from seqkern.core.triton import support
from seqkern.recurrent.casting import autocast_dtype
from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU

if support.missing:
    pytest.skip(support.missing, allow_module_level=True)

from seqkern.recurrent.triton import loops
from seqkern.recurrent.triton.layer import Layer, Needs, backward, forward
from seqkern.recurrent.triton.loops import Call
from seqkern.recurrent.triton.steps import Steps
from tests.triton_launches import Launch, recorded


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def layer_of(time: int, batch: int, hidden: int, width: int = 0, **options) -> Layer:
    kind = options.get("kind", LSTM)
    dtype = options.get("dtype", torch.bfloat16)
    sizes = options.get("sizes")
    lead = (int(sizes.sum()),) if sizes is not None else (time, batch)
    rows = kind.gates * hidden
    w_hr = meta(width, hidden, dtype=dtype) if width else None
    width = width or hidden
    h0 = None if sizes is None else meta(int(sizes[0]), width, dtype=dtype)
    return Layer(
        kind, meta(*lead, 8, dtype=dtype), h0, None, meta(rows, 8, dtype=dtype),
        meta(rows, width, dtype=dtype), w_hr, sizes, False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def sm_count(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many there are; one by itself, so that no groups of programs fit."""

    def are(count: int) -> None:
        monkeypatch.setattr(loops, "processors", lambda device: count)

    are(1)
    return are


def launches(layer: Layer) -> list[Launch]:
    with recorded(90) as found:
        f = forward(layer, None, None, True)
        saved = f.gates if layer.kind.gates > 1 else None, f.cells if layer.kind is LSTM else None
        backward(layer, None, None, None, f.output, *saved, f.cell_output, Needs(*[True] * 7))
    return found


@pytest.mark.parametrize(
    "hidden, width, dtype, expected",
    [
        (1, 0, torch.bfloat16, "resident"),
        (128, 0, torch.float16, "resident"),
        (129, 0, torch.float16, "streamed"),
        (64, 0, torch.float32, "resident"),
        (65, 0, torch.float32, "streamed"),
        (128, 127, torch.bfloat16, "resident"),
        (362, 0, torch.bfloat16, "streamed"),  # 4 * 362^2 * 2 bytes are just below 1 MiB
        (363, 0, torch.bfloat16, "steps"),
        (1000, 100, torch.bfloat16, "streamed"),
        (257, 0, torch.float32, "steps"),
    ],
)
def test_the_way_through_time(hidden, width, dtype, expected):
    layer = layer_of(4, 2, hidden, width, dtype=dtype)
    output = meta(4, 2, width or hidden, dtype=dtype)
    assert loops.preferred(layer.call(output)) == expected
    names = {launch.name for launch in launches(layer)}
    projected = "backward_projected" if width else "backward_step"
    wanted = {"steps": ["forward_step", projected]}
    assert set(wanted.get(expected, [f"forward_{expected}", f"backward_{expected}"])) <= names


@pytest.mark.parametrize(
    "kind, batch, hidden, width, dtype, count, expected",
    [
        (LSTM, 16, 128, 0, torch.bfloat16, 132, "resident"),
        (LSTM, 16, 129, 0, torch.bfloat16, 132, (16, 9, 1)),
        (LSTM, 1, 256, 0, torch.bfloat16, 16, (16, 16, 1)),
        (LSTM, 1, 256, 0, torch.bfloat16, 15, (32, 8, 1)),
        (LSTM, 1, 256, 0, torch.bfloat16, 7, "streamed"),
        (LSTM, 128, 256, 0, torch.bfloat16, 132, (16, 16, 8)),
        (LSTM, 128, 256, 0, torch.bfloat16, 108, (32, 8, 8)),
        (LSTM, 272, 256, 0, torch.bfloat16, 132, "streamed"),
        (LSTM, 17, 512, 0, torch.float16, 132, (16, 32, 2)),
        (LSTM, 65, 512, 0, torch.float16, 132, (32, 16, 5)),
        (LSTM, 32, 1024, 0, torch.bfloat16, 132, (16, 64, 2)),
        (LSTM, 33, 1024, 0, torch.bfloat16, 132, "steps"),  # 32 units do not fit
        (LSTM, 1, 1000, 0, torch.bfloat16, 132, "steps"),  # no multiple of 16
        (LSTM, 1, 1040, 0, torch.bfloat16, 132, "steps"),
        (LSTM, 1, 512, 256, torch.bfloat16, 132, (16, 32, 1)),
        (LSTM, 1, 1024, 512, torch.bfloat16, 132, "steps"),  # nor do both weights
        (LSTM, 16, 65, 0, torch.float32, 132, (16, 5, 1)),
        (LSTM, 16, 127, 0, torch.float32, 132, (16, 8, 1)),
        (LSTM, 16, 129, 0, torch.float32, 132, "streamed"),  # no multiple of 16
        (LSTM, 16, 256, 0, torch.float32, 132, (16, 16, 1)),
        (LSTM, 16, 272, 0, torch.float32, 132, "steps"),
        (GRU, 16, 1024, 0, torch.bfloat16, 132, (16, 64, 1)),
        (RNN_RELU, 48, 1024, 0, torch.bfloat16, 132, (32, 32, 3)),
    ],
)
def test_groups_of_programs(sm_count, kind, batch, hidden, width, dtype, count, expected):
    """expected: another way, or units a program, programs a group, and groups."""
    sm_count(count)
    layer = layer_of(4, batch, hidden, width, kind=kind, dtype=dtype)
    if isinstance(expected, str):
        output = meta(4, batch, width or hidden, dtype=dtype)
        assert loops.preferred(layer.call(output)) == expected
        return
    units, members, groups = expected
    found = launches(layer)
    assert [x.name for x in found] == ["forward_grouped", "backward_grouped"]
    for launch in found:
        assert launch.grid == (members, groups)
        assert launch.options["BLOCK_U"] == units
        assert launch.options["launch_cooperative_grid"] is True
        (arrived,) = [t for t in launch.arguments if getattr(t, "dtype", None) == torch.int64]
        assert arrived.numel() == 16 * groups  # a cache line each


def test_groups_take_no_more_shared_memory_than_there_is(sm_count, monkeypatch):
    sm_count(132)
    monkeypatch.setattr(loops, "shared_bytes", lambda device: 99 << 10)  # sm_89
    ways = {}
    for hidden in (512, 1024):
        layer = layer_of(4, 2, hidden)
        ways[hidden] = loops.preferred(layer.call(meta(4, 2, hidden)))
    assert ways == {512: "grouped", 1024: "steps"}


def test_a_group_is_counted_anew_in_each_launch(sm_count):
    sm_count(132)
    layer = layer_of(4, 2, 256)
    counters = [
        next(t for t in launch.arguments if getattr(t, "dtype", None) == torch.int64)
        for launch in launches(layer) + launches(layer)
    ]
    assert len({id(counter) for counter in counters}) == 4
    layer.h0 = torch.empty(2, 256)
    call = Call("lstm", layer.steps, layer.h0, layer.w_hh, None, torch.empty(8, 256))
    assert not loops.nobody_arrived(call).any()


@pytest.mark.parametrize("allowed, precision", [("ieee", "tf32x3"), ("tf32", "tf32")])
def test_float32_is_one_product_in_a_group_or_three(sm_count, allowed, precision):
    sm_count(132)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = allowed
    try:
        found = launches(layer_of(4, 2, 128, dtype=torch.float32))
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert {launch.options["PRECISION"] for launch in found} == {precision}


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=lambda kind: kind.name)
def test_a_group_meets_as_a_gpu_demands(sm_count, kind):
    """What the interpreter does not see: that of all threads of a program, not of one only, the
    group gets what they wrote, and that they read it afterwards, past their own cache."""
    sm_count(132)
    for launch in launches(layer_of(0, 0, 256, kind=kind, sizes=torch.tensor([2, 2, 1]))):
        code = launch.compile(90).asm["ptx"]
        words = re.findall(
            r"bar\.sync|st\.global|ld\.global\.cg|(?:atom|red)[.\w]*\.release[.\w]*"
            r"|(?:ld|atom)[.\w]*acquire[.\w]*",
            code,
        )
        (given,) = [i for i, word in enumerate(words) if "release" in word]
        (taken,) = [i for i, word in enumerate(words) if "acquire" in word]
        assert "gpu" in words[given] and "gpu" in words[taken] and given < taken
        assert words[given - 1] == "bar.sync" and "st.global" in words[:given]
        assert words[taken + 1] == "bar.sync"
        first_read = words.index("ld.global.cg")
        assert first_read < given, "read before the loop comes around"
        assert "ld.global.cg" not in words[given:taken]


def test_one_step_takes_the_step_kernel():
    assert {x.name for x in launches(layer_of(1, 2, 16))} == {"forward_step", "backward_step"}


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=lambda kind: kind.name)
@pytest.mark.parametrize("hidden, count", [(32, 1), (200, 1), (600, 1), (200, 2**20)])
def test_no_batch_or_time_compiles_anew(sm_count, kind, hidden, count):
    sm_count(count)
    keys = set()
    for time, batch in ((2, 1), (3, 2), (4, 16), (7, 17), (16, 32), (2**20, 2**12)):
        if time > 1000 and hidden == 600:
            continue  # launches each step
        keys.add(
            tuple(sorted({x.key(90) for x in launches(layer_of(time, batch, hidden, kind=kind))}))
        )
    assert len(keys) == 1
    ragged = {
        tuple(sorted({x.key(90) for x in launches(layer_of(0, 0, hidden, kind=kind, sizes=sizes))}))
        for sizes in (torch.tensor([1, 1]), torch.tensor([17, 16, 5, 1, 1]), torch.full((16,), 16))
    }
    assert len(ragged) == 1


def test_many_rows_take_another_tile_of_the_step_kernel():
    few, many = (launches(layer_of(2, batch, 600)) for batch in (32, 33))
    assert {x.options["BLOCK_B"] for x in few} == {16}
    assert {x.options["BLOCK_B"] for x in many} == {64}


@pytest.mark.parametrize("reverse", [False, True])
def test_steps(reverse):
    steps = Steps(torch.empty(8, 1), torch.tensor([4, 3, 1]), reverse)
    if reverse:
        assert [tuple(s) for s in steps] == [
            (7, 0, 4, 1, 0, 3), (4, 7, 0, 3, 1, 4), (0, 4, 0, 4, 3, 0)
        ]  # fmt: skip
    else:
        assert [tuple(s) for s in steps] == [
            (0, 0, 4, 4, 0, 3), (4, 0, 7, 3, 4, 1), (7, 4, 0, 1, 3, 0)
        ]  # fmt: skip
    rows = torch.arange(8.0).view(8, 1)
    starts, ends = [0, 1, 2, 3], [7, 5, 6, 3]
    assert steps.first_rows(rows).flatten().tolist() == (ends if reverse else starts)
    assert steps.last_rows(rows).flatten().tolist() == (starts if reverse else ends)
    h0 = torch.tensor([[-1.0], [-2.0], [-3.0], [-4.0]])
    before = steps.states_before(rows, h0).flatten().tolist()
    forwards = [-1, -2, -3, -4, 0, 1, 2, 4]
    backwards = [4, 5, 6, -4, 7, -2, -3, -1]
    assert before == (backwards if reverse else forwards)
    assert steps.on_device(torch.device("cpu")).tolist() == [
        [0, *steps.alive, 0], [0, *steps.first, 0]
    ]  # fmt: skip


def test_a_gpu_keeps_pytorchs_operator_until_ours_is_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with FakeTensorMode():
        x = torch.empty(2, 4, device="cuda")
        x64 = torch.empty(2, 4, device="cuda", dtype=torch.float64)
        explanation = seqkern.explain("lstm_cell", x)
        assert explanation.backend == "torch"
        reason = explanation.reasons["triton"]
        assert reason == (
            "could, but 'torch' is preferred: its kernels have not been measured on a GPU yet"
        )
        with seqkern.use_backend("triton"):
            assert seqkern.explain("lstm_cell", x).backend == "triton"
            assert "float64" in seqkern.explain("lstm_cell", x64).reasons["triton"]


def test_a_cpu_never_takes_them_by_itself(monkeypatch):
    x = torch.randn(2, 4)
    assert "run on a CUDA GPU" in seqkern.explain("lstm_cell", x).reasons["triton"]
    monkeypatch.setattr(support, "INTERPRETED", True)
    found = seqkern.explain("lstm_cell", x)
    assert found.backend == "cpu" and found.reasons["triton"].startswith("could, but 'cpu'")


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN_RELU], ids=lambda kind: kind.name)
def test_autocast_on_a_gpu_lowers_everything(kind):
    """As PyTorch's own layers and cells do there; float64 alone stays."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode():
            x, h, w = (torch.empty(2, 4, device="cuda") for _ in range(3))
            x64 = torch.empty(2, 4, device="cuda", dtype=torch.float64)
            for fused in (False, True):
                assert autocast_dtype(kind, x, h, (w,), fused) == torch.bfloat16
                assert autocast_dtype(kind, x64, None, (x64,), fused) is None
            assert autocast_dtype(kind, torch.empty(2, 4), None, (), False) is None
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)


def test_a_packed_sequence_is_not_captured_in_a_graph(monkeypatch):
    steps = Steps(torch.empty(3, 4), torch.tensor([2, 1]), False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="a packed sequence cannot be captured in a CUDA graph"):
        steps.on_device(torch.device("cuda"))
    assert steps.on_device(torch.device("cpu")).tolist() == [[0, 2, 1, 0], [0, 0, 2, 0]]
