"""The recurrent operators on a GPU: the compiled library's, and beside them Triton's.

Where the CUDA library is built, it gives the layers' operators their CUDA implementation by itself.
Triton's are registered under separate names, `seqkern::lstm_forward_triton` and so on, with
the same schemas and fakes, and are imported on the first call. A cell's operators have no compiled
CUDA kernel, so under CUDA they are Triton's. What the operators save does not depend on the
backend.
"""

from __future__ import annotations

import torch

from seqkern.core import library
from seqkern.core.triton import support
from seqkern.core.triton.operators import TritonOperators

LAYERS = ("lstm_forward", "lstm_backward", "gru_forward", "gru_backward", "rnn_forward",
          "rnn_backward")  # fmt: skip
_CELLS = ("lstm_cell_forward", "lstm_cell_backward", "gru_cell_forward", "gru_cell_backward",
          "rnn_cell_forward", "rnn_cell_backward")  # fmt: skip
_IMPLEMENTATIONS = {
    **{f"{name}_triton": f"seqkern.recurrent.triton.layer:{name}" for name in LAYERS},
    **{name: f"seqkern.recurrent.triton.cell:{name}" for name in _CELLS},
}
HAS_TRITON = library.cpu.loaded and not support.missing


def cuda_refusal(device: torch.device) -> str:
    """Why the compiled CUDA kernels do not run on this device; "" where they do."""
    if device.type != "cuda":
        return f"its kernels run on a CUDA GPU, the input is on {device}"
    if library.cuda.reason is not None:
        return f"the CUDA library is not loaded: {library.cuda.reason}"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST_CAPABILITY:
        return f"its kernels need sm_80 or later, {device} is sm_{found[0]}{found[1]}"
    return ""


# Tensor-core products of bfloat16 and TF32.
OLDEST_CAPABILITY = (8, 0)


def _allows_tf32() -> bool:
    """What the compiled kernels ask before a float32 product on tensor cores."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


_library = torch.library.Library("seqkern", "FRAGMENT")
_library.define("allows_tf32() -> bool")
_library.impl("allows_tf32", _allows_tf32, "CompositeExplicitAutograd")
if HAS_TRITON:
    for _name in LAYERS:
        _schema = str(getattr(torch.ops.seqkern, _name).default._schema)
        _library.define(_schema.replace(f"seqkern::{_name}(", f"{_name}_triton("))
triton_operators = TritonOperators(_IMPLEMENTATIONS, compiled=_CELLS)
