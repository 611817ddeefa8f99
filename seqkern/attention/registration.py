"""Where attention's operators have their Triton kernels."""

from __future__ import annotations

from seqkern.attention.fake import FAKES
from seqkern.core.triton.operators import TritonOperators

triton_operators = TritonOperators(
    {
        "attention_forward": "seqkern.attention.triton.forward:forward",
        "attention_backward": "seqkern.attention.triton.backward:backward",
    },
    FAKES,
)
