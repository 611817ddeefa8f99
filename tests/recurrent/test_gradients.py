"""First and second derivatives, function transforms, forward mode, and walking a graph twice."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.utils.checkpoint
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import seqkern
from seqkern.recurrent import reference
from tests.recurrent import single_layer

LAYERS = {
    "lstm": (single_layer.lstm_layer, reference.lstm, 4, 2),
    "gru": (single_layer.gru_layer, reference.gru, 3, 1),
    "rnn": (single_layer.rnn_layer, reference.rnn, 1, 1),
}
SIZES = torch.tensor([3, 2, 2, 1])


def arguments(name: str, ragged: bool, projection: int = 0) -> tuple[torch.Tensor, ...]:
    """Small float64 arguments of a layer: input, states, weights; all require grad."""
    gates, states = LAYERS[name][2:]
    batch, width, hidden = 3, 2, 3
    out = projection or hidden
    shapes: list[tuple[int, ...]] = [(8, width) if ragged else (4, batch, width), (batch, out)]
    shapes += [(batch, hidden)] * (states - 1)
    rows = gates * hidden
    shapes += [(rows, width), (rows, out), (rows,), (rows,)]
    if projection:
        shapes.append((projection, hidden))
    return tuple(torch.randn(s, dtype=torch.float64).mul_(0.5).requires_grad_() for s in shapes)


def with_options(name: str, ragged: bool, reverse: bool):
    """The layer as a function of tensors only."""
    function = LAYERS[name][0]
    sizes = SIZES if ragged else None

    def run(*tensors):
        return function(*tensors, batch_sizes=sizes, reverse=reverse)

    return run


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_gradcheck(name, ragged, reverse):
    run, tensors = with_options(name, ragged, reverse), arguments(name, ragged)
    assert gradcheck(run, tensors, check_batched_grad=True)
    assert gradgradcheck(run, tensors)


def test_gradcheck_with_a_projection():
    run, tensors = with_options("lstm", True, True), arguments("lstm", True, projection=2)
    assert gradcheck(run, tensors, check_batched_grad=True)
    assert gradgradcheck(run, tensors)


def test_gradcheck_relu():
    def run(*tensors):
        return single_layer.rnn_layer(*tensors, nonlinearity="relu")

    assert gradcheck(run, arguments("rnn", False))
    assert gradgradcheck(run, arguments("rnn", False))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_gradcheck_of_stacked_modules(name):
    module = getattr(seqkern.nn, name)(2, 3, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: module(x)[0], (x,))
    assert gradgradcheck(lambda x: module(x)[0], (x,))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_second_derivative_in_16_bits(name):
    """Differentiated through the reference, with float32 inside."""
    module = getattr(seqkern.nn, name)(3, 4, dtype=torch.bfloat16)
    x = torch.randn(5, 2, 3, dtype=torch.bfloat16, requires_grad=True)
    (first,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.float().square().sum(), x)
    assert second.dtype == torch.bfloat16 and second.isfinite().all() and second.any()


@pytest.mark.parametrize("name", LAYERS)
def test_a_graph_can_be_walked_twice(name):
    tensors = arguments(name, False)
    outputs = with_options(name, False, False)(*tensors)
    weights = [torch.randn_like(o) for o in outputs]
    first = torch.autograd.grad(outputs, tensors, weights, retain_graph=True)
    second = torch.autograd.grad(outputs, tensors, weights)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_every_subset_of_gradients(name, ragged):
    """Only what requires a gradient gets one, and it is the same as when all are asked for."""
    tensors = arguments(name, ragged)
    run = with_options(name, ragged, False)
    expected = torch.autograd.grad([o.sum() for o in run(*tensors)], tensors)
    for index, right in enumerate(expected):
        alone = [t.detach() for t in tensors]
        alone[index].requires_grad_()
        (found,) = torch.autograd.grad([o.sum() for o in run(*alone)], alone[index])
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_of_each_output_alone(name):
    tensors = arguments(name, True)
    run, reference_layer = with_options(name, True, True), LAYERS[name][1]
    states = LAYERS[name][3]
    for index in range(1 + states):
        found = torch.autograd.grad(run(*tensors)[index].sin().sum(), tensors)
        position = {"batch_sizes": SIZES, "reverse": True}
        expected = torch.autograd.grad(
            reference_layer(*tensors, **position)[index].sin().sum(), tensors
        )
        for mine, right in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", LAYERS)
def test_expanded_and_transposed_gradients(name):
    """Autograd hands over gradients of any strides."""
    tensors = arguments(name, False)
    run = with_options(name, False, False)
    output = run(*tensors)[0]
    dense = torch.randn(output.shape[::-1], dtype=torch.float64).permute(2, 1, 0)
    expanded = torch.randn((), dtype=torch.float64).expand(output.shape)
    for weight in (dense, expanded):
        found = torch.autograd.grad(output, tensors, weight, retain_graph=True)
        expected = torch.autograd.grad(output, tensors, weight.contiguous(), retain_graph=True)
        for mine, right in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, right, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_gradients_in_eval_mode(name):
    module = getattr(seqkern.nn, name)(3, 4).eval()
    module(torch.randn(5, 2, 3))[0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_same_tensor_in_two_places(name):
    """A second derivative when one tensor is both biases and both states."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[name]
    function = getattr(single_layer, f"{name.lower()}_layer")
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    shared = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(gates * 3, 2, dtype=torch.float64)
    r = torch.randn(gates * 3, 3, dtype=torch.float64)
    bias = torch.randn(gates * 3, dtype=torch.float64, requires_grad=True)
    states = 2 if name == "LSTM" else 1

    def run(shared, bias):
        return function(x, *[shared] * states, w, r, bias, bias)[0]

    assert gradcheck(run, (shared, bias))
    assert gradgradcheck(run, (shared, bias))


