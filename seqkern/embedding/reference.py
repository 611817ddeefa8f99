r"""The reference for word2vec's objectives and fastText's bags, in plain PyTorch.

This file is the specification. Every kernel is measured against it in float64; it runs in any
floating dtype and on any device, can be differentiated any number of times and works under
`torch.func`. 16-bit tables are computed in float32.

Example e has input words i_1 ... i_C (skip-gram: one, the centre word; CBOW: the context words) and
one target word w (skip-gram: the context word; CBOW: the centre word). With `v` the rows of
in_weight and `u` those of out_weight::

    h = v_{i_1} + ... + v_{i_C}, divided by their number with `mean`           hidden layer

Negative sampling (Mikolov, Sutskever, Chen, Corrado & Dean 2013, equation 4), w_1 ... w_K drawn
from the noise distribution::

    loss_e = -log sigma(u_w . h) - sum_k log sigma(-u_{w_k} . h)

Hierarchical softmax (Morin & Bengio 2005; Mikolov et al. 2013, equation 3), n_1 ... n_L the inner
nodes on the path from the root of the Huffman tree to w, b_j in {0, 1} the branch taken at each::

    loss_e = -sum_j log sigma((1 - 2 b_j) u_{n_j} . h)

Their gradients, with the error g = sigma(u . h) - label of every term, whose label is 1 for w and 0
for a negative, or 1 - b_j::

    dloss_e/dh = sum g u      dloss_e/du += g h      dloss_e/dv_i += dloss_e/dh, / C with `mean`

The loss of a batch is the mean of loss_e over the examples that count. `padding_idx` is no word:
an example with that target, or with no other input words, does not count; as one of several input
words or as a negative it is left out. Rows that are left out contribute nothing, even where they
hold NaN. Where no example counts, the loss is 0. A negative that happens to be w itself counts as
any other; for word2vec.c's rule, which leaves it out, replace it by padding_idx.

Bojanowski, Grave, Joulin & Mikolov 2017 make the vector of a word from its own row and those of its
n-grams; fastText's code divides by their number::

    h = sum of weight[r] over the word's bag of rows r (/ their number with `mean`)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Paths(NamedTuple):
    """The paths from the root of a binary tree to each of its V leaves; all tensors of one device.

    The word w passes nodes[offsets[w]:offsets[w + 1]], the root first, and takes the branches codes
    of the same places.
    """

    offsets: Tensor
    """int64 (V + 1,)"""
    nodes: Tensor
    """int32 (L,): inner nodes, which are rows of out_weight"""
    codes: Tensor
    """uint8 (L,): 0 or 1"""


def objective(
    in_weight: Tensor,
    out_weight: Tensor,
    inputs: Tensor,
    targets: Tensor,
    negatives: Tensor | None = None,
    paths: Paths | None = None,
    *,
    mean: bool = True,
    padding_idx: int = -1,
    sparse: bool = False,
    longest: int | None = None,
) -> Tensor:
    """The loss of a batch, without dimensions, in float32 or float64; see the module's docstring.

    Args:
        in_weight: (V, d).
        out_weight: (V, d), or (V - 1, d) with `paths`.
        inputs: int64 (E, C), the input words of each example.
        targets: int64 (E,).
        negatives: int64 (E, K), for negative sampling; `paths`, for hierarchical softmax: one of
            them.
        padding_idx: the index that is no word, in the range or not.
        sparse: the tables' gradients are sparse tensors, as those of `torch.nn.Embedding`; they
            have no further derivatives.
        longest: the nodes of the longest path, where the caller knows them.
    """
    wide = torch.promote_types(in_weight.dtype, torch.float32)
    present = inputs != padding_idx
    counts = (targets != padding_idx) & present.any(-1)
    v = _rows(in_weight, inputs, present, sparse).to(wide)
    hidden = v.sum(-2)
    if mean:
        hidden = hidden / present.sum(-1, keepdim=True).clamp(min=1)

    if paths is None:
        assert negatives is not None
        terms = torch.cat([targets[:, None], negatives], dim=-1)
        labels = torch.arange(terms.shape[-1], device=terms.device) == 0
        keep = (terms != padding_idx) & counts[:, None]
    else:
        terms, labels, keep = path_terms(paths, targets, counts, longest)
    u = _rows(out_weight, terms, keep, sparse).to(wide)
    scores = (u * hidden[:, None]).sum(-1)
    losses = -F.logsigmoid(torch.where(labels, scores, -scores))
    total = torch.where(keep, losses, 0).sum()
    return total / counts.sum().clamp(min=1)


def path_terms(
    paths: Paths, targets: Tensor, counts: Tensor, longest: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, labels (1 - code) and which of them exist, each (E, longest path)."""
    if longest is None:
        lengths = torch.diff(paths.offsets)
        longest = int(lengths.max()) if len(lengths) else 0
    words = torch.where(counts, targets, 0)[:, None]
    places = paths.offsets[words] + torch.arange(longest, device=targets.device)
    keep = (places < paths.offsets[words + 1]) & counts[:, None]
    places = torch.where(keep, places, 0)
    return paths.nodes[places].long(), paths.codes[places] == 0, keep


def bag_sum(
    weight: Tensor,
    offsets: Tensor,
    rows: Tensor,
    words: Tensor,
    *,
    mean: bool = True,
    sparse: bool = False,
) -> Tensor:
    """The vectors (n, d) of `words` (n,), in the dtype of weight: each the sum or mean of the rows
    rows[offsets[w]:offsets[w + 1]] of weight, counted as often as they occur there; 0 for an empty
    bag. `sparse` as in `objective`."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    first, lengths = offsets[words], offsets[words + 1] - offsets[words]
    owner = torch.repeat_interleave(torch.arange(len(words), device=words.device), lengths)
    within = torch.arange(len(owner), device=words.device) - (lengths.cumsum(0) - lengths)[owner]
    entries = F.embedding(rows[first[owner] + within].long(), weight, sparse=sparse).to(wide)
    total = entries.new_zeros(len(words), weight.shape[1]).index_add(0, owner, entries)
    if mean:
        total = total / lengths.clamp(min=1)[:, None]
    return total.to(weight.dtype)


def _rows(weight: Tensor, indices: Tensor, keep: Tensor, sparse: bool) -> Tensor:
    """The rows of weight, 0 where they are left out."""
    found = F.embedding(torch.where(keep, indices, 0), weight, sparse=sparse)
    return torch.where(keep[..., None], found, 0)
