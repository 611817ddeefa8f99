"""Swapping what derives from torch.nn's classes: users' subclasses, parametrizations, FSDP2."""

from __future__ import annotations

import abc
import copy
import gc
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize

import seqkern
from seqkern.swapping.class_exchange import user_counterpart
from seqkern.swapping.swap import SWAPS
from tests.test_fx import E, H, S, module

NAMES = [cls.__name__ for cls in SWAPS]
B = 3

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")


class Helpers:
    """What users add."""

    kept = 7

    @property
    def size_in_numbers(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())  # type: ignore[attr-defined]

    def helper(self) -> str:
        return f"{self.kept} {self.extra_repr()}"  # type: ignore[attr-defined]


def _subclasses() -> dict[str, type[torch.nn.Module]]:
    """One at the top of this module for each class, where pickle finds them."""
    made = {}
    for old in SWAPS:
        name = f"My{old.__name__}"

        def extra_repr(self: Any, old: Any = old) -> str:
            return f"mine, {old.extra_repr(self)}"

        made[name] = type(name, (Helpers, old), {"extra_repr": extra_repr, "__module__": __name__})
    return made


SUBCLASSES = _subclasses()
globals().update(SUBCLASSES)


def build(name: str) -> Any:
    made = module(name)
    made.__class__ = SUBCLASSES[f"My{name}"]
    return made


def call(part: torch.nn.Module) -> Tensor:
    x, y = torch.randn(2, B, S, E, generator=torch.Generator().manual_seed(1))
    if isinstance(part, torch.nn.modules.rnn.RNNCellBase):
        result = part(x[:, 0])
    elif isinstance(part, torch.nn.MultiheadAttention):
        result = part(x, y, y)
    elif "Decoder" in type(part).__name__ or isinstance(part, torch.nn.Transformer):
        result = part(x, y)
    else:
        result = part(x)
    return result if isinstance(result, Tensor) else result[0]


def saved(part: torch.nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(part, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "save": saved,
    **{
        f"pickle {protocol}": lambda part, protocol=protocol: pickle.loads(
            pickle.dumps(part, protocol)
        )
        for protocol in (0, 2, pickle.HIGHEST_PROTOCOL)
    },
}


@pytest.mark.parametrize("name", NAMES)
class TestHelpersOnly:
    def test_swapped_with_its_own_methods(self, name: str) -> None:
        part, cls = build(name), SUBCLASSES[f"My{name}"]
        expected, text, printed = call(part), part.helper(), repr(part)
        gradient = torch.autograd.grad(expected.sum(), next(part.parameters()))[0]

        report = seqkern.swap(part)
        assert not report.left and report.swapped[0].path == ""
        ours = SWAPS[getattr(torch.nn, name)]
        assert f"-> {__name__}.My{name} on seqkern.nn.{name}" in str(report)
        assert isinstance(part, cls) and isinstance(part, ours)
        assert type(part).forward is ours.forward  # type: ignore[attr-defined]
        assert (part.helper(), repr(part), part.kept) == (text, printed, 7)
        assert part.size_in_numbers == sum(p.numel() for p in part.parameters())
        found = call(part)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), next(part.parameters()))[0], gradient
        )
        assert seqkern.swap(part).swapped == []

        seqkern.unswap(part)
        assert type(part) is cls
        torch.testing.assert_close(call(part), expected, rtol=0, atol=0)

    @pytest.mark.parametrize("how", COPIES)
    def test_copies(self, name: str, how: str) -> None:
        part = build(name)
        seqkern.swap(part)
        copied = COPIES[how](part)
        assert type(copied) is type(part) and copied.helper() == part.helper()
        torch.testing.assert_close(call(copied), call(part), rtol=0, atol=0)
        seqkern.unswap(copied)
        assert type(copied) is SUBCLASSES[f"My{name}"]

    def test_a_pickle_outlives_the_class(self, name: str) -> None:
        """As in another process, where nothing has been swapped."""
        part, cls = build(name), SUBCLASSES[f"My{name}"]
        expected = call(part)
        seqkern.swap(part)
        made, kept = id(type(part)), pickle.dumps(part)
        del part
        gc.collect()
        assert made not in map(id, cls.__subclasses__())
        loaded = pickle.loads(kept)
        assert type(loaded) is user_counterpart(cls)
        torch.testing.assert_close(call(loaded), expected)


