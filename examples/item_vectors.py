"""Vectors of items in a training loop of your own: the fused skip-gram loss and SparseAdam.

Shopping baskets take the place of sentences: items that are bought together get near vectors. The
items are of hidden groups, and most of a basket is of one group.

    python examples/item_vectors.py
"""

import torch
from torch.nn.functional import normalize

from seqkern import nn, optim

ITEMS, GROUPS, BASKET = 200, 8, 6


def baskets(count: int) -> torch.Tensor:
    """Items (count, BASKET); the group of an item is item % GROUPS."""
    group = torch.randint(GROUPS, (count, 1))
    own = torch.randint(ITEMS // GROUPS, (count, BASKET)) * GROUPS + group
    stray = torch.rand(count, BASKET) < 0.1
    return torch.where(stray, torch.randint(ITEMS, (count, BASKET)), own)


def main(steps: int = 150) -> float:
    """Train, and return the share of items whose nearest neighbour is of their group."""
    torch.manual_seed(0)
    counts = torch.bincount(baskets(2000).flatten(), minlength=ITEMS)
    model = nn.SkipGram(ITEMS, 24, negatives=5, noise_counts=counts, sparse=True)
    optimizer = optim.SparseAdam(model.parameters(), lr=0.02)
    for _ in range(steps):
        items = baskets(512)
        first, second = torch.randint(BASKET, (2, 512, 8))
        center, context = items.gather(1, first), items.gather(1, second)
        loss = model(center, context)  # negatives are drawn by the module
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    vectors = normalize(model.in_embed.weight.detach(), dim=1)
    cosines = (vectors @ vectors.T).fill_diagonal_(-1)
    nearest = cosines.argmax(1)
    share = (nearest % GROUPS == torch.arange(ITEMS) % GROUPS).float().mean().item()
    print(f"loss {loss.item():.3f}; {share:.0%} of the nearest neighbours are of the same group")
    return share


if __name__ == "__main__":
    main()
