"""`update_`: one step of gradient descent on the summed loss, against one of autograd's."""

from __future__ import annotations

import pytest
import torch

import seqkern
from seqkern.embedding.reference import Paths
from seqkern.nn import CBOW, SkipGram
from tests.embedding.cases import KERNEL_DTYPES, Case, data, loss, plain
from tests.parity import assert_parity

CASES = [
    Case(),
    Case(negatives=None),
    Case("cbow"),
    Case("cbow", negatives=None, mean=False),
    Case(padding_idx=3, features=100),
    Case("cbow", padding_idx=3, features=33),
    Case(words=3, examples=300, negatives=20),
    Case(examples=0),
]


def module(case: Case, d, dtype) -> SkipGram | CBOW:
    options = {
        "negatives": case.negatives or 0,
        "padding_idx": case.padding_idx,
        "hierarchical_softmax": d.paths if case.negatives is None else False,
        "dtype": dtype,
    }
    if case.model == "cbow":
        made = CBOW(case.words, case.features, mean=case.mean, **options)
    else:
        made = SkipGram(case.words, case.features, **options)
    with torch.no_grad():
        made.in_embed.weight.copy_(d.in_weight)
        made.out_embed.weight.copy_(d.out_weight)
    return made


def counted(case: Case, d) -> int:
    padding = -1 if case.padding_idx is None else case.padding_idx
    if case.model == "skipgram":
        return int(((d.center != padding) & (d.context != padding)).sum())
    return int(((d.center != padding) & (d.context != padding).any(-1)).sum())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_step(case, dtype, backend, isa):
    with seqkern.use_backend(backend):
        check_one_step(case, dtype)


def check_one_step(case, dtype):
    """With the backend in use, by the rule of `tests.parity`."""
    d = data(case, dtype)
    lr = 0.05
    steps = []
    for of in (torch.float64, dtype):
        tables = d.tables(of)
        value = plain(case, d, tables)
        (value * counted(case, d)).backward()
        with torch.no_grad():
            steps.append([value, *(t - lr * t.grad for t in tables)])
    in_float64, theirs = steps
    if dtype.itemsize == 2:
        theirs[0] = theirs[0].float()
    made = module(case, d, dtype)
    value = made.update_(d.center, d.context, d.negatives, lr=lr)
    assert not value.requires_grad
    for mine, other, exact, name in zip(
        [value, made.in_embed.weight, made.out_embed.weight],
        theirs,
        in_float64,
        ("loss", "in_weight", "out_weight"),
        strict=True,
    ):
        assert_parity(mine, other, exact, name)


def test_rows_that_are_not_touched_keep_their_bits():
    made = SkipGram(50, 20)
    torch.nn.init.normal_(made.out_embed.weight)
    before = [p.detach().clone() for p in made.parameters()]
    made.update_(torch.tensor([3]), torch.tensor([4]), torch.tensor([[5, 6]]), lr=1.0)
    for weight, old, touched in zip(made.parameters(), before, ([3], [4, 5, 6]), strict=True):
        changed = (weight != old).any(-1).nonzero()[:, 0].tolist()
        assert changed == touched


def test_tables_with_padded_rows_and_one_table_for_both():
    case = Case()
    d = data(case)
    expected = module(case, d, torch.float32)
    expected.update_(d.center, d.context, d.negatives, lr=0.1)
    padded = module(case, d, torch.float32)
    for table in (padded.in_embed, padded.out_embed):
        wide = torch.full((40, 50), torch.nan)
        table.weight.data = wide[:, :20].copy_(table.weight.data)
    padded.update_(d.center, d.context, d.negatives, lr=0.1)
    for mine, other in zip(padded.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, other)

    tied = module(case, d, torch.float32)
    tied.out_embed.weight = tied.in_embed.weight
    before = tied(d.center, d.context, d.negatives)
    (grad,) = torch.autograd.grad(before * case.examples, tied.in_embed.weight)
    after = tied.in_embed.weight.detach() - 0.1 * grad
    tied.update_(d.center, d.context, d.negatives, lr=0.1)
    torch.testing.assert_close(tied.in_embed.weight.detach(), after)


def test_it_counts_as_a_change():
    """What has saved the tables raises; the loss before the step has used them already, and gives
    its gradients as they were."""
    made = SkipGram(5, 4)
    ids = torch.tensor([1, 2])
    negatives = torch.tensor([[0], [3]])
    torch.nn.init.normal_(made.out_embed.weight)
    expected = torch.autograd.grad(made(ids, ids, negatives), list(made.parameters()))
    before = made(ids, ids, negatives)
    scores = made.in_embed.weight @ made.out_embed.weight.t()
    versions = [weight._version for weight in made.parameters()]
    made.update_(ids, ids, negatives, lr=0.1)
    assert all(w._version > v for w, v in zip(made.parameters(), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        scores.sum().backward()
    found = torch.autograd.grad(before, list(made.parameters()))
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_descending_learns_which_words_go_together():
    """Words 2i and 2i + 1 occur together: training finds that, by either loss."""
    for tree in (False, True):
        torch.manual_seed(1)
        made = SkipGram(20, 16, noise_counts=torch.ones(20), hierarchical_softmax=tree, negatives=5)
        center = torch.arange(20)
        losses = [float(made.update_(center, center ^ 1, lr=0.1)) for _ in range(2000)]
        assert sum(losses[-20:]) / 20 < 0.5 * losses[0]
        if not tree:
            scores = made.in_embed.weight @ made.out_embed.weight.t()
            assert torch.equal(scores.argmax(1), center ^ 1)


def test_threads_do_not_change_a_bit():
    case = Case(words=5000, features=100, examples=4000, negatives=5)
    d = data(case)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        made = module(case, d, torch.float32)
        tables = d.tables(torch.float32)
        value = loss(case, d, tables)
        grads = torch.autograd.grad(value, tables)
        made.update_(d.center, d.context, d.negatives, lr=0.1)
        results.append([value, *grads, *made.parameters()])
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_errors():
    made = SkipGram(5, 4)
    ids = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="lr must be a finite number, got nan"):
        made.update_(ids, ids, lr=float("nan"))
    before = made.in_embed.weight.clone()
    with pytest.raises(IndexError, match=r"center\[1\] is 5, it should be in \[0, 5\)"):
        made.update_(torch.tensor([1, 5]), ids, lr=0.1)
    assert torch.equal(made.in_embed.weight, before)
    assert Paths._fields == ("offsets", "nodes", "codes")
