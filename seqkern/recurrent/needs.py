"""Which gradients a backward operator computes: the bits of its argument `needs`.

These are the bits of the layers and stacks. A cell's operator has a bit for each gradient in the
order of the LSTM's arguments, see `seqkern.recurrent.cell_autograd`.
"""

from __future__ import annotations

INPUT, H0, C0, W_IH, W_HH, BIAS, W_HR = (1 << bit for bit in range(7))


def layer_needs(
    input: bool, h0: bool, c0: bool, w_ih: bool, w_hh: bool, bias: bool, w_hr: bool
) -> int:
    """`needs` of one layer in one direction."""
    return (
        (INPUT if input else 0)
        | (H0 if h0 else 0)
        | (C0 if c0 else 0)
        | (W_IH if w_ih else 0)
        | (W_HH if w_hh else 0)
        | (BIAS if bias else 0)
        | (W_HR if w_hr else 0)
    )
