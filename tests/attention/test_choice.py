"""Which backend runs an attention call, and what `seqkern.explain` says about it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import seqkern
from seqkern.attention import choice, ops
from seqkern.nn import functional
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from seqkern.nn.functional import varlen_attention

Q = torch.randn(1, 2, 5, 8)
SLOPES = torch.ones(2)


@pytest.mark.parametrize(
    "dtype, backend, says",
    [
        (torch.float32, "cpu", "fused kernels, ISA level"),
        (torch.float64, "cpu", "fused kernels"),
        (torch.bfloat16, "cpu", "fused kernels"),
        (torch.float16, "cpu", "through float32"),
        (torch.complex64, "torch", "PyTorch's own operator"),
        (torch.int64, "torch", "PyTorch's own operator"),
    ],
    ids=str,
)
def test_by_dtype(dtype, backend, says):
    x = Q.to(dtype)
    for name in (sdpa, "scaled_dot_product_attention"):
        answer = seqkern.explain(name, x, x, x)
        assert answer.backend == backend and says in answer.reasons[backend]
        assert answer.call == "scaled_dot_product_attention"
        assert f"> {backend}" in str(answer)
    assert "its kernels run on a CUDA GPU" in answer.reasons["triton"]
    assert "no attention kernel" in answer.reasons["cuda"]


def test_by_device():
    x = Q.to("meta")
    assert seqkern.explain(sdpa, x, x, x).backend == "torch"
    assert sdpa(x, x, x).is_meta
    answer = seqkern.explain(sdpa, x, x, x, window=(1, 1))
    assert answer.backend == "reference"
    assert "PyTorch's attention has no window" in answer.reasons["torch"]
    assert "the input is on meta" in answer.reasons["cpu"]
    output, lse = sdpa(x, x, x, window=(1, 1), return_lse=True, alibi_slopes=SLOPES.to("meta"))
    assert output.shape == Q.shape and lse.shape == Q.shape[:3] and lse.is_meta


@pytest.mark.parametrize(
    "options, name",
    [
        ({"window": (1, 1)}, "window"),
        ({"causal": "bottom_right"}, "causal mask aligned at the bottom right"),
        ({"softcap": 2.0}, "softcap"),
        ({"alibi_slopes": SLOPES}, "alibi_slopes"),
        ({"sinks": SLOPES}, "sinks"),
        ({"return_lse": True}, "lse"),
    ],
    ids=str,
)
def test_what_pytorch_has_not(options, name):
    answer = seqkern.explain(sdpa, Q, Q, Q, **options)
    assert answer.backend == "cpu" and name in answer.reasons["torch"]
    with seqkern.use_backend("torch"):
        assert seqkern.explain(sdpa, Q, Q, Q, **options).backend == ""
        with pytest.raises(RuntimeError, match=f"cannot run this call: PyTorch.* has no .*{name}"):
            sdpa(Q, Q, Q, **options)
    assert seqkern.explain(sdpa, Q, Q, Q, causal="top_left").reasons["torch"].startswith("could")


def test_no_backend_computes_integers_with_extras():
    x = Q.long()
    answer = seqkern.explain(sdpa, x, x, x, softcap=1.0)
    assert answer.backend == "" and "floating-point numbers" in answer.reasons["reference"]
    with pytest.raises(RuntimeError, match="cannot run this call"):
        sdpa(x, x, x, softcap=1.0)


def test_transforms():
    def seen(x):
        answers.append(seqkern.explain(sdpa, x, x, x))
        return sdpa(x, x, x)

    answers: list = []
    torch.func.vmap(seen)(Q)
    torch.func.grad(lambda x: seen(x).sum())(Q)
    with forward_ad.dual_level():
        seen(forward_ad.make_dual(Q, Q))
        assert seqkern.explain(sdpa, Q, Q, Q).backend == "cpu"  # nothing here has a tangent
    assert [answer.backend for answer in answers] == ["reference"] * 3
    assert "transform" in answers[0].reasons["cpu"] and "tangent" in answers[2].reasons["cpu"]
    with seqkern.use_backend("cpu"), pytest.raises(RuntimeError, match="transform .* is active"):
        torch.func.grad(lambda x: sdpa(x, x, x).sum())(Q)


class _FromPyTorch(TorchDispatchMode):
    """How often PyTorch's own kernel ran."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += "scaled_dot_product" in str(func)
        return func(*args, **(kwargs or {}))


