"""The Huffman tree of hierarchical softmax, as word2vec.c builds it."""

from __future__ import annotations

import torch
from torch import Tensor

from seqkern.embedding.reference import Paths


def huffman_paths(counts: Tensor) -> Paths:
    """The paths from the root of the Huffman tree of the counts to each word.

    Two queues (van Leeuwen 1976): the leaves from the rarest word on and the inner nodes in the
    order in which they are made, so that each step takes the two least counts from their heads.
    Node ids are those of word2vec.c for words sorted by falling count: n is the n-th inner node
    made, the root V - 2; of the two branches the one taken second, the heavier, has the code 1.

    Args:
        counts: (V,) with V > 1, any order; equal counts keep theirs.
    """
    with torch.device("cpu"):  # whatever the caller's default is
        paths = _tree(counts.to(dtype=torch.float64, device="cpu"))
    return Paths(*(tensor.to(counts.device) for tensor in paths))


def _tree(numbers: Tensor) -> Paths:
    words = len(numbers)
    order = torch.argsort(numbers, descending=True, stable=True)
    weights = numbers[order].tolist()
    parent, code = [0] * (2 * words - 1), [0] * (2 * words - 1)
    leaf, node = words - 1, words
    for new in range(words, 2 * words - 1):
        taken = []
        for _ in range(2):
            if leaf >= 0 and (node == new or weights[leaf] < weights[node]):
                taken.append(leaf)
                leaf -= 1
            else:
                taken.append(node)
                node += 1
        lighter, heavier = taken
        weights.append(weights[lighter] + weights[heavier])
        parent[lighter] = parent[heavier] = new
        code[heavier] = 1
    return _paths(words, torch.tensor(parent), torch.tensor(code, dtype=torch.uint8), order)


def _paths(words: int, parent: Tensor, code: Tensor, order: Tensor) -> Paths:
    """Walks from all leaves to the root at once; leaf i is the word order[i]."""
    root = 2 * words - 2
    at = torch.empty(words, dtype=torch.int64)
    at[order] = torch.arange(words)
    nodes, codes = [], []
    while bool((at != root).any()):
        codes.append(torch.where(at != root, code[at], 0))
        at = torch.where(at != root, parent[at], root)
        nodes.append(at)
        # A word whose path has ended stays at the root, which is not a second step of it.
        at = at.clone()
    steps_up = torch.stack(nodes, dim=1)
    # The root appears once where the path ends and again in every later column.
    lengths = (steps_up != root).sum(1) + 1
    column = lengths[:, None] - 1 - torch.arange(steps_up.shape[1])  # root first
    within = column >= 0
    from_root = steps_up.gather(1, column.clamp(min=0))
    codes_from_root = torch.stack(codes, dim=1).gather(1, column.clamp(min=0))
    offsets = torch.zeros(words + 1, dtype=torch.int64)
    offsets[1:] = lengths.cumsum(0)
    return Paths(offsets, (from_root[within] - words).int(), codes_from_root[within])
