"""Which way through time a call takes, what is compiled for it, and who may run it: no kernel runs
here."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import seqkern
from seqkern import triton_support
from seqkern.recurrent.casting import autocast_dtype
from seqkern.recurrent.kinds import GRU, LSTM, RNN_RELU

if triton_support.missing:
    pytest.skip(triton_support.missing, allow_module_level=True)

from seqkern.recurrent import triton_loops
from seqkern.recurrent.triton_layer import Layer, Needs, backward, forward
from seqkern.recurrent.triton_steps import Steps
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


def launches(layer: Layer) -> list[Launch]:
    with recorded(90) as found:
        f = forward(layer, None, None, True)
        saved = f.gates, f.cells if layer.kind is LSTM else None
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
    assert triton_loops.preferred(layer.call(output)) == expected
    names = {launch.name for launch in launches(layer)}
    projected = "backward_projected" if width else "backward_step"
    wanted = {"steps": ["forward_step", projected]}
    assert set(wanted.get(expected, [f"forward_{expected}", f"backward_{expected}"])) <= names


def test_one_step_takes_the_step_kernel():
    assert {x.name for x in launches(layer_of(1, 2, 16))} == {"forward_step", "backward_step"}


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=lambda kind: kind.name)
@pytest.mark.parametrize("hidden", [32, 200, 600])
def test_no_batch_or_time_compiles_anew(kind, hidden):
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


def test_a_cpu_never_runs_them_outside_of_tests(monkeypatch):
    x = torch.randn(2, 4)
    assert "run on a CUDA GPU" in seqkern.explain("lstm_cell", x).reasons["triton"]
    monkeypatch.setattr(triton_support, "INTERPRETED", True)
    reason = seqkern.explain("lstm_cell", x).reasons["triton"]
    assert reason == "cannot: on the CPU its kernels run in seqkern's own tests only"


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
