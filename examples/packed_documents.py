"""Documents of any length one after another, without padding: packed attention with a window.

A block of self-attention takes all documents of a batch as one tensor of words. Each word attends
to the 32 words before it in its own document, and an attention sink lets a head attend to nothing.

    python examples/packed_documents.py
"""

import torch
from torch import nn

from seqkern.nn.functional import scaled_dot_product_attention, varlen_attention

WIDTH, HEADS, WINDOW = 64, 4, 32


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.sinks = nn.Parameter(torch.zeros(HEADS))
        self.out = nn.Linear(WIDTH, WIDTH)

    def project(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Query, key and value, each (words, HEADS, WIDTH / HEADS)."""
        return [part.unflatten(-1, (HEADS, -1)) for part in self.qkv(self.norm(x)).chunk(3, -1)]

    def forward(self, x: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        q, k, v = self.project(x)
        attended = varlen_attention(
            q, k, v, starts, starts, is_causal=True, window=(WINDOW, 0), sinks=self.sinks
        )
        return x + self.out(attended.flatten(-2))


def main() -> float:
    """Attend in a packed batch and in each document by itself; return the largest difference."""
    torch.manual_seed(0)
    block = Block()
    lengths = [200, 3, 75]
    documents = [torch.randn(length, WIDTH) for length in lengths]
    starts = torch.tensor([0, *lengths]).cumsum(0)

    packed = block(torch.cat(documents), starts)
    packed.square().mean().backward()
    print(f"{sum(lengths)} words in one call; gradient of the sinks {block.sinks.grad.tolist()}")

    differences = []
    for document, rows in zip(documents, packed.split(lengths), strict=True):
        q, k, v = (part.transpose(0, 1) for part in block.project(document))
        alone = scaled_dot_product_attention(
            q, k, v, is_causal=True, window=(WINDOW, 0), sinks=block.sinks
        )
        expected = document + block.out(alone.transpose(0, 1).flatten(-2))
        differences.append((rows - expected).abs().max().item())
    print(f"largest difference from each document by itself: {max(differences):.1e}")
    return max(differences)


if __name__ == "__main__":
    main()