def subclass(base: type, **members: Any) -> Any:
    return type("Mine", (base,), members)


def method(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the test calls none of these")


REPLACED = {
    torch.nn.LSTM: [
        "forward",
        "check_forward_args",
        "check_input",
        "check_hidden_size",
        "get_expected_hidden_size",
        "get_expected_cell_size",
        "permute_hidden",
        "_update_flat_weights",
        "_apply",
        "_load_from_state_dict",
        "__getstate__",
        "__getattr__",
        "__getattribute__",
        "__call__",
    ],
    torch.nn.GRUCell: ["forward", "_apply"],
    torch.nn.MultiheadAttention: ["forward", "merge_masks", "__call__"],
    torch.nn.TransformerEncoderLayer: ["forward"],
    torch.nn.TransformerDecoderLayer: ["forward"],
    torch.nn.TransformerEncoder: ["forward"],
    torch.nn.TransformerDecoder: ["forward"],
    torch.nn.Transformer: ["forward"],
}


@pytest.mark.parametrize(
    "base, name", [(base, name) for base, names in REPLACED.items() for name in names]
)
def test_what_seqkern_replaces_is_named(base: Any, name: str) -> None:
    part: Any = module(base.__name__)
    theirs = object.__getattribute__ if name == "__getattribute__" else method
    cls = subclass(subclass(base, **{name: theirs, "helper": method}), other=method)
    part.__class__ = cls
    report = seqkern.swap(torch.nn.ModuleList([part]))
    assert [entry.reason for entry in report.left] == [
        f"a subclass of torch.nn.{base.__name__} that overrides {name}, which seqkern replaces"
    ]
    assert type(part) is cls


@pytest.mark.parametrize(
    "base, name",
    [
        (torch.nn.LSTM, "weight_hh_l0"),
        (torch.nn.LSTM, "_flat_weights"),
        (torch.nn.LSTMCell, "weight_hh"),
        (torch.nn.MultiheadAttention, "in_proj_weight"),
    ],
)
def test_weights_of_its_own_making(base: Any, name: str) -> None:
    part = module(base.__name__)
    part.__class__ = subclass(base, **{name: property(method)})
    report = seqkern.swap(torch.nn.ModuleList([part]))
    assert f"overrides {name}, which seqkern replaces" in report.left[0].reason


HARMLESS = {
    torch.nn.LSTM: ["__init__", "flatten_parameters", "all_weights", "train", "to", "__repr__"],
    torch.nn.MultiheadAttention: ["__init__", "_reset_parameters", "__setstate__", "state_dict"],
    torch.nn.TransformerEncoderLayer: ["__init__", "_sa_block", "_ff_block", "__setstate__"],
    torch.nn.Transformer: ["generate_square_subsequent_mask", "_reset_parameters"],
}


@pytest.mark.parametrize(
    "base, name", [(base, name) for base, names in HARMLESS.items() for name in names]
)
def test_all_else_is_theirs_to_override(base: Any, name: str) -> None:
    part: Any = module(base.__name__)
    cls = subclass(base, **{name: method})
    part.__class__ = cls
    seqkern.swap(part)
    assert isinstance(part, SWAPS[base]) and isinstance(part, cls)
    with pytest.raises(AssertionError, match="the test calls none"):
        getattr(part, name)()


def test_a_name_that_only_seqkern_uses() -> None:
    part: Any = torch.nn.LSTM(3, 4)
    part.__class__ = subclass(torch.nn.LSTM, _run=method)
    assert seqkern.swap(part).left[0].reason == (
        "a subclass of torch.nn.LSTM that has _run of its own, where seqkern needs that name"
    )
    attention: Any = torch.nn.MultiheadAttention(E, H)
    attention._heads = torch.nn.Identity()
    assert seqkern.swap(attention).left[0].reason == (
        "this one object has _heads of its own, where seqkern needs that name"
    )


def test_methods_replaced_on_one_object() -> None:
    for name in ("forward", "permute_hidden", "check_forward_args"):
        part = torch.nn.LSTM(3, 4)
        setattr(part, name, lambda *_: None)
        assert seqkern.swap(part).left[0].reason == (
            f"this one object overrides {name}, which seqkern replaces"
        )
    part = torch.nn.LSTM(3, 4)
    part.flatten_parameters = lambda: None  # type: ignore[method-assign]
    assert seqkern.swap(part).swapped


class Scaled(torch.nn.LSTM):
    """Constructor, super() and a second level, as people write them."""

    def __init__(self, width: int, scale: float = 2.0) -> None:
        super().__init__(width, width, batch_first=True)
        self.scale = scale

    def to(self, *args: Any, **kwargs: Any) -> Any:
        self.moved = True
        return super().to(*args, **kwargs)

    def scaled(self, x: Tensor) -> Tensor:
        return self.scale * self(x)[0]


class Counted(Scaled, abc.ABC):
    calls = 0

    def scaled(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().scaled(x)


class TestOneSubclass:
    def test_two_levels_a_metaclass_and_super(self) -> None:
        part, x = Counted(4), torch.randn(2, 5, 4)
        expected = part.scaled(x)
        seqkern.swap(part, verify=x)
        torch.testing.assert_close(part.scaled(x), expected)
        assert part.calls == 2 and part.to(torch.float32) is part and part.moved
        another = type(part)(4, scale=3.0)  # type(m)(...) is how some libraries copy
        assert isinstance(another, seqkern.nn.LSTM) and another.scale == 3.0
        seqkern.unswap(part)
        assert type(part) is Counted

    def test_one_class_for_all_its_objects(self) -> None:
        model = torch.nn.ModuleList(Scaled(4) for _ in range(3))
        seqkern.swap(model)
        assert len({type(part) for part in model}) == 1

    def test_compiled_in_one_graph(self) -> None:
        part, x = Counted(4), torch.randn(2, 5, 4)
        expected = part(x)[0]
        seqkern.swap(part)
        torch._dynamo.reset()
        found = torch.compile(part.scaled, fullgraph=True, backend="aot_eager")(x)
        torch.testing.assert_close(found, 2 * expected)

    def test_prepacked_and_explained(self) -> None:
        part, x = Scaled(4), torch.randn(2, 5, 4)
        seqkern.swap(part)
        expected = part(x)[0]
        seqkern.prepack_(part)
        with torch.no_grad():
            torch.testing.assert_close(part(x)[0], expected)
        assert copy.deepcopy(part)._packed_weights is None
        assert "runs on: " in str(seqkern.explain(part, x))

    def test_a_pickle_of_a_class_that_overrides_more_by_now(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        part = Scaled(4)
        seqkern.swap(part)
        kept = pickle.dumps(part)
        monkeypatch.setattr(Scaled, "permute_hidden", method, raising=False)
        assert type(pickle.loads(kept)) is Scaled

    def test_slots(self) -> None:
        class Slots(torch.nn.GRU):
            __slots__ = ("note",)

        part = Slots(3, 4)
        part.note = "kept"
        seqkern.swap(part)
        assert part.note == "kept" and isinstance(part, seqkern.nn.GRU)

    def test_no_class_to_be_had(self) -> None:
        class Registered(torch.nn.GRU):
            def __init_subclass__(cls, *, key: str) -> None:
                super().__init_subclass__()

        part = Registered(3, 4)
        reason = seqkern.swap(part).left[0].reason
        assert reason.startswith("no class can be derived from it (TypeError: ")
        assert "key" in reason and type(part) is Registered


def test_a_subclass_of_ours_is_the_users() -> None:
    part: Any = seqkern.nn.LSTM(3, 4)
    part.__class__ = cls = subclass(seqkern.nn.LSTM, forward=method)
    assert seqkern.swap(part).swapped == seqkern.unswap(part).swapped == []
    assert type(part) is cls


class TestParametrized:
    def test_the_users_subclass(self) -> None:
        part, x = Scaled(4), torch.randn(2, 5, 4)
        parametrizations.weight_norm(part, "weight_hh_l0")
        cls, expected = type(part), part.scaled(x)
        report = seqkern.swap(part)
        assert f"ParametrizedScaled on {__name__}.Scaled on seqkern.nn.LSTM" in str(report)
        torch.testing.assert_close(part.scaled(x), expected)
        seqkern.unswap(part)
        assert type(part) is cls
        torch.testing.assert_close(part.scaled(x), expected)

    def test_changed_in_between(self) -> None:
        part, x = Scaled(4), torch.randn(2, 5, 4)
        parametrizations.weight_norm(part, "weight_hh_l0")
        seqkern.swap(part)
        parametrizations.weight_norm(part, "weight_ih_l0")
        expected = part.scaled(x)
        seqkern.unswap(part)
        assert not isinstance(part, seqkern.nn.LSTM)
        assert parametrize.is_parametrized(part, "weight_ih_l0")
        torch.testing.assert_close(part.scaled(x), expected)
        seqkern.swap(part)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            parametrize.remove_parametrizations(part, name)
        assert type(part) is user_counterpart(Scaled)
        torch.testing.assert_close(part.scaled(x), expected)
        seqkern.unswap(part)
        assert type(part) is Scaled


class Stack(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = Scaled(E)
        self.gru = torch.nn.GRU(E, E, batch_first=True)
        self.attention = torch.nn.MultiheadAttention(E, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gru(self.lstm(x)[0])[0]
        return self.attention(x, x, x)[0]


class TestFullyShard:
    @pytest.fixture(autouse=True)
    def _one_process(self) -> Iterator[None]:
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
        yield
        torch.distributed.destroy_process_group()

    def sharded(self, model: Stack) -> None:
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        for part in (*model.children(), model):
            fully_shard(part, mesh=mesh)

    def test_before_the_swap(self) -> None:
        model, x = Stack(), torch.randn(B, S, E)
        expected = model(x)
        gradients = torch.autograd.grad(expected.sum(), list(model.parameters()))
        self.sharded(model)
        classes = [type(part) for part in model.modules()]
        report = seqkern.swap(model)
        assert not report.left and {entry.path for entry in report.swapped} == {
            "lstm",
            "gru",
            "attention",
        }
        assert f"FSDPScaled on {__name__}.Scaled on seqkern.nn.LSTM" in str(report)
        for part in model.children():
            assert isinstance(part, torch.distributed.fsdp.FSDPModule)
            assert isinstance(part, tuple(SWAPS.values()))
        found = model(x)
        torch.testing.assert_close(found, expected)
        found.sum().backward()
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.grad.full_tensor(), gradient)  # type: ignore

        seqkern.unswap(model)
        assert [type(part) for part in model.modules()] == classes
        torch.testing.assert_close(model(x), expected)

    def test_after_the_swap(self) -> None:
        model, x = Stack(), torch.randn(B, S, E)
        expected = model(x)
        seqkern.swap(model)
        self.sharded(model)
        torch.testing.assert_close(model(x), expected)
        report = seqkern.unswap(model)
        assert "FSDPGRU on seqkern.nn.GRU" in str(report)
        assert "-> FSDPGRU on torch.nn.GRU" in str(report)
        torch.testing.assert_close(model(x), expected)
