"""What `test_in_place` changes: every differentiable call of the package, with its peer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

import seqkern
from seqkern.nn import functional as SF

Tensors = dict[str, Tensor]
Call = Callable[[Tensors], Tensors]


@dataclass
class Subject:
    """A call of ours and of a peer as a function of named tensors, those that it reads and may be
    changed; `outputs` are the names of the results."""

    name: str
    ours: Call
    peer: Call
    tensors: Tensors
    outputs: tuple[str, ...]
    forbidden: tuple[str, ...] = ()
    """Inputs whose change both must refuse."""
    may_raise: tuple[str, ...] = ()
    """Inputs that the peer happens to copy before it saves them, at a cost that ours does not pay:
    attention's scaled queries, MultiheadAttention's input with the batch in another dimension."""

    def __str__(self) -> str:
        return self.name


def _module_call(module: nn.Module, forward: Callable[[Any, Tensors], Tensors]) -> Call:
    """A call with the parameters as tensors like others."""
    names = [name for name, _ in module.named_parameters()]

    def call(t: Tensors) -> Tensors:
        def run(*args: Any) -> Any:
            return functional_call(module, {name: t[name] for name in names}, args)

        return forward(run, t)

    return call


def _module_subject(
    name: str,
    module: nn.Module,
    tensors: Tensors,
    outputs: tuple[str, ...],
    forward: Callable[[Any, Tensors], Tensors],
    forbidden: tuple[str, ...],
    may_raise: tuple[str, ...] = (),
) -> Subject:
    ours = copy.deepcopy(module)
    seqkern.swap(ours)
    parameters = {n: p.detach() for n, p in module.named_parameters()}
    return Subject(
        name,
        _module_call(ours, forward),
        _module_call(module, forward),
        {**tensors, **parameters},
        outputs,
        forbidden,
        may_raise,
    )


def _layer(name: str, cls: type[nn.RNNBase], dtype: torch.dtype, **options: Any) -> Subject:
    torch.manual_seed(3)
    packed = options.pop("packed", False)
    module = cls(4, 5, dtype=dtype, **options)
    steps, batch = 4, 3
    layers = module.num_layers * (2 if module.bidirectional else 1)
    sizes = torch.tensor([3, 2, 2, 1]) if packed else None
    rows = (8,) if packed else (batch, steps) if module.batch_first else (steps, batch)
    state = {"h0": torch.randn(layers, batch, module.proj_size or 5, dtype=dtype)}
    if cls is nn.LSTM:
        state["c0"] = torch.randn(layers, batch, 5, dtype=dtype)

    def forward(run: Any, t: Tensors) -> Tensors:
        hx = (t["h0"], t["c0"]) if "c0" in state else t["h0"]
        output, last = run(t["x"] if sizes is None else PackedSequence(t["x"], sizes), hx)
        last = last if isinstance(last, tuple) else (last,)
        found = output if sizes is None else output.data
        return dict(zip(("out", "h_n", "c_n"), (found, *last), strict=False))

    weights = tuple(n for n, _ in module.named_parameters() if n.startswith("weight"))
    tensors = {"x": torch.randn(*rows, 4, dtype=dtype), **state}
    outputs = ("out", "h_n", "c_n") if cls is nn.LSTM else ("out", "h_n")
    # PyTorch multiplies by the last layer's matrices only where it has not done so before.
    return _module_subject(name, module, tensors, outputs, forward, ("x", "h0", *weights))


def _cell(name: str, cls: type[nn.RNNCellBase], **options: Any) -> Subject:
    torch.manual_seed(3)
    module = cls(4, 5, **options)
    lstm = cls is nn.LSTMCell
    tensors = {"x": torch.randn(3, 4), "h0": torch.randn(3, 5)}
    if lstm:
        tensors["c0"] = torch.randn(3, 5)

    def forward(run: Any, t: Tensors) -> Tensors:
        found = run(t["x"], (t["h0"], t["c0"]) if lstm else t["h0"])
        return dict(zip(("out", "c_n"), found if lstm else (found,), strict=False))

    return _module_subject(
        name, module, tensors, ("out", "c_n") if lstm else ("out",), forward,
        ("x", "h0", "weight_ih", "weight_hh"),
    )  # fmt: skip


def _sdpa(name: str, mask: bool = False, heads: int = 2, **options: Any) -> Subject:
    torch.manual_seed(3)
    tensors = {
        "q": torch.randn(2, 2, 6, 8),
        "k": torch.randn(2, heads, 7, 8),
        "v": torch.randn(2, heads, 7, 8),
    }
    if mask:
        tensors["mask"] = torch.randn(6, 7)

    def call(function: Any) -> Call:
        def run(t: Tensors) -> Tensors:
            return {"out": function(t["q"], t["k"], t["v"], t.get("mask"), **options)}

        return run

    theirs = call(nn.functional.scaled_dot_product_attention)
    return Subject(
        name, call(SF.scaled_dot_product_attention), theirs, tensors,
        ("out",), ("q", "k", "v"), ("q", "k", "mask"),
    )  # fmt: skip


def _varlen() -> Subject:
    torch.manual_seed(3)
    cu = torch.tensor([0, 3, 8], dtype=torch.int32)
    tensors = {n: torch.randn(8, 2, 8) for n in ("q", "k", "v")}

    def ours(t: Tensors) -> Tensors:
        return {"out": SF.varlen_attention(t["q"], t["k"], t["v"], cu, cu, 5, 5)}

    def peer(t: Tensors) -> Tensors:
        parts = [
            nn.functional.scaled_dot_product_attention(
                *(t[n][a:b].transpose(0, 1) for n in ("q", "k", "v"))
            ).transpose(0, 1)
            for a, b in ((0, 3), (3, 8))
        ]
        return {"out": torch.cat(parts)}

    return Subject(
        "varlen_attention", ours, peer, tensors, ("out",), ("q", "k", "v"), ("q", "k", "v")
    )


def _mha(name: str, need_weights: bool) -> Subject:
    torch.manual_seed(3)
    module = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(run: Any, t: Tensors) -> Tensors:
        out, weights = run(t["x"], t["y"], t["y"], None, need_weights)
        return {"out": out, "weights": weights} if need_weights else {"out": out}

    return _module_subject(
        name, module, {"x": torch.randn(2, 5, 8), "y": torch.randn(2, 6, 8)},
        ("out", "weights") if need_weights else ("out",), forward,
        ("x", "y", "in_proj_weight", "out_proj.weight"), ("x", "y"),
    )  # fmt: skip


def _by_reference(call: Call) -> Call:
    def run(t: Tensors) -> Tensors:
        with seqkern.use_backend("reference"):
            return call(t)

    return run


def _embedding(name: str, function: Any) -> Subject:
    torch.manual_seed(3)
    center, context = torch.randint(9, (6,)), torch.randint(9, (6, 2))
    negatives = torch.randint(9, (6, 2, 3) if function is SF.skipgram_loss else (6, 3))

    def ours(t: Tensors) -> Tensors:
        return {"out": function(t["in"], t["rows"], center, context, negatives)}

    tensors = {"in": torch.randn(9, 4), "rows": torch.randn(9, 4)}
    return Subject(name, ours, _by_reference(ours), tensors, ("out",), ("in", "rows"))


def _bags() -> Subject:
    torch.manual_seed(3)
    offsets, rows = torch.tensor([0, 2, 3, 5]), torch.tensor([0, 2, 1, 1, 3]).int()
    module = seqkern.nn.SubwordEmbedding(SimpleNamespace(offsets=offsets, rows=rows), 5)
    words = torch.tensor([0, 2, 2, 1])

    def forward(run: Any, t: Tensors) -> Tensors:
        return {"out": run(words)}

    call = _module_call(module, forward)
    tensors = {n: p.detach() for n, p in module.named_parameters()}
    return Subject("SubwordEmbedding", call, _by_reference(call), tensors, ("out",))


def subjects() -> list[Subject]:
    f32, f64, bf16 = torch.float32, torch.float64, torch.bfloat16
    found = []
    for cls in (nn.GRU, nn.RNN, nn.LSTM):
        n = cls.__name__
        found += [
            _layer(n, cls, f32),
            _layer(f"{n} float64", cls, f64),
            _layer(f"{n} bfloat16", cls, bf16),
            _layer(f"{n} packed", cls, f32, packed=True),
            _layer(f"{n} 2 layers batch_first", cls, f32, num_layers=2, batch_first=True),
            _layer(f"{n} bidirectional", cls, f32, bidirectional=True),
        ]
    found += [
        _layer("RNN relu", nn.RNN, f32, nonlinearity="relu"),
        _layer("LSTM projected", nn.LSTM, f32, proj_size=3),
        _cell("LSTMCell", nn.LSTMCell),
        _cell("GRUCell", nn.GRUCell),
        _cell("RNNCell", nn.RNNCell),
        _cell("RNNCell relu", nn.RNNCell, nonlinearity="relu"),
        _sdpa("attention"),
        _sdpa("attention causal", is_causal=True),
        _sdpa("attention with a bias", mask=True),
        _sdpa("attention in groups", heads=1, enable_gqa=True),
        _varlen(),
        _mha("MultiheadAttention", need_weights=False),
        _mha("MultiheadAttention with weights", need_weights=True),
        _embedding("skip-gram", SF.skipgram_loss),
        _embedding("CBOW", SF.cbow_loss),
        _bags(),
    ]
    return found