class TestTransforms:
    """torch.func and forward mode go through the reference and must agree with it."""

    @pytest.fixture(params=["LSTM", "GRU", "RNN"])
    def module(self, request):
        return getattr(seqkern.nn, request.param)(3, 4, 2, dtype=torch.float64)

    @pytest.fixture
    def x(self):
        return torch.randn(5, 2, 3, dtype=torch.float64)

    def loss(self, module):
        parameters = dict(module.named_parameters())

        def function(parameters, x):
            return functional_call(module, parameters, (x,))[0].square().sum()

        return function, parameters

    def test_grad(self, module, x):
        function, parameters = self.loss(module)
        found = grad(function)(parameters, x)
        expected = torch.autograd.grad(function(parameters, x), list(parameters.values()))
        for mine, right in zip(found.values(), expected, strict=True):
            torch.testing.assert_close(mine, right)

    def test_gradients_per_sample(self, module, x):
        function, parameters = self.loss(module)
        found = vmap(grad(function), in_dims=(None, 1))(parameters, x.unsqueeze(2))
        for sample in range(2):
            one = x[:, sample : sample + 1]
            expected = torch.autograd.grad(function(parameters, one), list(parameters.values()))
            for mine, right in zip(found.values(), expected, strict=True):
                torch.testing.assert_close(mine[sample], right)

    def test_vmap_without_gradients(self, module, x):
        with torch.no_grad():
            found = vmap(lambda x: module(x)[0])(torch.stack([x, 2 * x]))
            torch.testing.assert_close(found[1], module(2 * x)[0])

    def test_jvp_and_jacobians_agree(self, module, x):
        def function(x):
            return module(x)[0][:, 0]

        direction = torch.randn_like(x)
        value, along = jvp(function, (x,), (direction,))
        torch.testing.assert_close(value, function(x))
        torch.testing.assert_close(
            along, torch.einsum("...tbi,tbi", jacrev(function)(x), direction)
        )
        torch.testing.assert_close(jacfwd(function)(x), jacrev(function)(x))
        _, pull = vjp(function, x)
        weight = torch.randn_like(value)
        torch.testing.assert_close(torch.sum(pull(weight)[0] * direction), (weight * along).sum())

    def test_hessian(self, module, x):
        found = hessian(lambda x: module(x)[0].sum())(x[:2, :1])
        flat = found.reshape(6, 6)
        torch.testing.assert_close(flat, flat.T)
        assert flat.any()

    @pytest.mark.parametrize("gradients", [False, True])
    def test_forward_mode(self, module, x, gradients):
        direction = torch.randn_like(x)
        expected = jvp(lambda x: module(x)[0], (x,), (direction,))[1]
        with torch.set_grad_enabled(gradients), forward_ad.dual_level():
            plain = forward_ad.unpack_dual(module(x)[0])
            assert plain.tangent is None
            dual = forward_ad.unpack_dual(module(forward_ad.make_dual(x, direction))[0])
        torch.testing.assert_close(dual.tangent, expected)

    def test_forward_mode_through_a_backward(self, module, x):
        """The input is plain and the gradient dual: its tangent goes through a linear map."""
        output = module(x.requires_grad_())[0]
        weight, direction = torch.randn_like(output), torch.randn_like(output)
        sources = [x, *module.parameters()]
        values = torch.autograd.grad(output, sources, weight, retain_graph=True)
        along = torch.autograd.grad(output, sources, direction)
        with forward_ad.dual_level():
            output = module(x)[0]
            dual = forward_ad.make_dual(weight, direction)
            for mine, value, tangent in zip(
                torch.autograd.grad(output, sources, dual), values, along, strict=True
            ):
                found = forward_ad.unpack_dual(mine)
                torch.testing.assert_close(found.primal, value)
                torch.testing.assert_close(found.tangent, tangent)

    def test_jacobian_by_batched_backward(self, module, x):
        def function(x):
            return module(x)[0][-1]

        found = torch.autograd.functional.jacobian(function, x, vectorize=True)
        torch.testing.assert_close(found, jacrev(function)(x))


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_transforms_of_cells(name):
    cell = getattr(seqkern.nn, name)(3, 4, dtype=torch.float64)

    def function(x):
        result = cell(x)
        return result[0] if isinstance(result, tuple) else result

    x = torch.randn(6, 3, dtype=torch.float64)
    torch.testing.assert_close(vmap(function)(x), function(x))
    torch.testing.assert_close(jacfwd(function)(x), jacrev(function)(x))
    assert gradgradcheck(function, (x.requires_grad_(),))


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_checkpoint(name):
    module = getattr(seqkern.nn, name)(3, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(module(x)[0].sum(), x)
    for reentrant in (False, True):
        y = torch.utils.checkpoint.checkpoint(lambda x: module(x)[0], x, use_reentrant=reentrant)
        (found,) = torch.autograd.grad(y.sum(), x) if not reentrant else (None,)
        if reentrant:
            x.grad = None
            y.sum().backward()
            found = x.grad
        assert torch.equal(found, expected)


def in_other_strides(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers with the dimensions in another order in memory."""
    if tensor.dim() < 2:
        return torch.stack([tensor, tensor], -1)[..., 0] if tensor.dim() else tensor
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name, projection", [("lstm", 0), ("lstm", 2), ("gru", 0), ("rnn", 0)])
def test_saved_tensors_may_come_back_in_other_strides(name, projection, ragged, dtype):
    """Hooks that offload or compress what autograd saves promise the numbers and no more."""
    tensors = [t.detach().to(dtype).requires_grad_() for t in arguments(name, ragged, projection)]
    run = with_options(name, ragged, False)
    gradients = []
    for unpack in (lambda t: t, in_other_strides):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            outputs = run(*tensors)
        gradients.append(torch.autograd.grad([o.sum() for o in outputs], tensors))
    for mine, right in zip(*reversed(gradients), strict=True):
        assert torch.equal(mine, right)
