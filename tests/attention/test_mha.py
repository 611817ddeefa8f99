"""seqkern.nn.MultiheadAttention against torch.nn's, and where it goes beyond."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import pytest
import torch
from torch import Tensor

import seqkern
from seqkern.attention import modules, multi_head
from tests.parity import assert_all_parity

E, H, B, N, M = 12, 3, 2, 5, 7

CONSTRUCTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "added keys": {"add_bias_kv": True, "add_zero_attn": True},
    "bias_kv": {"add_bias_kv": True, "bias": False},
    "zero_attn": {"add_zero_attn": True},
    "kdim and vdim": {"kdim": 8, "vdim": 4},
    "vdim": {"vdim": 4, "bias": False},
}

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


def pair(dtype=torch.float32, **options):
    """torch.nn's module and ours with the same random weights (its biases start as zeros)."""
    theirs = torch.nn.MultiheadAttention(E, H, **options)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(0.5 * torch.randn_like(p))
    ours = seqkern.nn.MultiheadAttention(E, H, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(dtype), ours.to(dtype)


def inputs(kind, module, batched=True, queries=N, keys=M):
    """query, key, value; the same object where `kind` says so."""

    def make(length, width):
        shape = (B, length, width) if module.batch_first else (length, B, width)
        return torch.randn(shape if batched else (length, width))

    if kind == "self":
        return (make(keys, E),) * 3
    if kind == "memory":
        return (make(queries, E), *(make(keys, E),) * 2)
    if kind == "query is key":
        return (*(make(keys, E),) * 2, make(keys, module.vdim))
    return make(queries, E), make(keys, module.kdim), make(keys, module.vdim)


def padding(kind, batched=True):
    shape = (B, M) if batched else (M,)
    if kind is None:
        return None
    if kind == "float":
        return torch.randn(shape)
    return torch.arange(M) >= (torch.tensor([[M - 2], [M - 4]]) if batched else M - 2)


def attn(kind, queries, batch=B):
    if kind is None:
        return None
    shape = (queries, M) if kind.startswith("2") else (batch * H, queries, M)
    if kind.endswith("float"):
        return torch.randn(shape)
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False  # PyTorch has no answer where everything is excluded
    return mask


def results(module, tensors, dtype, **call):
    """Outputs, and the gradients of a random function of them for every floating tensor."""
    of = {id(t): t.to(dtype).requires_grad_() for t in tensors}
    query, key, value = (of[id(t)] for t in tensors)
    call = {
        name: option.detach().to(dtype).requires_grad_()
        if isinstance(option, Tensor) and option.is_floating_point()
        else option
        for name, option in call.items()
    }
    outputs = [o for o in module(query, key, value, **call) if o is not None]
    floating = [o for o in call.values() if isinstance(o, Tensor) and o.is_floating_point()]
    sources = [*of.values(), *floating, *module.parameters()]
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(o.shape, generator=generator).to(dtype) for o in outputs]
    return [*outputs, *torch.autograd.grad(outputs, sources, weights)]


def assert_agree(theirs, ours, tensors, dtype=torch.float32, **call):
    reference = results(copy.deepcopy(theirs).double(), tensors, torch.float64, **call)
    other = results(theirs, tensors, dtype, **call)
    found = results(ours, tensors, dtype, **call)
    assert_all_parity(found, other, reference, [f"result {i}" for i in range(len(reference))])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["self", "memory", "query is key", "apart"])
@pytest.mark.parametrize("make", CONSTRUCTIONS)
def test_agrees_with_torch(make, kind, batch_first):
    options = CONSTRUCTIONS[make]
    theirs, ours = pair(batch_first=batch_first, **options)
    if (kind != "apart" and theirs.kdim != E) or (kind == "memory" and theirs.vdim != E):
        kind = "apart"
    if kind == "self" and theirs.vdim != E:
        kind = "query is key"
    tensors = inputs(kind, theirs)
    queries = N if kind in ("memory", "apart") else M
    for pad, mask, need_weights in (
        (None, None, True),
        ("bool", None, False),
        ("bool", "2 bool", True),
        ("float", "3 float", False),
    ):
        call = {"key_padding_mask": padding(pad), "attn_mask": attn(mask, queries)}
        assert_agree(theirs, ours, tensors, need_weights=need_weights, **call)


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("mask", ["2 bool", "2 float", "3 bool", "3 float"])
@pytest.mark.parametrize("pad", [None, "bool", "float"])
@pytest.mark.parametrize("average", [True, False])
def test_masks_of_all_kinds(pad, mask, average, backend):
    theirs, ours = pair()
    seqkern.use_backend(backend)
    call = {"key_padding_mask": padding(pad), "attn_mask": attn(mask, N)}
    assert_agree(theirs, ours, inputs("memory", theirs), average_attn_weights=average, **call)


