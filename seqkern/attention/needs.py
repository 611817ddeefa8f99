"""Which gradients the backward operator computes: the bits of its argument `needs`."""

from __future__ import annotations

QUERY, KEY, VALUE, BIAS, SLOPES = (1 << bit for bit in range(5))
