"""Where the randomness of dropout comes from."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_seed() -> Tensor:
    """A seed for one call with dropout, int64 without dimensions, from torch's CPU generator.

    `torch.manual_seed` makes it reproducible, a forked generator state replays it, and
    torch.compile traces it.
    """
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
