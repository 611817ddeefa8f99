"""bfloat16 as a GPU rounds it, in Triton's interpreter, which cuts off what does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from seqkern.core.triton import support


def mend_the_interpreter() -> None:
    """Makes it round to the nearest number, ties to even. Does nothing outside of it."""
    if support.missing or not support.INTERPRETED:
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cut = InterpreterBuilder.create_fp_trunc

    def create_fp_trunc(builder: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar != tl.float32 or target.scalar != tl.bfloat16:
            return cut(builder, source, target)
        numbers = torch.from_numpy(np.ascontiguousarray(source.data))
        rounded = numbers.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        return TensorHandle(rounded, tl.bfloat16)

    InterpreterBuilder.create_fp_trunc = create_fp_trunc
