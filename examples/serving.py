"""Serving a recurrent model: weights packed once, a stream taken in chunks, the state kept.

Packing the recurrent weights is a small part of a long call and a large part of a short one, so a
service that answers every few frames packs them once.

    python examples/serving.py
"""

import time

import torch
from torch import nn

import seqkern


class Service:
    """Takes the frames of one stream as they come.

    Args:
        layer: a recurrent layer whose weights stay as they are.
    """

    def __init__(self, layer: seqkern.nn.GRU) -> None:
        self.layer = seqkern.prepack_(layer)
        self.state: torch.Tensor | None = None

    @torch.inference_mode()
    def take(self, frames: torch.Tensor) -> torch.Tensor:
        """The outputs (frames, hidden) for the next frames (frames, features)."""
        output, self.state = self.layer(frames[:, None], self.state)
        return output[:, 0]


def main(chunk: int = 8) -> float:
    """Stream with and without packed weights; return the largest difference from one call."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a short call is over before other threads have begun
    model = nn.GRU(40, 256)
    seqkern.swap(model)
    frames = torch.randn(400, 40)

    state, unpacked = None, []
    start = time.perf_counter()
    with torch.inference_mode():
        for some in frames.split(chunk):
            output, state = model(some[:, None], state)
            unpacked.append(output[:, 0])
    seconds = time.perf_counter() - start

    service = Service(model)
    start = time.perf_counter()
    packed = [service.take(some) for some in frames.split(chunk)]
    faster = seconds / (time.perf_counter() - start)
    print(f"chunks of {chunk} frames: {faster:.2f} times as fast with packed weights")

    with torch.inference_mode():
        expected = model(frames[:, None])[0][:, 0]
    differences = [(torch.cat(x) - expected).abs().max().item() for x in (unpacked, packed)]
    print(f"largest difference from one call: {max(differences):.1e}")
    return max(differences)


if __name__ == "__main__":
    main()