def test_named_backends():
    with _FromPyTorch() as torchs:
        expected = sdpa(Q, Q, Q)
    assert torchs.calls == 0
    with seqkern.use_backend("torch"):
        with _FromPyTorch() as torchs:
            output = sdpa(Q, Q, Q)
        assert torchs.calls == 1 and torch.equal(output, F.scaled_dot_product_attention(Q, Q, Q))
        with _FromPyTorch() as torchs:
            output, lse = ops.attention(Q, Q, Q, need_lse=False)
        assert torchs.calls == 1 and lse.numel() == 0
        with pytest.raises(RuntimeError, match="no lse to return"):
            ops.attention(Q, Q, Q)
    torch.testing.assert_close(output, expected)
    with seqkern.use_backend("reference"):
        torch.testing.assert_close(sdpa(Q, Q, Q), expected)
    for name, says in (
        ("triton", "its kernels run on a CUDA GPU"),
        ("cuda", "no attention kernel"),
    ):
        with seqkern.use_backend(name), pytest.raises(RuntimeError, match=says):
            sdpa(Q, Q, Q)


@pytest.mark.parametrize("both", ["neither", "mask", "bias", "both"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_torch_backend_of_the_four_dimensional_form(is_causal, both):
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    options: dict = {"is_causal": is_causal, "scale": 0.3}
    if both in ("mask", "both"):
        options["mask"] = torch.rand(2, 1, 1, 7) < 0.7
        options["mask"][..., 0] = True
    if both in ("bias", "both"):
        options["bias"] = torch.randn(1, 4, 5, 7)
    expected, _ = ops.attention(q, k, k, **options)
    with seqkern.use_backend("torch"):
        found, _ = ops.attention(q, k, k, need_lse=False, **options)
    torch.testing.assert_close(found, expected)


def test_varlen():
    x, cu = torch.randn(5, 2, 8), torch.tensor([0, 5])
    answer = seqkern.explain(varlen_attention, x, x, x, cu, cu, is_causal=True)
    assert answer.backend == "cpu" and "no cu_seqlens" in answer.reasons["torch"]
    assert seqkern.explain("varlen_attention", x.to("meta"), x, x).backend == "reference"


def test_wrong_questions():
    with pytest.raises(TypeError, match="argument 'key'.* must be Tensor, not NoneType"):
        seqkern.explain(sdpa, Q, None, Q)
    with pytest.raises(ValueError, match="causal must be"):
        seqkern.explain(sdpa, Q, Q, Q, causal="up")


def test_they_are_part_of_the_functional_api():
    assert {"scaled_dot_product_attention", "varlen_attention"} <= set(functional.__all__)


def test_on_a_gpu_triton_runs_what_pytorch_has_not(monkeypatch):
    class OnAGPU:
        is_cuda = True

    refused = {"cpu": "on cuda", "triton": "", "torch": "", "reference": ""}
    query: Any = OnAGPU()
    monkeypatch.setattr(choice.dispatch, "transform", lambda tensors: "")
    assert choice._automatic(refused, query, ()) == "torch"
    refused["torch"] = "PyTorch's attention has no window"
    assert choice._automatic(refused, query, ()) == "triton"
    assert choice._automatic(refused | {"triton": "float64"}, query, ()) == "reference"
    query.is_cuda = False
    assert choice._automatic(refused, query, ()) == "reference"
