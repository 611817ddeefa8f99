"""What is required of every operator on a GPU, as checks that any domain's call goes through: CUDA
graphs, streams, several devices, torch.compile, autocast, fp16 that overflows, the same bits twice.

A domain brings calls as `Work`s (`tests/<domain>/test_triton_contract.py`). Where the tests run on
the CPU, interpreted, there are no graphs and no streams. The checks run all the same, with the work
done at once in their place: that shows what the tests themselves get wrong, and everything that
does not depend on graphs and streams.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import seqkern
from tests.parity import assert_parity
from tests.triton_device import DEVICE

ON_GPU = DEVICE.startswith("cuda")
KIND = DEVICE.partition(":")[0]
COMPILER = "inductor" if ON_GPU else "aot_eager"
# The longest that a stream is held up, in cycles of its clock: some seconds.
_MOST_CYCLES = 2**32
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}

Outputs = Sequence[Tensor]


def sized(on_gpu: int, interpreted: int) -> int:
    """A size that fills a GPU, or one that the interpreter gets through."""
    return on_gpu if ON_GPU else interpreted


@dataclass
class Work:
    """A call.

    Attributes:
        inputs: its tensors; the check takes other numbers of the same shapes in their place.
        call: takes them and returns its results.
        parameters: what else gets a gradient.
    """

    inputs: list[Tensor]
    call: Callable[..., Outputs]
    parameters: list[Tensor] = field(default_factory=list)

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """Results, and the gradients of all that has one."""
        outputs = self.call(*inputs)
        leaves = [t for t in (*inputs, *self.parameters) if t.requires_grad]
        wanted = [o for o in outputs if o.requires_grad]
        grads = torch.autograd.grad(wanted, leaves, [o.detach() for o in wanted]) if wanted else ()
        return [o.detach() for o in outputs] + list(grads)

    def other_inputs(self, number: int) -> list[Tensor]:
        """Tensors like the inputs with other numbers: random ones, or the same indices turned."""
        generator = torch.Generator().manual_seed(number)
        return [
            torch.randn(t.shape, generator=generator).to(t).requires_grad_(t.requires_grad)
            if t.is_floating_point()
            else t.roll(number, 0)
            for t in self.inputs
        ]


Maker = Callable[[torch.device], Work]


def assert_same(found: Outputs, expected: Outputs, what: str) -> None:
    """The same numbers, up to another order of summation."""
    assert len(found) == len(expected)
    for number, (mine, right) in enumerate(zip(found, expected, strict=True)):
        atol = TOLERANCE[right.dtype]

        def said(text: str, number: int = number) -> str:
            return f"{what}, result {number}: {text}"

        torch.testing.assert_close(mine, right, rtol=atol, atol=atol, msg=said)


# ---- CUDA graphs ----


class Graph:
    """A step captured as a CUDA graph, which reads the same tensors at each replay.

    Attributes:
        results: where the step leaves its results.
    """

    def __init__(self, step: Callable[[], Outputs]) -> None:
        self._step = step
        if not ON_GPU:
            self.results = list(step())
            return
        # Before: kernels are compiled and loaded, libraries take their workspaces.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.results = list(step())

    def replay(self) -> None:
        if ON_GPU:
            self._graph.replay()
            return
        for old, new in zip(self.results, self._step(), strict=True):
            old.copy_(new)


def replays_with_other_numbers(make: Maker) -> None:
    """A replay gives what a call gives for the numbers that its inputs hold by then."""
    work = make(torch.device(DEVICE))
    held = work.other_inputs(1)
    graph = Graph(lambda: work.run(*held))
    for number in (2, 3):
        fresh = work.other_inputs(number)
        expected = work.run(*fresh)
        with torch.no_grad():
            for to, new in zip(held, fresh, strict=True):
                to.copy_(new)
            for result in graph.results:
                result.zero_()
        graph.replay()
        assert_same(graph.results, expected, f"replay {number}")


def replays_draw_anew(call: Callable[[], Tensor]) -> None:
    """What a call draws from torch's generator differs from replay to replay, and is that of a call
    outside of the graph at the same state of the generator."""
    graph = Graph(lambda: [call()])
    torch.manual_seed(5)
    expected = [call().clone() for _ in range(2)]
    assert not torch.equal(*expected)
    torch.manual_seed(5)
    for right in expected:
        graph.replay()
        assert torch.equal(graph.results[0], right)


# ---- streams and devices ----


def runs_on_a_side_stream(make: Maker) -> None:
    """Work on a stream whose inputs come late, with nothing that waits for the device, while the
    main stream overwrites all memory that is free as it counts."""
    work = make(torch.device(DEVICE))
    inputs = work.other_inputs(1)
    expected = work.run(*inputs)
    if not ON_GPU:
        assert_same(work.run(*inputs), expected, "again")
        return
    torch.cuda.synchronize()
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    cycles = 2**27
    while True:
        late = [torch.zeros_like(t).requires_grad_(t.requires_grad) for t in inputs]
        side.wait_stream(main)
        with torch.cuda.stream(side):
            torch.cuda._sleep(cycles)
            with torch.no_grad():
                for to, new in zip(late, inputs, strict=True):
                    to.copy_(new)
            results = work.run(*late)
        for tensor in late:
            tensor.record_stream(side)
        for tensor in results:
            tensor.record_stream(main)
        ahead = not side.query()
        _overwrite_free_memory()
        main.wait_stream(side)
        assert_same(results, expected, "on a side stream")
        if ahead:
            return
        assert cycles < _MOST_CYCLES, "the stream was never behind: something waits for it"
        cycles *= 4


def _overwrite_free_memory() -> None:
    """With NaN: blocks of 512 bytes to 8 MiB, all at the same time."""
    sizes = [2**power for power in range(7, 22) for _ in range(8)]
    blocks = [torch.full((size,), torch.nan, device=DEVICE) for size in sizes]
    assert len(blocks) == len(sizes)


def runs_on_another_device(make: Maker) -> None:
    """Tensors on the second GPU while the first is the current one."""
    count = torch.cuda.device_count() if ON_GPU else 0
    if count < 2:
        pytest.skip(f"needs two CUDA GPUs, there {'is' if count == 1 else 'are'} {count}")
    first, second = (torch.device("cuda", n) for n in range(2))
    works = [make(device) for device in (first, second)]
    expected = works[0].run(*works[0].other_inputs(1))
    with torch.cuda.device(first):
        found = works[1].run(*works[1].other_inputs(1))
        assert torch.cuda.current_device() == 0
    assert all(t.device == second for t in found)
    assert_same([t.to(first) for t in found], expected, "on the second device")


# ---- torch.compile ----


def compiles_as_one_graph(make: Maker) -> None:
    """torch.compile(fullgraph=True): results and gradients."""
    work = make(torch.device(DEVICE))
    inputs = work.other_inputs(1)
    expected = work.run(*inputs)
    torch._dynamo.reset()
    call = torch.compile(work.call, fullgraph=True, backend=COMPILER)
    found = Work(inputs, call, work.parameters).run(*inputs)
    torch._dynamo.reset()
    assert_same(found, expected, "compiled")


CHECKS = [
    replays_with_other_numbers,
    runs_on_a_side_stream,
    runs_on_another_device,
    compiles_as_one_graph,
]


def every_check(works: dict[str, Maker], eager: Collection[str] = ()) -> pytest.MarkDecorator:
    """Parametrizes `check` and `make`; the works named in `eager` are not for torch.compile."""
    pairs = [
        pytest.param(check, make, id=f"{check.__name__}-{name}")
        for check in CHECKS
        for name, make in works.items()
        if check is not compiles_as_one_graph or name not in eager
    ]
    return pytest.mark.parametrize("check, make", pairs)


# ---- numbers ----


def gives_the_same_bits(make: Maker, times: int = 3) -> None:
    work = make(torch.device(DEVICE))
    inputs = work.other_inputs(1)
    first, *others = (work.run(*inputs) for _ in range(times))
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def autocast_is_torchs(
    ours: nn.Module, theirs: nn.Module, inputs: Sequence[Tensor], lower: torch.dtype
) -> None:
    """The dtypes of PyTorch's module, and numbers as near to the reference as its own: results and
    the gradients of the inputs."""
    ours.load_state_dict(theirs.state_dict())
    results = []
    for module, dtype in ((ours, None), (theirs, None), (theirs, torch.float64)):
        given = [t.detach().to(dtype or t.dtype).requires_grad_() for t in inputs]
        with torch.autocast(KIND, lower, enabled=dtype is None):
            if dtype is not None:
                module = module.double()
            found = [t for t in _flat(module(*given)) if t is not None]
        grads = torch.autograd.grad(found, given, [o.detach() for o in found])
        results.append([*found, *grads])
    for number, (mine, other, reference) in enumerate(zip(*results, strict=True)):
        # The computation used 16 bits, whatever the dtype of the result.
        assert_parity(mine, other, reference, f"result {number}", tiny=6e-3)


def second_derivatives_ignore_autocast(call: Callable[..., Outputs], inputs: Outputs) -> None:
    """A gradient that is to be differentiated again may be asked for under autocast or not: the
    reference computes it in float32 by itself."""

    def first(outputs: Outputs) -> Outputs:
        weights = [o.detach() for o in outputs]
        return torch.autograd.grad(list(outputs), inputs, weights, create_graph=True)

    with torch.autocast(KIND, torch.bfloat16):
        inside = first(call(*inputs))
        outputs = call(*inputs)
    assert all(o.dtype == torch.bfloat16 for o in outputs)
    found, expected = (
        [*grads, *torch.autograd.grad([g.square().sum() for g in grads], inputs)]
        for grads in (inside, first(outputs))
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def _flat(found: object) -> list[Tensor]:
    if isinstance(found, tuple):
        return [tensor for item in found for tensor in _flat(item)]
    assert found is None or isinstance(found, Tensor)
    return [] if found is None else [found]


def overflow_skips_a_step(
    module: nn.Module, inputs: Sequence[Tensor], backends: Sequence[str]
) -> None:
    """torch.amp.GradScaler with float32 parameters and a call in float16, on each backend alike: a
    scale at which gradients overflow gives infinity or NaN; the step is left out and the scale
    halved, until it fits, and then the step is made."""
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    scales = {}
    for backend in backends:
        module.load_state_dict(start, strict=False)
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
        scaler = torch.amp.GradScaler(KIND, init_scale=2.0**18)
        taken = []
        for _ in range(18):
            optimizer.zero_grad()
            halves = {name: p.half() for name, p in module.named_parameters()}
            with seqkern.use_backend(backend):
                output = _flat(torch.func.functional_call(module, halves, tuple(inputs)))[0]
                scaler.scale(output.float().square().sum()).backward()
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            moved = any(not torch.equal(p, start[n]) for n, p in module.named_parameters())
            overflowed = scaler.get_scale() == before / 2
            assert overflowed or scaler.get_scale() == before
            assert moved != overflowed, "a step is made if and only if nothing overflowed"
            taken.append(before)
            if moved:
                break
        assert len(taken) > 1, "nothing overflowed at the first scale"
        assert moved, f"overflows at every scale from {taken[0]} to {taken[-1]}"
        assert all(p.isfinite().all() for p in module.parameters())
        scales[backend] = taken[-1]
    # Where exactly something overflows depends on the order of summation, and on what is kept in
    # 32 bits on the way: ours may allow more.
    ours, theirs = (scales[backend] for backend in backends)
    assert theirs / 2 <= ours <= theirs * 8, scales
