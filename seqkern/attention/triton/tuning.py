"""Which tiles a call of attention takes: those of `settings`, or, where the user has tuning
on, the fastest of these and their alternatives on this GPU (`seqkern.core.triton.tuning`).

Timed are the kernels and calls that most time goes to, and for which every alternative stands in
the record of registers: plain and causal ones of 16-bit numbers whose heads fill a row's width.
A choice is one of kernel, width, dtype and causality, whatever batch and lengths.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seqkern.attention.triton.operands import Operands, padded, precision
from seqkern.attention.triton.settings import Tiles, alternatives, tiles_of
from seqkern.core.triton import support, tuning

# Queries times keys of a call that is worth timing: some tens of microseconds of the fastest GPUs.
_LARGE = 1 << 26


def tiles_for(
    kernel: str,
    call: Operands,
    query: Tensor,
    launch: Callable[[Tiles], object] | None = None,
) -> Tiles:
    """For one launch of a kernel (see `settings.tiles_of`).

    Args:
        launch: does it with given tiles, as often as one likes; None for what is never tuned.
    """
    width = max(padded(call.width), padded(call.value_width))
    capability = support.capability(query.device)
    fixed = tiles_of(
        kernel,
        capability,
        width,
        query.dtype,
        crowded=call.crowded,
        windowed=call.window.left is not None,
        tf32=precision(query) == "tf32",
    )
    if launch is None or not tuning.wanted.value or not _tuned(call, query, width):
        return fixed
    sizes = call.sizes
    causal = ", causal" if call.is_causal else ""
    return tuning.choose(
        f"attention {kernel}, width {width}, {str(query.dtype).removeprefix('torch.')}{causal}",
        (fixed, *alternatives(kernel, capability, width)),
        launch,
        query.device,
        large=call.batch * sizes.heads * sizes.queries * sizes.keys >= _LARGE,
    )


def _tuned(call: Operands, query: Tensor, width: int) -> bool:
    return (
        query.dtype != torch.float32
        and call.width == call.value_width == width
        and call.folded
        and not call.crowded
        and call.packed is None
        and call.window == (None, None)
    )
