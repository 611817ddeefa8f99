"""seqkern.optim.SparseAdam against torch.optim.SparseAdam."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.optim import SparseAdam
from tests.embedding.cases import KERNEL_DTYPES
from tests.parity import assert_parity


def gradient(shape: tuple[int, ...], dtype: torch.dtype, rows: int, repeated: bool) -> Tensor:
    """With `repeated`, uncoalesced as nn.Embedding(sparse=True) gives it."""
    indices = (
        torch.randint(shape[0], (1, rows)) if repeated else torch.randperm(shape[0])[None, :rows]
    )
    return torch.sparse_coo_tensor(
        indices, torch.randn(indices.shape[1], *shape[1:]).to(dtype), shape
    )


def run(cls, start, grads, **options) -> tuple[list[Tensor], torch.optim.Optimizer]:
    params = [torch.nn.Parameter(p.clone()) for p in start]
    optimizer = cls(params, **options)
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = None if grad is None else grad.to(param.dtype)
        optimizer.step()
    return [p.detach() for p in params], optimizer


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.1, "betas": (0.5, 0.6), "eps": 1e-3},
        {"maximize": True},
        {"lr": torch.tensor(0.02, dtype=torch.float64)},
        {"betas": (0.0, 0.0)},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("features", [1, 20, 100])
def test_parity(features, dtype, options, repeated, isa):
    shape = (50, features)
    start = [torch.randn(shape).to(dtype) for _ in range(2)]
    grads = [[gradient(shape, dtype, 20, repeated) for _ in range(2)] for _ in range(4)]
    grads[1][0] = None
    grads[2][1] = gradient(shape, dtype, 0, False)
    ours, mine = run(SparseAdam, start, grads, **options)
    theirs, other = run(torch.optim.SparseAdam, start, grads, **options)
    reference, _ = run(torch.optim.SparseAdam, [p.double() for p in start], grads, **options)
    for a, b, c, old in zip(ours, theirs, reference, start, strict=True):
        assert_parity(a, b, c, "weight")
        untouched = (c == old.double()).all(1)
        assert torch.equal(a[untouched], old[untouched])
    for a, b in zip(mine.state.values(), other.state.values(), strict=True):
        assert a.keys() == b.keys() and a["step"] == b["step"]


def test_state_goes_both_ways():
    shape = (30, 8)
    start = [torch.randn(shape)]
    grads = [[gradient(shape, torch.float32, 9, True)] for _ in range(4)]
    right, _ = run(torch.optim.SparseAdam, start, grads)
    for first, second in (
        (SparseAdam, torch.optim.SparseAdam),
        (torch.optim.SparseAdam, SparseAdam),
    ):
        middle, before = run(first, start, grads[:2])
        param = torch.nn.Parameter(middle[0].clone())
        after = second([param])
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        for (grad,) in grads[2:]:
            param.grad = grad
            after.step()
        torch.testing.assert_close(param.detach(), right[0])


def test_what_the_kernel_does_not_take_goes_to_pytorch():
    shapes = [(20, 6), (20,), (20, 2, 3), (20, 6)]
    dtypes = [torch.float32, torch.float32, torch.float32, torch.float16]
    start = [torch.randn(s).to(d) for s, d in zip(shapes, dtypes, strict=True)]
    grads = [
        [gradient(s, d, 5, True) for s, d in zip(shapes, dtypes, strict=True)] for _ in range(3)
    ]
    start, grads = start[:3], [step[:3] for step in grads]
    ours, optimizer = run(SparseAdam, start, grads)
    theirs, _ = run(torch.optim.SparseAdam, start, grads)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert all(state["step"] == 3 for state in optimizer.state.values())
    assert all(param.grad is not None for param in optimizer.param_groups[0]["params"])
    answer = seqkern.explain(optimizer)
    assert answer.backend == "torch" and "not a contiguous matrix but [20]" in answer.reasons["cpu"]
    assert seqkern.explain(SparseAdam([torch.nn.Parameter(torch.randn(3, 4))])).backend == "cpu"
    with seqkern.use_backend("cpu"), pytest.raises(RuntimeError, match="not a contiguous matrix"):
        optimizer.step()
    half = torch.nn.Parameter(torch.randn(3, 4).half())
    assert "no kernel for torch.float16" in seqkern.explain(SparseAdam([half])).reasons["cpu"]


@pytest.mark.parametrize("compiled", [False, True])
def test_hooks_and_closures(compiled):
    if compiled:  # from the first compilation on, Dynamo has the steps of optimizers in wrappers
        torch.optim.SparseAdam([torch.zeros(1)])
        torch.compile(torch.neg, backend="eager")(torch.ones(2))
    param = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = SparseAdam([param, torch.nn.Parameter(torch.randn(4))])
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure():
        optimizer.zero_grad()
        for p in optimizer.param_groups[0]["params"]:
            p.grad = gradient(tuple(p.shape), torch.float32, 2, False)
        return torch.tensor(7.0)

    assert optimizer.step(closure) == 7
    assert calls == ["before", "after"]


def test_the_step_counts_as_a_change():
    weight = torch.nn.Parameter(torch.randn(4, 3))
    loss = (weight**2).sum()
    weight.grad = gradient((4, 3), torch.float32, 2, False)
    SparseAdam([weight]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_errors_are_those_of_pytorch():
    dense = torch.nn.Parameter(torch.randn(4, 3))
    dense.grad = torch.randn(4, 3)
    with pytest.raises(RuntimeError, match="does not support dense gradients"):
        SparseAdam([dense]).step()
    with pytest.raises(ValueError, match="Invalid learning rate"):
        SparseAdam([dense], lr=-1.0)


def test_learns_as_pytorch_does():
    """The module, both optimizers: the same weights after some steps."""
    ids = torch.arange(10)
    ends = []
    for cls in (SparseAdam, torch.optim.SparseAdam):
        torch.manual_seed(0)
        made = seqkern.nn.SkipGram(10, 8, sparse=True)
        optimizer = cls(made.parameters(), lr=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            made(ids, ids ^ 1).backward()
            optimizer.step()
        ends.append([p.detach() for p in made.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
