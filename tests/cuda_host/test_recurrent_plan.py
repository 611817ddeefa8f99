"""How a layer's loop is spread over a GPU: what every plan has to keep, what the model decides."""

from __future__ import annotations

import ctypes
from itertools import product

import pytest

KIB = 1024


class Shape(ctypes.Structure):
    """csrc/recurrent/cuda/plan.h's LoopShape."""

    _fields_ = (
        ("units_a_warp", ctypes.c_int),
        ("row_tiles", ctypes.c_int),
        ("kept_chunks", ctypes.c_int),
        ("hidden", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("tasks", ctypes.c_int),
        ("chain", ctypes.c_bool),
        ("element_bytes", ctypes.c_int),
        ("products", ctypes.c_int),
    )


class Gpu(ctypes.Structure):
    """GpuLimits."""

    _fields_ = (
        ("processors", ctypes.c_int),
        ("shared_bytes", ctypes.c_int64),
        ("cooperative", ctypes.c_bool),
    )


class Plan(ctypes.Structure):
    """LoopPlan."""

    _fields_ = (
        ("resident", ctypes.c_bool),
        ("tasks", ctypes.c_int),
        ("row_warps", ctypes.c_int),
        ("depth_warps", ctypes.c_int),
        ("unit_blocks", ctypes.c_int),
        ("groups", ctypes.c_int),
        ("group_rows", ctypes.c_int),
        ("shared_chunks", ctypes.c_int),
        ("shared_bytes", ctypes.c_int64),
        ("step_ns", ctypes.c_double),
    )


H100 = Gpu(132, 227 * KIB, True)
SMALL = Gpu(20, 99 * KIB, True)  # such as a laptop's
OLD = Gpu(80, 96 * KIB, False)


def lstm_forward(
    hidden: int, batch: int, steps: int = 1024, element_bytes: int = 2, tasks: int = 1
) -> Shape:
    kept, products = (4, 1) if element_bytes == 2 else (1, 3)
    return Shape(8, 2, kept, hidden, hidden, batch, steps, tasks, False, element_bytes, products)


def lstm_backward(
    hidden: int, batch: int, steps: int = 1024, element_bytes: int = 2, tasks: int = 1
) -> Shape:
    kept, products = (8, 1) if element_bytes == 2 else (2, 3)
    return Shape(
        16, 1, kept, hidden, 4 * hidden, batch, steps, tasks, False, element_bytes, products
    )


@pytest.fixture(scope="module")
def planned(emulated_layers):
    def plan(shape: Shape, gpu: Gpu) -> Plan:
        found = Plan()
        emulated_layers.functions.plan(ctypes.byref(shape), ctypes.byref(gpu), ctypes.byref(found))
        return found

    return plan


def chunks_of_a_warp(shape: Shape, plan: Plan) -> int:
    chunks = -(-shape.depth * shape.element_bytes // 64)
    return -(-chunks // plan.depth_warps)


def read_again(shape: Shape, plan: Plan) -> int:
    """Chunks of the weights that a warp reads at each step."""
    return max(0, chunks_of_a_warp(shape, plan) - shape.kept_chunks - plan.shared_chunks)


@pytest.mark.parametrize("gpu", [H100, SMALL, OLD], ids=["H100", "small", "old"])
@pytest.mark.parametrize("shape_of", [lstm_forward, lstm_backward])
def test_every_plan_covers_the_layer_and_fits_the_gpu(planned, shape_of, gpu):
    hiddens, batches = (1, 7, 128, 300, 1024, 4096), (0, 1, 8, 9, 100, 3000)
    for hidden, batch, steps, size in product(hiddens, batches, (1, 1000), (2, 4)):
        shape = shape_of(hidden, batch, steps, size)
        plan = planned(shape, gpu)
        assert plan.row_warps * plan.depth_warps == 8
        assert plan.unit_blocks * plan.row_warps * shape.units_a_warp >= hidden
        assert (plan.unit_blocks - 1) * plan.row_warps * shape.units_a_warp < hidden
        assert plan.group_rows % 8 == 0 and plan.groups * plan.group_rows >= batch
        assert plan.groups == 1 or (plan.groups - 1) * plan.group_rows < batch
        assert plan.shared_bytes <= gpu.shared_bytes
        weights = plan.shared_chunks * shape.row_tiles * 16 * 64 * 8
        assert plan.shared_bytes >= weights + 8 * shape.row_tiles * 16 * 33 * 4
        assert plan.step_ns > 0 and plan.tasks == 1
        if plan.resident:  # one block on each SM: more could wait for each other
            assert plan.unit_blocks * plan.groups <= gpu.processors and gpu.cooperative
        else:
            assert plan.shared_chunks == 0


@pytest.mark.parametrize("shape_of", [lstm_forward, lstm_backward])
@pytest.mark.parametrize("hidden", [256, 768, 1024, 1536, 1800])
def test_a_large_layer_stays_on_a_large_gpu(planned, shape_of, hidden):
    shape = shape_of(hidden, 16)
    plan = planned(shape, H100)
    assert plan.resident and read_again(shape, plan) == 0


def test_beyond_residence_the_rest_is_read_again(planned):
    shape = lstm_forward(4096, 16)
    plan = planned(shape, H100)
    assert plan.resident and 0 < read_again(shape, plan) < chunks_of_a_warp(shape, plan)


def test_a_single_step_and_an_old_gpu_take_a_launch_for_each_step(planned):
    assert not planned(lstm_forward(768, 16, steps=1), H100).resident
    assert not planned(lstm_forward(768, 16), OLD).resident


def test_few_units_and_many_rows_are_spread_over_the_rows(planned):
    plan = planned(lstm_forward(128, 128), H100)
    assert plan.resident and plan.groups >= 4


def test_more_work_is_never_expected_to_be_faster(planned):
    for shape_of in (lstm_forward, lstm_backward):
        times = [planned(shape_of(hidden, 16), H100).step_ns for hidden in (128, 512, 1024, 4096)]
        assert times == sorted(times)
        times = [planned(shape_of(1024, batch), H100).step_ns for batch in (1, 16, 64, 256, 1024)]
        assert times == sorted(times)


@pytest.mark.parametrize("gpu", [H100, SMALL, OLD], ids=["H100", "small", "old"])
@pytest.mark.parametrize("shape_of", [lstm_forward, lstm_backward])
def test_loops_side_by_side_share_the_gpu(planned, shape_of, gpu):
    for hidden, batch, steps in product((7, 128, 1024, 4096), (0, 9, 100), (1, 1000)):
        plan = planned(shape_of(hidden, batch, steps, tasks=2), gpu)
        assert plan.tasks in (1, 2)
        if plan.resident:
            assert plan.tasks * plan.unit_blocks * plan.groups <= gpu.processors


@pytest.mark.parametrize("hidden", [64, 256, 512, 768])
def test_both_directions_take_less_time_side_by_side(planned, hidden):
    one = planned(lstm_forward(hidden, 16), H100)
    both = planned(lstm_forward(hidden, 16, tasks=2), H100)
    assert both.tasks == 2 and both.resident and both.step_ns < 1.5 * one.step_ns


def test_two_loops_that_each_fill_the_gpu_run_one_after_the_other(planned):
    assert planned(lstm_forward(1536, 64, tasks=2), H100).tasks == 1


def chained(shape: Shape, tasks: int = 1) -> Shape:
    """`shape` in a wave, whose product has the input beside the state."""
    fields = {name: getattr(shape, name) for name, _ in Shape._fields_}
    return Shape(**fields | {"depth": 2 * shape.depth, "tasks": tasks, "chain": True})


@pytest.mark.parametrize("gpu", [H100, SMALL, OLD], ids=["H100", "small", "old"])
@pytest.mark.parametrize("shape_of", [lstm_forward, lstm_backward])
def test_the_layers_of_a_wave_run_at_once(planned, shape_of, gpu):
    for hidden, batch, tasks in product((7, 128, 1024, 4096), (0, 9, 100), (2, 3, 8)):
        plan = planned(chained(shape_of(hidden, batch), tasks), gpu)
        assert plan.tasks == tasks
        if plan.resident:
            assert tasks * plan.unit_blocks * plan.groups <= gpu.processors


@pytest.fixture(scope="module")
def layers_at_once(emulated_layers):
    def plan(shape: Shape, layers: int, gpu: Gpu = H100) -> int:
        sums = 4 * shape.hidden
        flops = 2.0 * shape.steps * shape.batch * sums * shape.hidden
        return emulated_layers.functions.plan_layers(
            ctypes.byref(shape), ctypes.byref(chained(shape)), ctypes.c_int64(layers),
            ctypes.c_double(flops), ctypes.byref(gpu),
        )  # fmt: skip

    return plan


def test_small_layers_run_as_a_wave(layers_at_once):
    assert layers_at_once(lstm_forward(256, 16), 4) == 4
    assert layers_at_once(lstm_backward(256, 16), 4) == 4
    assert layers_at_once(lstm_forward(128, 16), 10) > 1


def test_layers_that_fill_the_gpu_run_one_after_the_other(layers_at_once):
    assert layers_at_once(lstm_forward(1800, 16), 4) == 1
    assert layers_at_once(lstm_backward(1800, 64), 2) == 1


def test_a_single_layer_is_no_wave(layers_at_once):
    assert layers_at_once(lstm_forward(256, 16), 1) == 1
