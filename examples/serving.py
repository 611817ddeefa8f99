"""Serving a recurrent model: weights packed once, a stream taken in chunks, the state kept.

Packing the recurrent weights is a small part of a long call and a large part of a short one, so a
service that answers frame by frame packs them once.

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
        self.layer = seqkern.freeze_(layer)
        self.state: torch.Tensor | None = None

    @torch.inference_mode()
    def take(self, frames: torch.Tensor) -> torch.Tensor:
        """The outputs (frames, hidden) for the next frames (frames, features)."""
        output, self.state = self.layer(frames[:, None], self.state)
        return output[:, 0]


def main() -> float:
    """Stream in chunks and all at once; return the largest difference."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a short call is over before other threads have begun
    model = nn.GRU(40, 256)
    seqkern.swap(model)
    frames = torch.randn(200, 40)
    with torch.inference_mode():
        start = time.perf_counter()
        expected = torch.cat([model(frame[None, None])[0] for frame in frames[:100]])
        plain = time.perf_counter() - start
        expected = model(frames[:, None])[0][:, 0]

    service = Service(model)
    start = time.perf_counter()
    single = [service.take(frame[None]) for frame in frames[:100]]
    packed = time.perf_counter() - start
    rest = [service.take(chunk) for chunk in frames[100:].split(20)]
    print(f"100 frames one by one: {1e3 * plain:.1f} ms, with packed weights {1e3 * packed:.1f} ms")

    difference = (torch.cat([*single, *rest]) - expected).abs().max().item()
    print(f"largest difference of the stream from one call: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