@pytest.mark.parametrize("make", ["plain", "added keys"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("pad", [None, "bool"])
@pytest.mark.parametrize("mask", [None, "2 float", "3 bool"])
def test_unbatched(make, batch_first, pad, mask):
    theirs, ours = pair(batch_first=batch_first, **CONSTRUCTIONS[make])
    call = {"key_padding_mask": padding(pad, batched=False), "attn_mask": attn(mask, N, batch=1)}
    for need_weights in (True, False):
        for average in (True, False):
            tensors = inputs("memory", theirs, batched=False)
            options = {"need_weights": need_weights, "average_attn_weights": average}
            assert_agree(theirs, ours, tensors, **options, **call)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("need_weights", [True, False])
def test_dtypes(dtype, need_weights):
    theirs, ours = pair(dtype)
    for pad, mask in (("bool", None), (None, "2 bool"), (None, "3 float")):
        call = {"key_padding_mask": padding(pad), "attn_mask": attn(mask, N)}
        assert_agree(
            theirs, ours, inputs("memory", theirs), dtype, need_weights=need_weights, **call
        )


def test_evaluation_agrees_with_torchs_fast_path():
    """... which this module does not take, and which returns the same."""
    theirs, ours = pair(batch_first=True)
    theirs, ours = (
        cls(E, 2, batch_first=True) for cls in (torch.nn.MultiheadAttention, type(ours))
    )  # an even number of heads, or torch takes its slow path
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(B, M, E)
    with torch.no_grad():
        for average in (True, False):
            for pad in (None, padding("bool")):
                call = {"key_padding_mask": pad, "average_attn_weights": average}
                expected = theirs.eval()(x, x, x, **call)
                found = ours.eval()(x, x, x, **call)
                for mine, other in zip(found, expected, strict=True):
                    torch.testing.assert_close(mine, other)


def test_torchs_fast_path_is_never_taken(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("torch's fast path")

    monkeypatch.setattr(torch, "_native_multi_head_attention", forbidden)
    x = torch.randn(B, M, E)
    theirs = torch.nn.MultiheadAttention(E, 2, batch_first=True).eval()
    with torch.no_grad():
        with pytest.raises(AssertionError, match="fast path"):
            theirs(x, x, x)
        seqkern.nn.MultiheadAttention(E, 2, batch_first=True).eval()(x, x, x)


class TestWhatReachesTheOperator:
    """The projections as they are, masks as small as they came, and causality as a flag."""

    @pytest.fixture
    def calls(self, monkeypatch):
        """What either operator got: that between the projections, or where keys are added that of
        single heads."""
        seen = []

        def record(query, key, value, bias, call):
            options = {"mask": call.mask, "bias": bias, "is_causal": call.is_causal}
            seen.append((query, key, value, options))
            return attend(query, key, value, bias, call)

        def record_heads(query, key, value, **options):
            seen.append((query, key, value, options))
            return operator(query, key, value, **options)

        attend, operator = multi_head.attend, modules.attention
        monkeypatch.setattr(multi_head, "attend", record)
        monkeypatch.setattr(modules, "attention", record_heads)
        return seen

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_projections_of_one_product(self, calls, batch_first):
        _, ours = pair(batch_first=batch_first)
        ours(*inputs("self", ours))
        ours(*inputs("memory", ours))
        (qkv, *none), (_, kv, no_value) = (tensors for *tensors, _ in calls)
        lead = (B, M) if batch_first else (M, B)
        assert qkv.shape == (*lead, 3 * E) and none == [None, None]
        assert kv.shape == (*lead, 2 * E) and no_value is None

    def test_masks_stay_apart(self, calls):
        _, ours = pair()
        ours(
            *inputs("memory", ours), key_padding_mask=padding("bool"), attn_mask=attn("2 float", N)
        )
        ours(
            *inputs("memory", ours), key_padding_mask=padding("float"), attn_mask=attn("3 bool", N)
        )
        ours(*inputs("memory", ours), key_padding_mask=padding("bool"), attn_mask=attn("2 bool", N))
        shapes = [
            tuple(None if o[name] is None else tuple(o[name].shape) for name in ("mask", "bias"))
            for *_, o in calls
        ]
        assert shapes == [
            ((B, 1, 1, M), (1, 1, N, M)),
            ((B, H, N, M), (B, 1, 1, M)),
            ((B, 1, N, M), None),
        ]
        ours(*inputs("memory", ours), key_padding_mask=padding("bool"))
        assert calls[-1][-1]["mask"].shape == (B, M)

    @pytest.mark.parametrize("pad", [None, "bool"])
    def test_the_causal_hint_takes_the_place_of_the_mask(self, calls, pad):
        theirs, ours = pair()
        mask = torch.ones(M, M, dtype=torch.bool).triu(1)
        call = {"attn_mask": mask, "key_padding_mask": padding(pad), "is_causal": True}
        tensors = inputs("self", theirs)
        assert_agree(theirs, ours, tensors, need_weights=False, **call)
        options = calls[-1][-1]
        assert options["is_causal"] is True
        assert (options["mask"] is None) == (pad is None) and options["bias"] is None
        if pad is not None:
            assert options["mask"].shape == (B, M)
        # With weights PyTorch goes by the mask.
        assert_agree(theirs, ours, tensors, **call)
        assert calls[-1][-1]["is_causal"] is False

    def test_the_hint_alone_goes_where_it_goes_in_pytorch(self, calls):
        """The mask is not read: it may be too large, and added keys come last."""
        mask = torch.ones(M + 3, M + 3, dtype=torch.bool).triu(1)
        call = {"attn_mask": mask, "is_causal": True, "need_weights": False}
        for options in ({}, {"add_zero_attn": True}):
            theirs, ours = pair(**options)
            assert_agree(theirs, ours, inputs("self", theirs), **call)
        assert all(options["is_causal"] for *_, options in calls)

    def test_the_hint_does_not_cost_a_gradient_or_an_added_key(self, calls):
        theirs, ours = pair(add_zero_attn=True)
        mask = torch.zeros(M, M).masked_fill_(torch.ones(M, M).triu(1).bool(), -torch.inf)
        call = {"attn_mask": mask, "key_padding_mask": padding("bool"), "is_causal": True}
        assert_agree(theirs, ours, inputs("self", theirs), need_weights=False, **call)
        theirs, ours = pair()
        assert_agree(theirs, ours, inputs("self", theirs), need_weights=False, **call)
        assert not any(options["is_causal"] for *_, options in calls)


class TestExcludedKeys:
    def call(self):
        pad = padding("bool")
        pad[1] = True  # the second sequence is all padding
        return {"key_padding_mask": pad}

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("need_weights", [True, False])
    def test_a_query_without_keys_gives_zeros(self, need_weights, training):
        theirs, ours = pair(batch_first=True)
        ours.train(training)
        query, memory, _ = inputs("memory", ours)
        memory.requires_grad_()
        output, weights = ours(query, memory, memory, need_weights=need_weights, **self.call())
        torch.testing.assert_close(output[1], ours.out_proj.bias.expand(N, E))
        expected, its_weights = theirs(
            query[:1], memory[:1], memory[:1], key_padding_mask=self.call()["key_padding_mask"][:1]
        )
        torch.testing.assert_close(output[:1], expected)
        loss = output.square().sum()
        if need_weights:
            assert torch.equal(weights[1], torch.zeros(N, M))
            torch.testing.assert_close(weights[:1], its_weights)
            loss = loss + weights.square().sum()
        loss.backward()
        assert torch.equal(memory.grad[1], torch.zeros(M, E))
        assert all(p.grad.isfinite().all() for p in ours.parameters())

    def test_a_float_mask_can_exclude_all_keys_too(self):
        _, ours = pair(batch_first=True)
        mask = torch.zeros(N, M)
        mask[2] = -torch.inf
        mask.requires_grad_()
        output, weights = ours(*inputs("memory", ours), attn_mask=mask)
        torch.testing.assert_close(output[:, 2], ours.out_proj.bias.expand(B, E))
        assert torch.equal(weights[:, 2], torch.zeros(B, M))
        (output.sum() + weights.square().sum()).backward()
        assert all(p.grad.isfinite().all() for p in ours.parameters())
        assert torch.equal(mask.grad[2], torch.zeros(M))

    @pytest.mark.parametrize("need_weights", [True, False])
    def test_nan_behind_a_padding_mask_stays_there(self, need_weights):
        _, ours = pair(batch_first=True)
        query, memory, _ = inputs("memory", ours)
        pad = padding("bool")
        query.requires_grad_()
        clean = ours(query, memory, memory, key_padding_mask=pad, need_weights=need_weights)
        dirty = memory.masked_fill(pad[..., None], torch.nan)
        found = ours(query, dirty, dirty, key_padding_mask=pad, need_weights=need_weights)
        gradients = []
        for results in (clean, found):
            loss = sum(r.square().sum() for r in results if r is not None)
            gradients.append(torch.autograd.grad(loss, query)[0])
        for mine, other in zip(found, clean, strict=True):
            if other is not None:
                torch.testing.assert_close(mine, other)
        torch.testing.assert_close(*gradients)


class TestDropout:
    @pytest.mark.parametrize("make", ["plain", "added keys"])
    @pytest.mark.parametrize("mask", [None, "3 float"])
    def test_the_weights_are_those_that_made_the_output(self, make, mask):
        """PyTorch returns the weights after dropout."""
        _, ours = pair(torch.float64, batch_first=True, dropout=0.4, **CONSTRUCTIONS[make])
        tensors = [t.double() for t in inputs("memory", ours)]
        mask = attn(mask, N)
        call = {"attn_mask": None if mask is None else mask.double()}
        output, weights = ours(*tensors, **call, average_attn_weights=False)
        assert 0.2 < (weights == 0).double().mean() < 0.6
        value = torch.nn.functional.linear(
            tensors[2], ours.in_proj_weight[2 * E :], ours.in_proj_bias[2 * E :]
        )
        if ours.bias_v is not None:
            extra = ours.bias_v.expand(B, 1, E)
            value = torch.cat([value, extra, torch.zeros_like(extra)], 1)
        value = value.view(B, -1, H, E // H).transpose(1, 2)
        again = ours.out_proj((weights @ value).transpose(1, 2).flatten(2))
        torch.testing.assert_close(again, output)

        ours.eval()
        _, kept = ours(*tensors, **call, average_attn_weights=False)
        expected = torch.where(weights == 0, 0, kept / 0.6)
        torch.testing.assert_close(weights, expected)

    def test_comes_from_torchs_generator_and_only_in_training(self):
        _, ours = pair(dropout=0.5)
        tensors = inputs("self", ours)

        def run(seed):
            torch.manual_seed(seed)
            return ours(*tensors)[0]

        assert torch.equal(run(1), run(1))
        assert not torch.equal(run(1), run(2))
        ours.eval()
        state = torch.get_rng_state()
        expected = ours(*tensors)[0]
        assert torch.equal(state, torch.get_rng_state())
        assert torch.equal(expected, run(1))

    def test_gradients_see_the_mask_of_the_forward(self):
        _, ours = pair(torch.float64, dropout=0.5)
        tensors = [t.double().requires_grad_() for t in inputs("apart", ours, queries=2, keys=3)]

        def run(*tensors):
            torch.manual_seed(5)
            return ours(*tensors, average_attn_weights=False)

        assert torch.autograd.gradcheck(run, tensors, fast_mode=True)

    def test_all_dropped(self):
        _, ours = pair(dropout=1.0)
        output, weights = ours(*inputs("self", ours))
        torch.testing.assert_close(output, ours.out_proj.bias.expand_as(output))
        assert not weights.any()


def test_weights_have_gradients_of_both_orders():
    _, ours = pair(torch.float64)
    tensors = [t.double().requires_grad_() for t in inputs("apart", ours, queries=2, keys=3)]
    pad = torch.tensor([[False, False, True], [False, False, False]])

    def run(*tensors):
        return ours(*tensors, key_padding_mask=pad, average_attn_weights=True)

    assert torch.autograd.gradcheck(run, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", [None, "2 bool", "2 float", "3 bool", "3 float"])
@pytest.mark.parametrize("pad", [None, "bool", "float", "all"])
def test_averaged_weights_come_in_blocks(monkeypatch, pad, mask, dtype):
    """Without gradients some rows at a time; here two, and all in one block."""
    from seqkern.attention import weights

    seen = []
    in_blocks = weights._mean_in_blocks
    monkeypatch.setattr(weights, "_mean_in_blocks", lambda *a: seen.append(1) or in_blocks(*a))
    _, ours = pair(dtype, add_zero_attn=True)  # other modules have an operator that does it
    call = {"key_padding_mask": padding(pad), "attn_mask": attn(mask, N)}
    if pad == "all":
        call["key_padding_mask"][1] = True
    call = {
        k: v.to(dtype) if v is not None and v.dtype != torch.bool else v for k, v in call.items()
    }
    tensors = [t.to(dtype) for t in inputs("apart", ours)]
    with torch.no_grad():
        expected = ours(*tensors, **call)[1]
        assert not seen
        for rows in (2, N):
            monkeypatch.setattr(weights, "_BLOCK", rows * H * (M + 1))
            found = ours(*tensors, **call)[1]
            torch.testing.assert_close(found, expected)
        assert len(seen) == 2


def test_a_nan_in_a_key_reaches_only_the_weights_of_who_looks_at_it():
    _, ours = pair(batch_first=True)
    query, memory, _ = inputs("memory", ours)
    mask = torch.zeros(N, M, dtype=torch.bool)
    mask[:3, 2] = True
    _, expected = ours(query, memory, memory, attn_mask=mask)
    memory[:, 2] = torch.nan
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            output, weights = ours(query, memory, memory, attn_mask=mask)
        torch.testing.assert_close(weights[:, :3], expected[:, :3])
        assert weights[:, 3:].isnan().all() and output[:, :3].isfinite().all()


@pytest.mark.parametrize("batch_first", [True, False])
def test_results_are_contiguous(batch_first):
    """PyTorch's are at least where it is sequence first; users call `view` on them."""
    _, ours = pair(batch_first=batch_first)
    for kind in ("self", "memory", "apart"):
        output, weights = ours(*inputs(kind, ours))
        assert output.is_contiguous() and weights.is_contiguous()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("sizes", [(0, N, M), (B, 0, M), (B, N, 0)], ids=str)
def test_empty_dimensions(sizes, batch_first):
    theirs, ours = pair(batch_first=batch_first)
    batch, queries, keys = sizes

    def make(length):
        return torch.randn((batch, length, E) if batch_first else (length, batch, E))

    query, memory = make(queries), make(keys)
    found, expected = ours(query, memory, memory), theirs(query, memory, memory)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)


class TestIsTheSameModule:
    def test_signatures(self):
        for name in ("__init__", "forward"):
            ours = inspect.signature(getattr(seqkern.nn.MultiheadAttention, name)).parameters
            theirs = inspect.signature(getattr(torch.nn.MultiheadAttention, name)).parameters
            assert [(p.name, p.default) for p in ours.values()] == [
                (p.name, p.default) for p in theirs.values()
            ]

    @pytest.mark.parametrize("make", CONSTRUCTIONS)
    def test_state_dict_goes_both_ways(self, make):
        theirs, ours = pair(**CONSTRUCTIONS[make])
        assert list(theirs.state_dict()) == list(ours.state_dict())
        torch.nn.MultiheadAttention(E, H, **CONSTRUCTIONS[make]).load_state_dict(ours.state_dict())

    def test_same_seed_same_weights(self):
        torch.manual_seed(7)
        ours = seqkern.nn.MultiheadAttention(E, H)
        torch.manual_seed(7)
        theirs = torch.nn.MultiheadAttention(E, H)
        assert all(
            torch.equal(mine, other)
            for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True)
        )

    @pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
    def test_copies(self, how):
        _, ours = pair()
        tensors = inputs("self", ours)
        if how == "deepcopy":
            copied = copy.deepcopy(ours)
        elif how == "pickle":
            copied = pickle.loads(pickle.dumps(ours))
        else:
            file = io.BytesIO()
            torch.save(ours, file)
            file.seek(0)
            copied = torch.load(file, weights_only=False)
        assert type(copied) is seqkern.nn.MultiheadAttention
        assert torch.equal(copied(*tensors)[0], ours(*tensors)[0])
        assert copied.in_proj_weight is not ours.in_proj_weight

    @pytest.mark.parametrize("name", ["in_proj_weight", "out_proj.weight"])
    def test_parametrized_weights(self, name):
        theirs, ours = pair()
        for module in (theirs, ours):
            path, _, weight = name.rpartition(".")
            torch.nn.utils.parametrizations.weight_norm(module.get_submodule(path), weight)
        assert_agree(theirs, ours, inputs("self", theirs))

    @pytest.mark.parametrize("need_weights", [True, False])
    @pytest.mark.parametrize("make", ["plain", "added keys"])
    def test_autocast_gives_torchs_dtypes(self, make, need_weights):
        theirs, ours = pair(**CONSTRUCTIONS[make])
        tensors = inputs("memory", theirs)
        call = {"attn_mask": attn("2 float", N), "need_weights": need_weights}
        reference = theirs(*tensors, **call)
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = ours(*tensors, **call), theirs(*tensors, **call)
        results = [r for r in zip(found, expected, reference, strict=True) if r[0] is not None]
        assert_all_parity(*zip(*results, strict=True), names=("output", "weights")[: len(results)])
        sum(r[0].sum() for r in results).backward()
        assert all(p.grad.dtype == torch.float32 for p in ours.parameters())

    def test_functional_call(self):
        _, ours = pair()
        tensors = inputs("self", ours)
        weights = {name: 2 * p for name, p in ours.named_parameters()}
        found = torch.func.functional_call(ours, weights, tensors)[0]
        with torch.no_grad():
            for p in ours.parameters():
                p.mul_(2)
        torch.testing.assert_close(found, ours(*tensors)[0])

    def test_per_sample_gradients(self):
        """vmap over grad, as differentially private training does it."""
        _, ours = pair(batch_first=True)
        parameters = {name: p.detach() for name, p in ours.named_parameters()}

        def loss(parameters, x):
            output, weights = torch.func.functional_call(ours, parameters, (x, x, x))
            return output.square().sum() + weights.square().sum()

        x = torch.randn(3, M, E)
        found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
        for i, sample in enumerate(x):
            for name, gradient in torch.func.grad(loss)(parameters, sample).items():
                torch.testing.assert_close(found[name][i], gradient)


class TestCompile:
    @pytest.fixture(autouse=True)
    def _forget_what_was_compiled(self):
        torch._dynamo.reset()

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    @pytest.mark.parametrize("training", [True, False])
    def test_one_graph(self, backend, training):
        _, ours = pair(batch_first=True, dropout=0.3)
        ours.train(training)
        compiled = torch.compile(ours, fullgraph=True, backend=backend)
        tensors = inputs("memory", ours)
        for call in (
            {},
            {"key_padding_mask": padding("bool"), "need_weights": False},
            {"attn_mask": attn("2 float", N), "average_attn_weights": False},
            {"attn_mask": attn("2 bool", N), "is_causal": True, "need_weights": False},
        ):
            torch.manual_seed(1)
            expected = ours(*tensors, **call)
            torch.manual_seed(1)
            found = compiled(*tensors, **call)
            for mine, other in zip(found, expected, strict=True):
                assert (mine is None) == (other is None)
                if mine is not None:
                    torch.testing.assert_close(mine, other)
            if training:
                sum(r.sum() for r in found if r is not None).backward()
                assert all(p.grad.isfinite().all() for p in ours.parameters())

    def test_lengths_may_change(self):
        _, ours = pair(batch_first=True)
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager", dynamic=True)
        for length in (5, 6, 9):
            x = torch.randn(B, length, E)
            torch.testing.assert_close(compiled(x, x, x)[0], ours(x, x, x)[0])

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
    def test_nested(self):
        _, ours = pair(batch_first=True)
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        x = nest(sequences(3, 5), torch.jagged)
        found = compiled(x, x, x, need_weights=False)[0].values()
        torch.testing.assert_close(found, ours(x, x, x)[0].values())
        found.sum().backward()

    def test_export(self):
        _, ours = pair(batch_first=True)
        ours.eval()
        x = torch.randn(B, M, E)
        length = torch.export.Dim("length", min=2, max=64)
        program = torch.export.export(ours, (x, x, x), dynamic_shapes=({1: length},) * 3)
        longer = torch.randn(B, 2 * M, E)
        expected = ours(longer, longer, longer)
        for mine, other in zip(program.module()(longer, longer, longer), expected, strict=True):
            torch.testing.assert_close(mine, other)


def sequences(*lengths, width=E):
    return [torch.randn(length, width) for length in lengths]


def nest(parts, layout):
    return torch.nested.as_nested_tensor(parts, layout=layout)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
class TestNested:
    @pytest.mark.parametrize("kind", ["self", "memory", "apart"])
    def test_each_sequence_by_itself(self, layout, kind):
        _, ours = pair(batch_first=True, **({"kdim": 8, "vdim": 4} if kind == "apart" else {}))
        of = [sequences(3, 1, 6)]
        if kind != "self":
            of.append(sequences(4, 5, 2, width=ours.kdim))
        if kind == "apart":
            of.append(sequences(4, 5, 2, width=ours.vdim))
        leaves = [part.requires_grad_() for parts in of for part in parts]

        def both(make):
            made = [make(parts) for parts in of]
            return {"self": made * 3, "memory": made + made[-1:], "apart": made}[kind]

        output, weights = ours(*both(lambda parts: nest(parts, layout)))
        assert output.is_nested and output.layout == layout
        assert weights.shape == (3, 6, 6 if kind == "self" else 5)
        found = list(output.unbind())
        alone = [ours(*(t[i] for t in both(list))) for i in range(3)]
        loss = sum(part.square().sum() for part in found) + weights.square().sum()
        expected_loss = sum(r.square().sum() for pair_ in alone for r in pair_)
        for i, (expected, its_weights) in enumerate(alone):
            torch.testing.assert_close(found[i], expected)
            n, m = its_weights.shape
            torch.testing.assert_close(weights[i, :n, :m], its_weights)
            assert not weights[i, n:].any() and not weights[i, :, m:].any()
        sources = leaves + list(ours.parameters())
        for mine, other in zip(
            torch.autograd.grad(loss, sources),
            torch.autograd.grad(expected_loss, sources),
            strict=True,
        ):
            # Sums over all sequences, in another order.
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))

    def test_causal(self, layout):
        _, ours = pair(batch_first=True)
        parts = sequences(4, 2)
        x = nest(parts, layout)
        for need_weights in (True, False):
            output, weights = ours(x, x, x, is_causal=True, need_weights=need_weights)
            for i, part in enumerate(parts):
                mask = torch.ones(len(part), len(part), dtype=torch.bool).triu(1)
                expected, its_weights = ours(part, part, part, attn_mask=mask)
                torch.testing.assert_close(output.unbind()[i], expected)
                if need_weights:
                    found = weights[i, : len(part), : len(part)]
                    torch.testing.assert_close(found, its_weights)

    def test_dropout(self, layout):
        _, ours = pair(torch.float64, batch_first=True, dropout=0.5)
        parts = [part.double() for part in sequences(4, 6)]
        x = nest(parts, layout)
        output, weights = ours(x, x, x, average_attn_weights=False)
        assert (weights[1] == 0).any()
        for i, part in enumerate(parts):
            value = torch.nn.functional.linear(
                part, ours.in_proj_weight[2 * E :], ours.in_proj_bias[2 * E :]
            )
            value = value.view(-1, H, E // H).transpose(0, 1)
            heads = weights[i, :, : len(part), : len(part)] @ value
            expected = ours.out_proj(heads.transpose(0, 1).flatten(1))
            torch.testing.assert_close(output.unbind()[i], expected)

    def test_agrees_with_torch_in_evaluation(self, layout):
        theirs, ours = (
            cls(E, 2, batch_first=True).eval()
            for cls in (torch.nn.MultiheadAttention, seqkern.nn.MultiheadAttention)
        )
        ours.load_state_dict(theirs.state_dict())
        parts = sequences(3, 6, 2)
        with torch.no_grad():
            strided = nest(parts, torch.strided)  # the only layout that PyTorch takes
            expected, its_weights = theirs(strided, strided, strided)
            x = nest(parts, layout)
            output, weights = ours(x, x, x)
        for mine, other in zip(output.unbind(), expected.unbind(), strict=True):
            torch.testing.assert_close(mine, other)
        for i, part in enumerate(parts):
            here = (i, slice(len(part)), slice(len(part)))
            torch.testing.assert_close(weights[here], its_weights[here])

    def test_what_cannot_be(self, layout):
        _, ours = pair(batch_first=True)
        x, dense = nest(sequences(3, 2), layout), torch.randn(2, 3, E)
        more = nest(sequences(3, 2, 4), layout)
        other = nest(sequences(3, 1), layout)
        for args, call, message in (
            ((x, x, x), {"key_padding_mask": torch.zeros(2, 3)}, "key_padding_mask or attn_mask"),
            ((x, x, x), {"attn_mask": torch.zeros(3, 3)}, "key_padding_mask or attn_mask"),
            ((x, dense, dense), {}, "all be nested or none"),
            ((dense, x, x), {}, "all be nested or none"),
            ((x, more, more), {}, "the same number of sequences, got 2 and 3"),
            ((x, x, other), {}, "the same lengths|does not match value"),
        ):
            with pytest.raises(AssertionError, match=message):
                ours(*args, **call)
        for options in ({"batch_first": False}, {"batch_first": True, "add_zero_attn": True}):
            _, ours = pair(**options)
            with pytest.raises(AssertionError, match="does not support NestedTensor"):
                ours(x, x, x)


def test_jagged_with_holes():
    _, ours = pair(batch_first=True)
    values = torch.randn(9, E)
    offsets, lengths = torch.tensor([0, 4, 9]), torch.tensor([2, 5])
    holes = torch.nested.nested_tensor_from_jagged(values, offsets, lengths)
    output, _ = ours(holes, holes, holes)
    for found, part in zip(output.unbind(), (values[:2], values[4:]), strict=True):
        torch.testing.assert_close(found, ours(part, part, part)[0])


class TestErrors:
    """The classes and words of torch.nn.MultiheadAttention, found by asking it."""

    x = torch.randn(N, B, E)
    bad = {
        "query of 4 dimensions": ((x[None],) * 3, {}),
        "query of 1 dimension": ((x[0, 0],) * 3, {}),
        "key unbatched": ((x, x[0], x[0]), {}),
        "key batched": ((x[0], x, x), {}),
        "value of other length": ((x, x, x[:2]), {}),
        "query too narrow": ((x[..., :3],) * 3, {}),
        "padding batched": ((x[0],) * 3, {"key_padding_mask": torch.zeros(B, N).bool()}),
        "padding unbatched": ((x,) * 3, {"key_padding_mask": torch.zeros(N).bool()}),
        "padding too long": ((x,) * 3, {"key_padding_mask": torch.zeros(B, N + 1).bool()}),
        "padding for more": ((x,) * 3, {"key_padding_mask": torch.zeros(B + 1, N).bool()}),
        "padding of integers": ((x,) * 3, {"key_padding_mask": torch.zeros(B, N).int()}),
        "mask of integers": ((x,) * 3, {"attn_mask": torch.zeros(N, N).int()}),
        "mask of 1 dimension": ((x,) * 3, {"attn_mask": torch.zeros(N)}),
        "mask of 4 dimensions": ((x,) * 3, {"attn_mask": torch.zeros(B, H, N, N)}),
        "2-D mask too small": ((x,) * 3, {"attn_mask": torch.zeros(N, N - 1)}),
        "3-D mask for one head": ((x,) * 3, {"attn_mask": torch.zeros(B, N, N)}),
        "unbatched 3-D mask": ((x[:, 0],) * 3, {"attn_mask": torch.zeros(2, N, N)}),
        "hint without mask": ((x,) * 3, {"is_causal": True}),
        "key too narrow": ((x, x[..., :3], x[..., :3]), {}),
        "input of another dtype": ((x.double(),) * 3, {}),
    }

    @pytest.mark.parametrize("case", bad)
    def test_as_torch(self, case):
        args, call = self.bad[case]
        theirs, ours = pair()
        with pytest.raises(Exception) as expected:  # whatever it is
            theirs(*args, **call)
        with pytest.raises(expected.type) as found:
            ours(*args, **call)
        assert found.type is expected.type
        assert str(found.value).startswith(str(expected.value))

    def test_separate_weights(self):
        theirs, ours = pair(kdim=8, vdim=4)
        x = self.x
        for args in ((x, x[..., :3], x[..., :4]), (x, x[..., :8], x), (x, x[:2, :, :8], x)):
            with pytest.raises(AssertionError) as expected:
                theirs(*args)
            with pytest.raises(AssertionError) as found:
                ours(*args)
            assert str(found.value) == str(expected.value)

    @pytest.mark.parametrize("need_weights", [True, False])
    @pytest.mark.parametrize("name", ["attn_mask", "key_padding_mask"])
    def test_masks_of_another_float_type(self, name, need_weights):
        theirs, ours = pair()
        mask = torch.zeros((N, N) if name == "attn_mask" else (B, N), dtype=torch.float64)
        for module in (theirs, ours):
            with pytest.raises(RuntimeError, match="dtype"):
                module(self.x, self.x, self.x, need_weights=need_weights, **{name: mask})

    def test_batches_that_differ(self):
        theirs, ours = pair()
        for module in (theirs, ours):
            with pytest.raises(RuntimeError) as error:
                module(self.x, self.x[:, :1], self.x[:, :1])
        assert "the same batch size" in str(error.value) and str([N, 1, E]) in str(error.value)

    def test_half_of_an_added_key(self):
        theirs, ours = pair(add_bias_kv=True)
        for module in (theirs, ours):
            module.bias_v = None
            with pytest.raises(AssertionError, match="bias_k is set but bias_v is None"):
                module(self.x, self.x, self.x)

    def test_a_dropout_that_is_no_probability(self):
        for module in pair(dropout=1.5):
            with pytest.raises(ValueError, match="has to be between 0 and 1, but got 1.5"):
                module(self.x, self.x, self.x)
            module.eval()(self.x, self.x, self.x)

    def test_construction(self):
        for args in ((0, 1), (4, 0), (-4, 2), (5, 2)):
            with pytest.raises((ValueError, AssertionError)) as expected:
                torch.nn.MultiheadAttention(*args)
            with pytest.raises(expected.type) as found:
                seqkern.nn.MultiheadAttention(*args)
            assert str(found.value) == str(expected.value)


@pytest.mark.filterwarnings("default")
def test_mixed_masks_warn_once():
    theirs, ours = pair()
    for module in (theirs, ours):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call = {"key_padding_mask": padding("bool"), "attn_mask": attn("2 float", N)}
            module(*inputs("memory", module), **call)
        assert "mismatched key_padding_mask and attn_mask" in str(caught[0].message)
    assert len(caught) == 1
