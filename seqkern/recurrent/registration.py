"""The recurrent operators on a GPU: Triton's, and what the compiled CUDA kernels ask.

Where the CUDA library is built, it gives the layers' operators their CUDA implementation by itself;
Triton's stand beside them. What the operators save does not depend on the backend.
"""

from __future__ import annotations

import torch

from seqkern.core import library
from seqkern.core.triton import support
from seqkern.core.triton.operators import TritonOperators
from seqkern.recurrent.fake import FAKES

LAYERS = ("lstm_forward", "lstm_backward", "gru_forward", "gru_backward", "rnn_forward",
          "rnn_backward")  # fmt: skip
_CELLS = ("lstm_cell_forward", "lstm_cell_backward", "gru_cell_forward", "gru_cell_backward",
          "rnn_cell_forward", "rnn_cell_backward")  # fmt: skip
_IMPLEMENTATIONS = {
    **{name: f"seqkern.recurrent.triton.layer:{name}" for name in LAYERS},
    **{name: f"seqkern.recurrent.triton.cell:{name}" for name in _CELLS},
}


def cuda_refusal(device: torch.device) -> str:
    """Why the compiled CUDA kernels do not run on this device; "" where they do."""
    if device.type != "cuda":
        return f"its kernels run on a CUDA GPU, the input is on {device}"
    if library.cuda.reason is not None:
        return f"the CUDA library is not loaded: {library.cuda.reason}"
    found = torch.cuda.get_device_capability(device)
    if found < support.OLDEST_CAPABILITY:
        return f"its kernels need sm_80 or later, {device} is sm_{found[0]}{found[1]}"
    return ""


def _allows_tf32() -> bool:
    """What the compiled kernels ask before a float32 product on tensor cores."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


_library = torch.library.Library("seqkern", "FRAGMENT")
_library.define("allows_tf32() -> bool")
_library.impl("allows_tf32", _allows_tf32, "CompositeExplicitAutograd")

triton_operators = TritonOperators(_IMPLEMENTATIONS, FAKES)
