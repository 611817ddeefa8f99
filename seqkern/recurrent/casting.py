"""Autocast for recurrent layers: the dtypes that PyTorch's own layers give.

On a GPU all of them cast everything to the lower precision. On the CPU PyTorch's operators come in
three sorts. The Elman network casts everything. GRU, the cells and the LSTM outside oneDNN's fused
path compute their products in the lower precision and then carry their state in the dtype in which
it came, float32 unless the caller passes something else. The fused LSTM carries everything in the
lower precision; in float16 only on processors with arithmetic for it, on others PyTorch raises and
here the dtype is the same one nevertheless. A projected hidden state is a product, so it has the
lower precision whatever its cell state has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from seqkern.core.dtypes import scalar_type_name
from seqkern.recurrent.kinds import Kind

# From 2.13 on, packed sequences of equal length go to oneDNN as a dense batch does.
_EQUAL_LENGTHS_ARE_DENSE = TorchVersion(torch.__version__) >= "2.13"
_HAS_ONEDNN = torch.backends.mkldnn.is_available()
# What PyTorch asks about the processor before it gives oneDNN an input that comes in this dtype.
_PROCESSOR_HAS = {
    torch.bfloat16: _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    torch.float16: _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_fp16_supported(),
}


def autocast_dtype(
    kind: Kind,
    input: Tensor,
    carried: Tensor | None,
    weights: Sequence[Tensor | None],
    fused: bool,
) -> torch.dtype | None:
    """The dtype in which a call under autocast runs and returns; None: as it stands.

    Args:
        carried: the state that PyTorch carries through time (c0 of an LSTM, otherwise h0).
        fused: whether PyTorch would take the fused LSTM, see :func:`fused_lstm`.

    Raises:
        RuntimeError: float64 mixed with other dtypes, which autocast leaves alone.
    """
    device = input.device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return None
    lower = torch.get_autocast_dtype(device)
    doubles = [t.dtype == torch.float64 for t in (input, carried, *weights) if t is not None]
    if all(doubles):
        return None
    if any(doubles):
        raise RuntimeError(
            "mat1 and mat2 must have the same dtype, but got Double and "
            f"{scalar_type_name(lower)}: autocast leaves float64 tensors alone, here only some of "
            "input, states and weights are float64"
        )
    if device == "cuda" or kind.name.startswith("rnn"):
        return lower
    if fused:
        return lower
    return torch.promote_types(lower, input.dtype if carried is None else carried.dtype)


def fused_lstm(kind: Kind, input: Tensor, batch_sizes: Tensor | None, projected: bool) -> bool:
    """Whether PyTorch would run this call by oneDNN's fused LSTM."""
    if kind.name != "lstm" or projected or input.numel() == 0:
        return False
    if not _HAS_ONEDNN:
        return False
    if not _onednn_takes(input.dtype):
        return False
    # The compiler cannot trace the switch `torch.backends.mkldnn.flags`; take it as on.
    if not torch.compiler.is_compiling() and not torch._C._get_mkldnn_enabled():
        return False
    if batch_sizes is None:
        return True
    if not _EQUAL_LENGTHS_ARE_DENSE:
        return False
    # Sequences of equal length; the compiler does not know the numbers in a tensor.
    return not torch.compiler.is_compiling() and bool(batch_sizes[0] == batch_sizes[-1])


def _onednn_takes(dtype: torch.dtype) -> bool:
    """Whether an input of this dtype may go to oneDNN; autocast casts only after that."""
    if dtype == torch.float16:
        return _PROCESSOR_HAS[dtype] and not torch.is_grad_enabled()
    return dtype == torch.float32 or _PROCESSOR_HAS.get(dtype, False)
