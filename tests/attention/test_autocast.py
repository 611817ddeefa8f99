"""CPU autocast: PyTorch's attention is on its list for the lower precision, and so is ours."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import seqkern
from seqkern.attention import ops
from seqkern.attention.weights import attention_weights, by_torch
from seqkern.nn.functional import scaled_dot_product_attention as sdpa
from seqkern.nn.functional import varlen_attention

Q, K, V = torch.randn(2, 3, 6, 8), torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
CALLS = {
    "float32": (Q, K, V, None),
    "mixed with 16 bits": (Q, K.bfloat16(), V.half(), None),
    "bfloat16": (Q.bfloat16(), K.bfloat16(), V.bfloat16(), None),
    "float64": (Q.double(), K.double(), V.double(), None),
    "boolean mask": (Q, K, V, torch.ones(6, 9, dtype=torch.bool)),
    "float32 mask": (Q, K, V, torch.randn(6, 9)),
    "float16 mask": (Q, K, V, torch.randn(6, 9).half()),
}
BAD = {
    "mixed with float64": (Q, K.double(), V, None),
    "float64 mask": (Q, K, V, torch.randn(6, 9).double()),
    "float32 mask of float64": (Q.double(), K.double(), V.double(), torch.randn(6, 9)),
}


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_dtypes_and_numbers_are_pytorchs(name, lower, backend):
    with torch.autocast("cpu", lower), seqkern.use_backend(backend):
        found = sdpa(*CALLS[name])
        expected = F.scaled_dot_product_attention(*CALLS[name])
    assert found.dtype == expected.dtype
    assert (found.dtype == torch.float64) == (name == "float64")
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", BAD)
def test_errors_are_pytorchs(name):
    with torch.autocast("cpu"):
        with pytest.raises(RuntimeError) as theirs:
            F.scaled_dot_product_attention(*BAD[name])
        with pytest.raises(RuntimeError) as ours:
            sdpa(*BAD[name])
    assert str(ours.value).split("\n")[0] == str(theirs.value).split("\n")[0]


def test_gradients_come_back_in_float32():
    leaves = [t.clone().requires_grad_() for t in (Q, K, V, torch.randn(6, 9))]
    results = []
    for function in (sdpa, F.scaled_dot_product_attention):
        with torch.autocast("cpu"):
            output = function(*leaves)
        results.append(torch.autograd.grad(output.float().sin().sum(), leaves))
    for mine, theirs in zip(*results, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_other_forms(backend):
    cu = torch.tensor([0, 4, 9])
    rows = K.transpose(1, 2)[0]
    slopes = torch.rand(3)
    with torch.autocast("cpu"), seqkern.use_backend(backend):
        output, lse = ops.attention(Q, K, V, alibi_slopes=slopes, bias=torch.randn(1, 1, 6, 9))
        assert output.dtype == torch.bfloat16 and lse.dtype == torch.float32
        assert varlen_attention(rows, rows, rows, cu, cu).dtype == torch.bfloat16
        output, lse = sdpa(Q, K, V, softcap=2.0, return_lse=True)
        assert output.dtype == torch.bfloat16 and lse.dtype == torch.float32


def test_off_inside_of_on():
    with torch.autocast("cpu"), torch.autocast("cpu", enabled=False):
        assert sdpa(Q, K, V).dtype == torch.float32


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16], ids=str)
def test_weights_on_a_gpu_have_the_dtype_of_pytorchs_softmax(lower, autocast):
    """There PyTorch's autocast leaves the softmax in float32. No GPU is asked: the tensors are
    empty ones that say they are on one."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    try:
        with FakeTensorMode(), torch.no_grad():
            q, k, v = (torch.empty(2, 3, n, 8, device="cuda", dtype=lower) for n in (6, 9, 9))
            lse = torch.empty(2, 3, 6, device="cuda")
            torch.set_autocast_enabled("cuda", autocast)
            torch.set_autocast_dtype("cuda", lower)
            expected = torch.softmax(q @ k.transpose(2, 3), -1)
            found = attention_weights(q, k, lse, None, None, 0.0, None, True)
            output, of_torch = by_torch(q, k, v, None, None, 0.0, False)
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)
    assert found.dtype == of_torch.dtype == expected.dtype
    assert expected.dtype == (torch.float32 if autocast else lower)
    assert output.dtype == lower
