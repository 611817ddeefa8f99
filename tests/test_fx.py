"""torch.fx takes our modules for leaves, as it does torch.nn's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.proxy import TraceError

import seqkern
from seqkern.swapping.swap import SWAPS

E, H, F, B, S = 8, 2, 16, 3, 5
NAMES = [cls.__name__ for cls in SWAPS]

pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
]


def module(name: str) -> torch.nn.Module:
    cls = getattr(torch.nn, name)
    if "RNN" in name or "LSTM" in name or "GRU" in name:
        return cls(E, E) if name.endswith("Cell") else cls(E, E, batch_first=True)
    if name == "MultiheadAttention":
        return cls(E, H, batch_first=True)
    if name == "Transformer":
        return cls(E, H, 1, 1, F, dropout=0.0, batch_first=True)
    if name.endswith("Layer"):
        return cls(E, H, F, dropout=0.0, batch_first=True)
    return cls(module(f"{name}Layer"), 2)


class Model(torch.nn.Module):
    """One module called in all the ways that its kind allows, options by name and by place, with
    arguments that are traced and such that are not."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.into = torch.nn.Linear(4, E)
        self.part = module(name)
        self.name = name
        self.constant = torch.randn(B, S, E)  # no buffer, so no Proxy

    def forward(self, x: Tensor, padding: Tensor) -> Any:
        y = self.into(x)
        name, part, constant = self.name, self.part, self.constant
        if name == "LSTMCell":
            h, c = part(y[:, 0])
            h, c = part(constant[:, 0], (h, c))
            return part(y[:, 1], hx=part(constant[:, 1], part(y[:, 2], [h, c])))
        if name.endswith("Cell"):
            h = part(constant[:, 0], part(y[:, 0]))
            return part(y[:, 1], hx=h)
        if name == "LSTM":
            y, (h, c) = part(y)
            y, state = part(constant, (h, c))
            return part(y, hx=state)
        if name in ("GRU", "RNN"):
            y, h = part(y)
            y, h = part(constant, h)
            return part(y, hx=h)
        if name == "MultiheadAttention":
            z, weights = part(y, y, y)
            z, _ = part(z, constant, constant, key_padding_mask=padding, need_weights=False)
            return part(constant, y, y)[0] + part(constant, constant, z)[0], z, weights
        if "Encoder" in name:
            z = part(y, src_key_padding_mask=padding)
            return part(z), part(
                constant, src_key_padding_mask=padding
            ) if "Layer" not in name else z
        return part(part(y, constant), y, **{option(name): padding}), part(constant, y)


def option(name: str) -> str:
    return "src_key_padding_mask" if name == "Transformer" else "tgt_key_padding_mask"


def inputs() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([[S], [S - 1], [S - 2]])
    return torch.randn(B, S, 4), torch.arange(S) >= lengths


def calls(graph: fx.Graph) -> list[tuple[str, str]]:
    return [(node.op, str(node.target)) for node in graph.nodes]


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_that_of_torch_and_gives_the_same_and_compiles(name: str) -> None:
    model, arguments = Model(name), inputs()
    expected, graph = model(*arguments), fx.symbolic_trace(copy.deepcopy(model)).graph
    seqkern.swap(model)
    traced = fx.symbolic_trace(model)
    assert calls(traced.graph) == calls(graph)
    if "attention" in type(model.part).__module__:  # the others' hx has a place and not its name
        assert [str(node.kwargs) for node in traced.graph.nodes] == [
            str(node.kwargs) for node in graph.nodes
        ]
    torch.testing.assert_close(traced(*arguments), expected)
    torch._dynamo.reset()
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), expected)


class Features(fx.Tracer):
    """What torchvision's feature extraction does: it records itself in which module
    each node was made, and decides by itself whether to enter one."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = ""
        self.made_in: dict[str, str] = {}

    def call_module(self, m: torch.nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        outside, self.inside = self.inside, self.path_of_module(m)
        try:
            if self.is_leaf_module(m, self.inside):
                return self.create_proxy("call_module", self.inside, args, kwargs)
            return forward(*args, **kwargs)
        finally:
            self.inside = outside

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        proxy = super().create_proxy(*args, **kwargs)
        self.made_in[proxy.node.name] = self.inside
        return proxy


def test_feature_extraction() -> None:
    model = torch.nn.Sequential(Model("GRUCell"), torch.nn.Linear(E, 2))

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return self.body[1](self.body[0](x, padding))

    wrapped, (x, padding) = Wrapped(), inputs()
    before, expected = Features(), wrapped(x, padding)
    before.trace(wrapped)
    seqkern.swap(wrapped)
    tracer = Features()
    graph = tracer.trace(wrapped)
    assert tracer.made_in == before.made_in and "body.0.part" in tracer.made_in.values()

    node = next(node for node in graph.nodes if node.target == "body.0.part")
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ((node, output.args[0]),)
    state, result = fx.GraphModule(wrapped, graph)(x, padding)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(state, wrapped.body[0].part(wrapped.body[0].into(x)[:, 0]))


def test_quantization_of_what_is_around() -> None:
    quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    mapping = pytest.importorskip("torch.ao.quantization").get_default_qconfig_mapping("x86")
    for name in ("LSTM", "MultiheadAttention"):
        model, arguments = Model(name).eval(), inputs()
        expected = model(*arguments)
        seqkern.swap(model)
        prepared = quantize_fx.prepare_fx(model, mapping, arguments)
        torch.testing.assert_close(prepared(*arguments), expected)
        converted = quantize_fx.convert_fx(copy.deepcopy(prepared))
        assert type(converted.part) is type(model.part)
        assert "quantized" in type(converted.into).__module__
        torch.testing.assert_close(converted(*arguments)[0], expected[0], rtol=0, atol=0.1)


@pytest.mark.parametrize("name", ["LSTM", "GRUCell", "MultiheadAttention", "TransformerDecoder"])
class TestRefusals:
    def test_hooks(self, name: str) -> None:
        """torch.fx would run them when it traces, and the graph again."""
        for register in ("register_forward_hook", "register_forward_pre_hook"):
            model, arguments = Model(name), inputs()
            seqkern.swap(model)
            getattr(model.part, register)(lambda *_: None)
            with pytest.raises(TraceError, match=r"part \(\w+\) has forward hooks"):
                fx.symbolic_trace(model)

            class Tracer(fx.Tracer):
                def is_leaf_module(self, m: torch.nn.Module, path: str) -> bool:
                    return path == "part" or super().is_leaf_module(m, path)

            traced = fx.GraphModule(model, Tracer().trace(model))
            torch.testing.assert_close(traced(*arguments), model(*arguments))

    def test_a_backward_hook_of_the_old_kind(self, name: str) -> None:
        """torch would search the Proxy for a tensor without end."""
        model = Model(name)
        seqkern.swap(model)
        model.part.register_backward_hook(lambda *_: None)
        with pytest.raises(TraceError, match="hooks"):
            fx.symbolic_trace(model)

    def test_nothing_around_it(self, name: str) -> None:
        alone = module(name)
        seqkern.swap(alone)
        with pytest.raises(TraceError, match="is a leaf of torch.fx: trace a module that contains"):
            fx.symbolic_trace(alone)

    def test_a_module_of_another_model(self, name: str) -> None:
        model, other = Model(name), Model(name)
        seqkern.swap(other)
        model.__dict__["part"] = other.part  # not a submodule
        del model._modules["part"]
        with pytest.raises(NameError, match="not installed as a submodule"):
            fx.symbolic_trace(model)
