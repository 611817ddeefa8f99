"""In-place changes between a call and its backward pass: PyTorch's gradients, or an error.

The whole matrix: a call x what is changed x how x eager or compiled. What the peer allows must give
the same gradients when run directly; what the peer forbids must raise or, for a result, may give
the gradients of the change made out of place. Compiled, each must be right or raise.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.core import saving
from tests.in_place_subjects import Subject, Tensors, subjects

SUBJECTS = subjects()
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 4e-2}


def _part(t: Tensor) -> Tensor:
    return t[1:] if t.dim() else t


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "add_": lambda t: t.add_(1),
    "relu_": lambda t: torch.nn.functional.relu(t, inplace=True),
    "part": lambda t: _part(t).mul_(0.0),
    "mul_": lambda t: t.mul_(torch.linspace(0, 2, t.numel(), dtype=t.dtype).view(t.shape)),
    "copy_": lambda t: t.copy_(torch.full_like(t, 0.5)),
}


def _step(call: Callable[[Tensors], Tensors], target: str, how: str, copy: bool):
    """The call, a change, and a loss, as a function of the leaves. With `copy` the change is made
    to copies, so that nothing that the backward pass reads has changed."""
    change = CHANGES[how]

    def step(leaves: Tensors) -> Tensor:
        tensors = {name: leaf * 1 for name, leaf in leaves.items()}
        results = dict(call({n: t.clone() for n, t in tensors.items()} if copy else tensors))
        if target in results:
            if copy:
                results[target] = results[target].clone()
            change(results[target])
        else:
            change(tensors[target])
        return sum((r.float().square().sum() for r in results.values()), torch.zeros(()))

    return step


def _gradients(step, subject: Subject) -> list[Tensor] | None:
    """None where it raises that something was modified in place, while it compiles or later."""
    leaves = {name: t.clone().requires_grad_() for name, t in subject.tensors.items()}
    try:
        step(leaves).backward()
    except Exception as error:
        if "inplace operation" not in str(error):
            raise
        return None
    return [leaf.grad for leaf in leaves.values()]


def _assert_close(subject: Subject, mine: list[Tensor], right: list[Tensor]) -> None:
    for name, a, b in zip(subject.tensors, mine, right, strict=True):
        tolerance = TOLERANCES[b.dtype]
        assert (a - b).norm() <= tolerance * (b.norm() + 1), name


def _targets(subject: Subject) -> list[str]:
    return [*subject.outputs, *subject.tensors]


EAGER = [
    pytest.param(subject, target, how, id=f"{subject}-{target}-{how}")
    for subject in SUBJECTS
    for target in _targets(subject)
    for how in (CHANGES if target in subject.outputs else ("add_", "copy_"))
]


def _compiled(only: tuple[str, ...], whole: Callable[[Subject], bool]) -> list:
    """One dtype, and of a stack's weights those of the first layer: a graph takes most of a second.
    So the first result and the first input of every call, and all of those that are `whole`; the
    others are slow."""
    found = []
    for subject in SUBJECTS:
        first = next(iter(subject.tensors))
        if subject.tensors[first].dtype != torch.float32 or (only and str(subject) not in only):
            continue
        for target in _targets(subject):
            if target.startswith("bias_hh") or target.endswith(("_l1", "_reverse")):
                continue
            quick = whole(subject) or target in (subject.outputs[0], first)
            marks = () if quick else pytest.mark.slow
            found.append(
                pytest.param(subject, target, "mul_", id=f"{subject}-{target}", marks=marks)
            )
    return found


# Those with a word more than the name are variants: packed, bidirectional, causal and so on.
COMPILED = _compiled((), whole=lambda subject: " " not in str(subject))
INDUCTOR = _compiled(("GRU", "LSTMCell", "attention", "skip-gram"), whole=lambda _: False)


@pytest.mark.parametrize(("subject", "target", "how"), EAGER)
def test_eager(subject, target, how):
    mine = _gradients(_step(subject.ours, target, how, copy=False), subject)
    peers = _gradients(_step(subject.peer, target, how, copy=False), subject)
    if peers is not None:
        if mine is None:
            assert target in subject.may_raise, "raises where the peer does not"
        else:
            _assert_close(subject, mine, peers)
    elif target in subject.forbidden:
        assert mine is None, "does not raise"
    elif mine is not None:
        _assert_close(subject, mine, _gradients(_step(subject.peer, target, how, True), subject))


def _check_compiled(subject: Subject, target: str, how: str, backend: str) -> None:
    if "packed" in str(subject) and torch.__version__.startswith("2.12"):
        pytest.skip("its Dynamo cannot read a PackedSequence that the function made, anybody's")
    torch._dynamo.reset()
    step = torch.compile(
        _step(subject.ours, target, how, copy=False), backend=backend, fullgraph=True
    )
    mine = _gradients(step, subject)
    if mine is not None:
        _assert_close(subject, mine, _gradients(_step(subject.peer, target, how, True), subject))


@pytest.mark.filterwarnings("ignore:Error detected in")
@pytest.mark.parametrize(("subject", "target", "how"), COMPILED)
def test_compiled(subject, target, how):
    _check_compiled(subject, target, how, "aot_eager")


@pytest.mark.filterwarnings("ignore:Error detected in")
@pytest.mark.parametrize(("subject", "target", "how"), INDUCTOR)
def test_inductor(subject, target, how):
    _check_compiled(subject, target, how, "inductor")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("cls", [torch.nn.GRU, torch.nn.LSTM])
def test_streaming_with_a_state_in_a_buffer(cls, compiled):
    """state.copy_(new state) after the call: PyTorch refuses it, and so do we, where a gradient
    needs the old state."""
    torch._dynamo.reset()
    layer = cls(3, 4)
    seqkern.swap(layer)
    state = torch.randn(1, 2, 4)

    def step(x: Tensor, state: Tensor) -> Tensor:
        hx = (state, torch.zeros_like(state)) if cls is torch.nn.LSTM else state
        output, last = layer(x, hx)
        state.copy_((last[0] if cls is torch.nn.LSTM else last).detach())
        return output

    if compiled:
        step = torch.compile(step, backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="inplace operation"):
        step(torch.randn(5, 2, 3), state).sum().backward()
    with torch.no_grad():
        step(torch.randn(5, 2, 3), state)


@pytest.mark.parametrize("module", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN, torch.nn.GRUCell])
def test_a_second_derivative_that_a_changed_bias_would_spoil(module):
    ours = module(3, 4, dtype=torch.float64)
    seqkern.swap(ours)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    output = ours(x)
    output = output[0] if isinstance(output, tuple) else output
    bias = next(p for name, p in ours.named_parameters() if name.startswith("bias"))
    with torch.no_grad():
        bias.add_(1)
    torch.autograd.grad(output.sum(), x, retain_graph=True)
    with pytest.raises(RuntimeError, match="second derivative has been modified by an inplace"):
        torch.autograd.grad(output.sum(), x, create_graph=True)


def test_nothing_is_copied_unless_it_is_changed():
    """The output and what the backward pass reads are one piece of memory until one is written."""
    layer = torch.nn.GRU(3, 4)
    seqkern.swap(layer)
    output, _ = layer(torch.randn(5, 2, 3))
    saved = [t for t in output.grad_fn.saved_tensors if t is not None and t.shape == output.shape]
    assert torch._C._is_cow_tensor(output) and torch._C._is_cow_tensor(saved[0])
    torch.nn.functional.linear(output, torch.randn(2, 4)).relu()
    (output.transpose(0, 1).reshape(2, -1) @ torch.randn(20, 3)).sum()
    assert torch._C._is_cow_tensor(output)
    before = output.detach().clone()
    output.detach().add_(1)
    assert torch.equal(saved[0], before) and torch.equal(output, before + 1)


def test_results_that_data_ptr_has_unshared():
    """What the documentation says of memory that PyTorch cannot enlarge while it is shared."""
    layer = torch.nn.GRU(3, 4)
    seqkern.swap(layer)
    x = torch.randn(5, 2, 3)
    right = torch.autograd.grad(layer(x)[0].square().sum(), layer.weight_hh_l0)[0]
    output, _ = layer(x)
    output.data_ptr()
    assert not torch._C._is_cow_tensor(output)
    values, memory = output.detach().clone(), output.detach().untyped_storage()
    memory.resize_(0)
    memory.resize_(values.nbytes)
    output.detach().copy_(values)
    mine = torch.autograd.grad(output.square().sum(), layer.weight_hh_l0)[0]
    torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_step_between_a_loss_and_its_backward(compiled):
    """SkipGram.update_ changes the tables in place: the gradients are those of the loss before."""
    torch._dynamo.reset()
    module = seqkern.nn.SkipGram(9, 4, noise_counts=torch.ones(9))
    torch.nn.init.normal_(module.out_embed.weight)
    center, context, negatives = (torch.randint(9, shape) for shape in ((6,), (6,), (6, 3)))
    right = torch.autograd.grad(module(center, context, negatives), module.parameters())

    def step() -> Tensor:
        loss = module(center, context, negatives)
        module.update_(center, context, negatives, lr=0.1)
        return loss

    if compiled:
        step = torch.compile(step, backend="aot_eager")
    before = module.in_embed.weight.detach().clone()
    mine = torch.autograd.grad(step(), module.parameters())
    assert not torch.equal(module.in_embed.weight, before)
    for a, b in zip(mine, right, strict=True):
        torch.testing.assert_close(a, b)


def test_sparse_adam_says_that_it_has_changed_a_table():
    table = torch.nn.Embedding(9, 4, sparse=True)
    optimizer = seqkern.optim.SparseAdam(table.parameters())
    ids = torch.tensor([1, 3])
    kept = table.weight * 2  # saves nothing of the table
    squared = table.weight.square()
    table(ids).sum().backward()
    optimizer.step()
    kept.sum().backward()
    with pytest.raises(RuntimeError, match="inplace operation"):
        squared.sum().backward()


def test_compiled_graphs_on_disk_are_those_of_this_text(monkeypatch):
    """PyTorch keeps them under the operators' names, so another text has another name."""
    name = saving._fingerprint(saving.Unchecked)
    assert name == saving._fingerprint(saving.Unchecked)
    monkeypatch.setattr(saving.inspect, "getsource", lambda module: "another text")
    assert saving._fingerprint(saving.Unchecked) != name
