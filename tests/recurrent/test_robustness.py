"""NaN and infinity, memory that was never written, threads, processes, random shapes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seqkern
from tests.forks import results_around_a_fork
from tests.limits import HANGS
from tests.recurrent.cases import KERNEL_DTYPES, LAYERS, Case, check, fits, make

M_PERTURB = -6  # mallopt's name for "fill memory on allocation and release"; glibc only


@pytest.fixture
def poisoned() -> Iterator[None]:
    """New tensors hold NaN (torch fills them), and all other memory huge numbers (the C library
    does): whatever a kernel reads before it wrote it shows."""
    libc = ctypes.CDLL(None)
    perturb = getattr(libc, "mallopt", lambda *_: 0)
    perturb(M_PERTURB, 1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    perturb(M_PERTURB, 0)


def test_the_poison_reaches_uninitialised_memory(poisoned):
    assert torch.empty(1000).isnan().all()
    if sys.platform == "linux" and "asan" not in os.environ.get("LD_PRELOAD", ""):
        torch.utils.deterministic.fill_uninitialized_memory = False
        try:
            assert (torch.empty(100_000).abs() > 1e30).float().mean() > 0.9
        finally:
            torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize("fill", [True, False], ids=["NaN", "huge"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_nothing_reads_memory_that_was_not_written(poisoned, kind, dtype, fill):
    torch.utils.deterministic.fill_uninitialized_memory = fill
    try:
        for case in (
            Case(5, 3, 7, 17, states=True),
            Case(5, 35, 16, 32),
            Case(3, 2, 5, 9, layers=2, bidirectional=True),
            Case(6, 4, 7, 18, lengths=(6, 6, 3, 1), bidirectional=True),
            Case(4, 3, 5, 9, proj=2, bidirectional=True),
        ):
            if fits(kind, case):
                check(kind, case, dtype)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_nan_and_infinity_go_where_pytorch_lets_them_go(kind, dtype, value):
    """In one sequence of the batch from step 2 on, and nowhere else."""
    case = Case(5, 3, 4, 20)
    theirs = make(torch.nn, kind, case, dtype)
    ours = make(seqkern.nn, kind, case, dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 3, 4).to(dtype)
    x[2, 1, 0] = value
    with seqkern.use_backend("reference"):
        expected = ours(x)[0]
    found = ours(x)[0]
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())
    assert torch.equal(found.isnan(), theirs(x)[0].isnan())
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=0, atol=2e-2)
    if value != value:
        assert found[2:, 1].isnan().all()
    assert found[:, 0].isfinite().all() and found[:2].isfinite().all()


@pytest.mark.parametrize("kind", LAYERS)
def test_nan_in_the_gradient(kind):
    module = make(seqkern.nn, kind, Case(4, 3, 5, 6), torch.float32)
    x = torch.randn(4, 3, 5, requires_grad=True)
    weight = torch.ones(4, 3, 6)
    weight[1, 0, 0] = torch.nan
    # relu passes on nothing, not even NaN, where it is off; so check the sum of a unit that is on
    module.weight_hh_l0.data.abs_()
    module(x)[0].backward(weight)
    assert x.grad[2:].isfinite().all() and x.grad[:, 1:].isfinite().all()
    if kind != "RNN_RELU":
        assert x.grad[:2, 0].isnan().all()


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_nan_in_the_input_reaches_the_gradients_that_it_reaches_in_pytorch(isa, kind, dtype):
    """A NaN that the backward drops, as `h > 0 ? g : 0` would, hides a failed training run."""
    case = Case(5, 3, 4, 20)
    theirs = make(torch.nn, kind, case, dtype)
    ours = make(seqkern.nn, kind, case, dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 3, 4).to(dtype)
    x[2, 1, 0] = torch.nan
    weight = torch.randn(5, 3, 20).to(dtype)
    results = []
    for module in (ours, theirs):
        leaf = x.clone().requires_grad_()
        module(leaf)[0].backward(weight)
        results.append([leaf.grad, *(p.grad for p in module.parameters())])
    for mine, right in zip(*results, strict=True):
        assert torch.equal(mine.isnan(), right.isnan())
        torch.testing.assert_close(mine, right, equal_nan=True, rtol=0.1, atol=0.1)
    assert results[0][1].isnan().any() and results[0][0][:, 0].isfinite().all()


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_tanh_stays_within_one(isa, dtype):
    """An approximation that overshoots breaks what is computed from it: 1 - h^2 turns negative."""
    steps = 48_001
    grid = torch.linspace(-12, 12, steps, dtype=torch.float64).to(dtype)
    module = seqkern.nn.RNN(1, 17, bias=False, dtype=dtype)  # 17: whole vectors and a rest
    with torch.no_grad():
        module.weight_ih_l0.fill_(1)
        module.weight_hh_l0.zero_()
        found = module(grid[None, :, None])[0]
    assert found.isfinite().all()
    assert found.abs().max() <= 1
    exact = grid.double().tanh()[None, :, None].expand_as(found)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("scale", [1e-30, 30.0, 1e4])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH"])
def test_saturated_and_tiny_activations(kind, scale):
    module = make(seqkern.nn, kind, Case(4, 3, 5, 17), torch.float32)
    x = torch.randn(4, 3, 5) * scale
    found = module(x)[0]
    with seqkern.use_backend("reference"):
        expected = module.double()(x.double())[0]
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def run_once(kind: str, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    module = make(seqkern.nn, kind, Case(20, 8, 16, 48), torch.float32)
    x = torch.randn(20, 8, 16, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            generator = torch.Generator().manual_seed(seed + index)
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    output = module(x)[0]
    (gradient,) = torch.autograd.grad(output.sin().sum(), x)
    return torch.cat([output.flatten(), gradient.flatten()]).detach()


def test_several_python_threads_at_once():
    """Each with its own OpenMP threads."""
    torch.set_num_threads(2)
    jobs = [(kind, seed) for seed in range(6) for kind in LAYERS]
    expected = [run_once(*job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda job: run_once(*job), jobs))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_each_thread_has_its_own_backend():
    with seqkern.use_backend("triton"), ThreadPoolExecutor(1) as pool:
        pool.submit(run_once, "GRU", 0).result()
        with pytest.raises(RuntimeError, match="triton"):
            run_once("GRU", 0)


def summed(kind: str) -> float:
    return run_once(kind, 1).sum().item()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_process_forked_after_use(kind):
    before, in_child, after = results_around_a_fork(summed, kind)
    assert in_child == pytest.approx(before, rel=1e-6)
    assert after == before


class Features(torch.utils.data.Dataset):
    """A data set whose items are computed by a model, in the workers of a DataLoader."""

    def __init__(self, module: torch.nn.Module, items: torch.Tensor) -> None:
        self.module, self.items = module, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.no_grad():
            return self.module(self.items[index])[0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_workers_of_a_data_loader(kind):
    torch.set_num_threads(2)
    module = make(seqkern.nn, kind, Case(20, 4, 16, 48), torch.float32)
    data = Features(module, torch.randn(6, 20, 4, 16))
    expected = torch.stack([data[index] for index in range(6)])  # the kernels' threads have run
    loader = torch.utils.data.DataLoader(
        data, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=HANGS
    )
    for _ in range(2):
        torch.testing.assert_close(torch.cat(list(loader)), expected)
    torch.testing.assert_close(data[0], expected[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_same_bits_every_time(kind):
    assert torch.equal(run_once(kind, 2), run_once(kind, 2))


@st.composite
def cases(draw) -> Case:
    steps = draw(st.integers(1, 6))
    batch = draw(st.integers(1, 20))
    hidden = draw(st.integers(1, 40))
    ragged = draw(st.booleans())
    lengths = None
    if ragged:
        lengths = tuple(draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch)))
        lengths = (steps, *lengths[1:])
    return Case(
        steps,
        batch,
        draw(st.integers(1, 20)),
        hidden,
        layers=draw(st.integers(1, 2)),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        bidirectional=draw(st.booleans()),
        proj=draw(st.integers(0, hidden - 1)),
        states=draw(st.booleans()),
        strided=draw(st.booleans()),
        lengths=lengths,
        sorted=False,
    )


@pytest.mark.parametrize("kind", LAYERS)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(case=cases(), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_any_shape(kind, case, dtype):
    if fits(kind, case):
        check(kind, case, dtype)


@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), kind=st.sampled_from(LAYERS))
def test_any_strides(data, kind):
    """Inputs, states and weights that are permuted, sliced, flipped or expanded views."""
    module = make(seqkern.nn, kind, Case(3, 4, 5, 6), torch.float64)

    def view(*shape: int) -> torch.Tensor:
        order = data.draw(st.permutations(range(len(shape))))
        step = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
        start = data.draw(st.lists(st.integers(0, 2), min_size=len(shape), max_size=len(shape)))
        large = torch.randn([s * k + o for s, k, o in zip(shape, step, start, strict=True)])
        large = large.double().permute(*order).contiguous()
        tensor = large.permute(*[order.index(d) for d in range(len(shape))])
        index = [slice(o, o + s * k, k) for s, k, o in zip(shape, step, start, strict=True)]
        tensor = tensor[tuple(index)]
        return tensor[:1].expand(shape) if data.draw(st.booleans()) else tensor

    x = view(3, 4, 5)
    states = [view(1, 4, 6) for _ in range(2 if kind == "LSTM" else 1)]
    weights = {name: view(*p.shape) for name, p in module.named_parameters()}
    hx = tuple(states) if kind == "LSTM" else states[0]

    def run(x, hx, weights):
        return torch.func.functional_call(module, weights, (x, hx))[0]

    dense = [s.contiguous() for s in states]
    expected = run(
        x.contiguous(),
        tuple(dense) if kind == "LSTM" else dense[0],
        {name: w.contiguous() for name, w in weights.items()},
    )
    torch.testing.assert_close(run(x, hx, weights), expected, rtol=0, atol=1e-14)
