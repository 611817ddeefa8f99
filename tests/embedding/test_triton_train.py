"""The training loop by Triton's kernel, against its emulation: every window's step is autograd's.

`tests.triton_device` says where the kernels run. One program works through the windows in order, as
the emulation does; several of them do so at the same time, which is a matter of chance on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

import seqkern
from seqkern.embedding import training
from seqkern.embedding.training import train_
from tests.embedding import test_training_calls as calls
from tests.embedding import training_cases as cases
from tests.embedding.device_emulation import DeviceEmulation
from tests.embedding.test_training import VARIANTS
from tests.embedding.test_training import options_of as options_of_training
from tests.parity import relative_error
from tests.triton_device import DEVICE

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def _on_the_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(training.BACKEND_ON, "cpu", "triton")
    with torch.device(DEVICE):
        yield


@pytest.fixture
def one_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqkern.embedding.triton import train

    monkeypatch.setattr(train._Call, "programs", lambda call, windows: 1)


@pytest.fixture
def five_strands(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqkern.embedding.triton import train

    monkeypatch.setattr(train, "STRANDS", 5)


def corpus(words: int = 22) -> torch.Tensor:
    """Two sentences with frequent words, often twice in a window."""
    tokens = (torch.rand(words).square() * cases.WORDS).int()
    tokens[words // 2] = -1
    return tokens


def options_of(variant: str, with_bags: bool, lr: float = 0.3, **more) -> dict:
    """With a learning rate that falls to a sixth."""
    return options_of_training(variant, with_bags, lr=lr, final_lr=lr / 6, **more)


def check(
    options: dict, dim: int, stride: int, dtype=torch.float32, strands=0, tokens=None, programs=1
) -> None:
    tokens = corpus() if tokens is None else tokens
    input_rows, output_rows = (
        cases.Guarded(cases.WORDS + 20, dim, stride, dtype, 0.6) for _ in range(2)
    )
    before = input_rows.rows.clone(), output_rows.rows.clone()
    # The deterministic steps of a long window are not made in parts.
    together = 10**9 if strands else 32
    emulation = DeviceEmulation(*before, tokens, options, strands, together, programs)
    tally = train_(
        input_rows.rows, output_rows.rows, tokens, compute_loss=True,
        deterministic=bool(strands), **options,
    )  # fmt: skip
    assert tally.words == int((tokens >= 0).sum())
    assert tally.kept == len(emulation.words) and tally.pairs == emulation.pairs > 0
    tight = dtype == torch.float32
    loose = 1e-5 if tight else 1e-2
    assert tally.loss == pytest.approx(emulation.loss / emulation.pairs, rel=loose)
    for name, ours, theirs, old in (
        ("input_rows", input_rows, emulation.input, before[0]),
        ("output_rows", output_rows, emulation.output, before[1]),
    ):
        old = old.double().cpu()
        error = relative_error(ours.rows.double().cpu() - old, theirs - old)
        assert error < (2e-5 if tight else 0.05), f"{name}: {error}"
        ours.assert_intact()


@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.usefixtures("one_program", "guarded_launches")
def test_every_window_makes_the_step_of_the_objective(variant, with_bags):
    check(options_of(variant, with_bags, lr=0.05), dim=37, stride=48)


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU's programs do not wait for each other")
@pytest.mark.parametrize("variant", ["skipgram-ns", "cbow-hs"])
def test_every_program_has_bags_of_its_own(variant, monkeypatch):
    """It gives back what they have gained at the end of its part."""
    from seqkern.embedding.triton import train

    monkeypatch.setattr(train._Call, "programs", lambda call, windows: 3)
    check(options_of(variant, True, lr=0.05, window=2), 20, 20, tokens=corpus(40), programs=3)


@pytest.mark.parametrize("variant", ["skipgram-ns", "skipgram-hs", "cbow-ns", "cbow-hs"])
@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
@pytest.mark.usefixtures("one_program", "guarded_launches")
def test_rows_of_several_chunks(variant, with_bags):
    """The same where rows are longer than a tile, and negatives more than its rows."""
    more = {"negatives": 17} if variant.endswith("ns") else {}
    check(options_of(variant, with_bags, lr=0.02, **more), 140, 140, tokens=corpus(14))


@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
@pytest.mark.parametrize("variant", ["skipgram-ns", "skipgram-ns-per-pair", "cbow-hs"])
@pytest.mark.usefixtures("one_program", "guarded_launches")
def test_bfloat16(variant, with_bags):
    """Of words that stand in a window twice no step is lost."""
    check(options_of(variant, with_bags, lr=0.05), 20, 24, torch.bfloat16, tokens=corpus(14))


@pytest.mark.parametrize("with_bags", [False, True], ids=["words", "bags"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.usefixtures("five_strands", "guarded_launches")
def test_deterministic(variant, with_bags):
    """Rounds of five windows from five places, all at the tables as they stand."""
    options = options_of(variant, with_bags, lr=0.05, window=2)
    check(options, dim=20, stride=20, strands=5, tokens=corpus(11))


@pytest.mark.parametrize("variant", ["skipgram-ns", "cbow-ns"])
@pytest.mark.usefixtures("five_strands")
def test_deterministic_in_chunks_and_16_bits(variant):
    options = {"lr": 0.02, "window": 2}
    tokens = corpus(12)
    check(options_of(variant, False, negatives=9, **options), 140, 140, strands=5, tokens=tokens)
    check(options_of(variant, True, **options), 20, 20, torch.bfloat16, strands=5, tokens=tokens)


@pytest.mark.parametrize("window", [1, 20])
@pytest.mark.usefixtures("one_program")
def test_window_sizes(window):
    """More contexts than a tile has: they make their step in parts."""
    tokens = (torch.rand(34) * cases.WORDS).int()
    options = options_of("skipgram-ns", False, window=window, shrink_windows=False, lr=0.01)
    options |= {"negatives": 2, "keep": torch.ones(cases.WORDS)}
    check(options, 8, 8, tokens=tokens)
    check(options, 8, 8, strands=128, tokens=tokens)


def test_several_programs_learn(monkeypatch):
    """Each makes the steps of its part; the loss falls as with one."""
    from seqkern.embedding.triton import train

    options = options_of("skipgram-ns", False, lr=0.5, window=2, negatives=2)
    options |= {"final_lr": 0.5, "keep": torch.ones(cases.WORDS), "compute_loss": True}
    tokens = (torch.arange(90) % 6).int()
    losses = {}
    for programs in (1, 8):
        monkeypatch.setattr(train._Call, "programs", lambda call, windows, n=programs: n)
        torch.manual_seed(5)
        tables = [torch.randn(cases.WORDS, 8) / 8, torch.zeros(cases.WORDS, 8)]
        first = train_(*tables, tokens, **options).loss
        losses[programs] = train_(*tables, tokens, **options).loss
        assert losses[programs] < first - 0.1
    assert losses[8] == pytest.approx(losses[1], rel=0.1)


@pytest.mark.usefixtures("five_strands")
def test_deterministic_repeats_itself():
    options = options_of("skipgram-ns", False, deterministic=True, window=2)
    tokens = corpus(14)
    results = []
    for seed in (7, 7 + 2**64, 8):
        torch.manual_seed(1)
        tables = [torch.randn(cases.WORDS, 8) for _ in range(2)]
        train_(*tables, tokens, **options | {"seed": seed})
        results.append(tables)
    assert all(map(torch.equal, results[0], results[1]))
    assert not torch.equal(results[0][0], results[2][0])


def given(**changed):
    arguments = {name: value for name, value in calls.given().items() if name != "threads"}
    return {**arguments, **changed}


OF_THREADS_OR_PLACES = ("threads", "meta")


@pytest.mark.parametrize(
    "changed, error, message",
    [
        case
        for case in calls.ERRORS
        if not any(word in str(case[0]) for word in OF_THREADS_OR_PLACES)
    ],
    ids=str,
)
def test_errors_name_the_argument_and_leave_the_tables(changed, error, message):
    def on_device(value):
        if isinstance(value, tuple):
            return type(value)(*map(on_device, value))
        return value.to(DEVICE) if isinstance(value, torch.Tensor) else value

    changed = {name: on_device(value) for name, value in changed.items()}
    if "share memory" in message:
        both = torch.randn(2 * cases.WORDS, 8)
        changed = {"input_rows": both[: cases.WORDS], "output_rows": both[cases.WORDS - 1 : -1]}
    arguments = given(**changed)
    tables = [arguments["input_rows"], arguments["output_rows"]]
    before = [table.clone() for table in tables]
    with pytest.raises(error, match=message):
        train_(**arguments)
    assert all(map(torch.equal, tables, before))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("ids", [[], [-1], [-1, -1, 3, -1], [3]], ids=str)
def test_nothing_to_train(ids, deterministic):
    tokens = torch.tensor(ids, dtype=torch.int32)
    arguments = given(tokens=tokens, compute_loss=True, deterministic=deterministic)
    before = arguments["input_rows"].clone()
    tally = train_(**arguments)
    words = sum(i >= 0 for i in ids)
    assert tally[:3] == (words, words, 0) and math.isnan(tally.loss)
    assert torch.equal(arguments["input_rows"], before)


@pytest.mark.parametrize("model", ["skipgram", "cbow"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38])
def test_numbers_that_are_none_do_not_crash(bad, model):
    arguments = given(model=model, compute_loss=True)
    arguments["input_rows"][7, 3] = bad
    train_(**arguments)
    if math.isnan(bad):
        assert arguments["input_rows"][7].isnan().any()
        assert arguments["output_rows"].isnan().any()


def test_saturated_products():
    """Steps of lr or none, and a loss of at most 87 a term."""
    rows = torch.full((cases.WORDS, 8), 1e6)
    arguments = given(input_rows=rows, output_rows=rows.clone(), compute_loss=True, lr=1e-3)
    tally = train_(**arguments)
    assert rows.isfinite().all() and 0 < tally.loss <= 6 * 87


def test_versions_and_the_operators_contract():
    weight = torch.nn.Parameter(torch.randn(cases.WORDS, 8))
    version = weight._version
    train_(**given(input_rows=weight))
    assert weight._version > version
    a = given(tokens=torch.tensor([1, 2, 3, -1, 4, 5], dtype=torch.int32))
    arguments = (
        a["input_rows"], a["output_rows"], a["tokens"], a["keep"], *a["noise"], *[None] * 5,
        False, 5, True, 5, True, True, 0.1, 0.1, 1, 1, False, True, -1,
    )  # fmt: skip
    torch.library.opcheck(
        torch.ops.seqkern.embedding_train_.default, arguments,
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_word2vec_trains_here():
    """The whole way, from sentences to vectors, whose own tables stay on the CPU."""
    sentences = [f"a{i % 2} b{i % 2} c{i % 2} d{i % 2}".split() for i in range(8)]
    with torch.device("cpu"):
        model = seqkern.Word2Vec(
            sentences, vector_size=8, min_count=1, sample=0, sg=1, window=2, epochs=2,
            device=DEVICE, compute_loss=True,
        )  # fmt: skip
        assert model.wv.vectors.shape == (8, 8) and model.get_latest_training_loss() > 0
        before = model.wv["a0"].copy()
        model.train(sentences, epochs=1)
    assert not (model.wv["a0"] == before).all()


def test_sanitizer():
    for variant, with_bags in (("skipgram-ns", False), ("cbow-hs", True)):
        options = options_of(variant, with_bags, lr=0.05)
        tables = [torch.randn(cases.WORDS + 20, 37) for _ in range(2)]
        train_(*tables, corpus(12), **options)
        train_(*tables, corpus(12), **options, deterministic=True)
