"""Where the randomness of dropout comes from."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_seed(device: torch.device) -> Tensor:
    """A seed for one call with dropout, int64 without dimensions, on the device of the call and
    from torch's generator of that device.

    `torch.manual_seed` makes it reproducible, a forked generator state replays it, torch.compile
    traces it, and a CUDA graph draws another one each time it is replayed: nothing reads it on the
    CPU.
    """
    return torch.randint(2**63 - 1, (), dtype=torch.int64, device=device)
