"""The cases of the benchmarks: what is measured, and that both sides do the same work.

Nothing here depends on how fast anything is.
"""

from __future__ import annotations

import pickle

import pytest
import torch

from bench import attention_cases as attention
from bench import attention_module_cases as modules
from bench.pair import check_results
from bench.recurrent_cases import (
    CELL_FAMILIES,
    FAMILIES,
    SHAPES,
    Case,
    Family,
    Shape,
    grid,
)
from seqkern.swapping.comparison import TOLERANCE


class TestRecurrent:
    def test_grid_holds_what_is_promised(self) -> None:
        cases = [*grid(FAMILIES, SHAPES), *grid(CELL_FAMILIES, [Shape(1, 16, 64, 64)])]
        assert len({str(case) for case in cases}) == len(cases)
        assert {case.mode for case in cases} == {"inference", "training"}
        for kind in ("LSTM", "GRU", "RNN"):
            of_kind = [case for case in cases if case.family.kind == kind]
            assert {case.shape for case in of_kind} == set(SHAPES)
            for dtype in (torch.float32, torch.bfloat16):
                layouts = {c.family.layout for c in of_kind if c.family.dtype == dtype}
                assert {"dense", "ragged"} <= layouts

    @pytest.mark.parametrize(
        ("family", "macs"),
        [
            (Family("LSTM"), 4 * 8 * (6 + 8) * 20),
            (Family("GRU"), 3 * 8 * (6 + 8) * 20),
            (Family("RNN", layout="shorter"), 8 * (6 + 8) * 19),
            (Family("LSTM", projection=True), (4 * 8 * (6 + 4) + 8 * 4) * 20),
            (
                Family("LSTM", layers=2, bidirectional=True),
                2 * 4 * 8 * ((6 + 8) + (16 + 8)) * 20,
            ),
        ],
        ids=lambda value: value.name if isinstance(value, Family) else "",
    )
    def test_flops(self, family: Family, macs: int) -> None:
        shape = Shape(time=10, batch=2, inputs=6, hidden=8)
        assert Case("inference", 1, family, shape).flops == 2 * macs
        assert Case("training", 1, family, shape).flops == 3 * 2 * macs

    def test_lengths(self) -> None:
        shape = Shape(40, 50, 1, 1)
        lengths = Case("training", 1, Family("LSTM", layout="ragged"), shape).lengths
        assert lengths == sorted(lengths, reverse=True)
        assert 10 <= min(lengths) < 15 and 35 < max(lengths) <= 40
        shorter = Case("training", 1, Family("LSTM", layout="shorter"), Shape(5, 3, 1, 1))
        assert shorter.lengths == [5, 5, 4]

    @pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
    @pytest.mark.parametrize("family", [*FAMILIES, *CELL_FAMILIES], ids=lambda family: family.name)
    def test_contestants_do_the_same_work(self, family: Family) -> None:
        shape = Shape(1 if family.is_cell else 6, 3, 8, 8)
        for mode, results in (("inference", 1), ("training", None)):
            pair = Case(mode, 1, family, shape).contestants()
            assert [type(one.module).__module__.split(".")[0] for one in pair] == [
                "seqkern",
                "torch",
            ]
            ours, theirs = (one() for one in pair)
            parameters = len(list(pair[0].module.parameters()))
            assert len(ours) == (results or 2 + parameters)
            check_results(ours, theirs, 1e-5 if family.dtype == torch.float32 else 5e-2)
            again = pair[0]()  # gradients do not pile up
            for first, second in zip(ours, again, strict=True):
                torch.testing.assert_close(first, second)

    def test_forget(self) -> None:
        contestant = Case("training", 1, Family("GRU"), Shape(3, 2, 4, 4)).contestants()[0]
        contestant()
        contestant.forget()
        assert all(parameter.grad is None for parameter in contestant.module.parameters())


KINDS = ("dense", "causal", "padded", "dropout", "bias", "decode")
"""Every kind of a call of attention."""

SMALL = attention.Shape(2, 3, 8, 4)
SMALL_DECODE = attention.Shape(2, 4, 1, 8, keys=12, key_heads=2)


def attention_case(
    kind: str, mode: str = "training", dtype: torch.dtype = torch.float32
) -> attention.Case:
    shape = SMALL_DECODE if kind == "decode" else SMALL
    return attention.Case(mode, 1, attention.Family(kind, dtype), shape)


class TestAttention:
    def test_grid_holds_what_is_promised(self) -> None:
        cases = [
            *attention.grid(attention.FAMILIES, attention.SHAPES),
            *attention.grid(attention.SCORES_FAMILIES, attention.SCORES_SHAPES),
            *attention.grid(attention.DECODE_FAMILIES, attention.DECODE_SHAPES),
            *modules.grid(),
        ]
        assert len({str(case) for case in cases}) == len(cases)
        assert {case.dtype for case in cases} == {torch.float32, torch.bfloat16}
        assert all(case.target is not None for case in cases)
        targets = {
            (case.row, case.mode): case.target.mean for case in cases if case.target is not None
        }
        # the table of targets, row by row
        assert targets == {
            ("attention float32 dense", "inference"): 1.05,
            ("attention float32 dense", "training"): 1.05,
            ("attention float32 causal", "inference"): 1.5,
            ("attention float32 causal", "training"): 1.4,
            ("attention float32 padded", "inference"): 1.4,
            ("attention float32 padded", "training"): 1.4,
            ("attention bfloat16 dense", "inference"): 2,
            ("attention bfloat16 dense", "training"): 2,
            ("attention bfloat16 causal", "inference"): 2.5,
            ("attention bfloat16 causal", "training"): 2.3,
            ("attention bfloat16 padded", "inference"): 2.3,
            ("attention bfloat16 padded", "training"): 2.2,
            ("attention float32 dropout 0.1", "training"): 2,
            ("attention float32 learned bias", "training"): 1.3,
            ("attention float32 decode", "inference"): 5,
            ("attention bfloat16 decode", "inference"): 10,
            ("MultiheadAttention float32 padded", "inference"): 2.5,
            ("MultiheadAttention bfloat16 padded", "inference"): 2.5,
            ("TransformerEncoderLayer float32 dropout 0.1", "training"): 1.1,
        }

    @pytest.mark.parametrize(
        ("kind", "macs"),
        [
            ("dense", 2 * 2 * 3 * 64 * 4),
            ("causal", 2 * 2 * 3 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8) * 4),
            ("padded", 2 * 2 * 3 * 8 * 6 * 4),
            ("dropout", 2 * 2 * 3 * 64 * 4),
            ("bias", 2 * 2 * 3 * 64 * 4),
            ("decode", 2 * 2 * 4 * 12 * 8),
        ],
    )
    def test_flops(self, kind: str, macs: int) -> None:
        assert attention_case(kind, "inference").flops == 2 * macs
        assert attention_case(kind, "training").flops == 2 * macs * 3.5

    def test_bytes(self) -> None:
        assert [kind for kind in KINDS if attention_case(kind).bytes_read is not None] == ["decode"]
        case = attention_case("decode", dtype=torch.bfloat16)
        assert case.bytes_read == 2 * (2 * 2 * 12 * 8) * 2
        for kind in ("dense", "decode"):
            case = attention_case(kind)
            assert case.gradient_bytes == sum(x.grad.nbytes for x in self._trained(case).sources)

    @staticmethod
    def _trained(case: attention.Case) -> attention.Contestant:
        contestant = case.precise(torch.float32)
        contestant()
        return contestant

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("kind", KINDS)
    def test_contestants_do_the_same_work(self, kind: str, dtype: torch.dtype) -> None:
        for mode in ("inference", "training"):
            case = attention_case(kind, mode, dtype)
            ours, theirs = case.contestants()
            assert ours.backend()
            other = case.stand_in() or theirs
            torch.manual_seed(3)
            mine = ours()
            torch.manual_seed(3)
            check_results(mine, other(), TOLERANCE[dtype])
            sources = 0 if mode == "inference" else 4 if kind == "bias" else 3
            assert len(mine) == len(theirs()) == 1 + sources
            if kind != "dropout":
                check_results(mine, case.reference(theirs), TOLERANCE[dtype])
                for first, second in zip(mine, ours(), strict=True):  # gradients do not pile up
                    torch.testing.assert_close(first, second)

    def test_what_the_kinds_are(self) -> None:
        """Each one's output is the reference's."""
        for kind, excluded in (
            ("dense", torch.zeros(8, 8, dtype=torch.bool)),
            ("causal", torch.ones(8, 8, dtype=torch.bool).triu(1)),
            ("padded", (torch.arange(8) >= 6).expand(8, 8)),
        ):
            contestant = attention_case(kind).precise(torch.float64)
            query, key, value = contestant.sources
            scores = (query @ key.mT / 2).masked_fill(excluded, float("-inf"))
            torch.testing.assert_close(contestant()[0], scores.softmax(-1) @ value)

    def test_truth_has_the_rounded_inputs(self) -> None:
        case = attention_case("dense", dtype=torch.bfloat16)
        for ours, precise in zip(
            case.contestants()[0].sources, case.precise(torch.float64).sources, strict=True
        ):
            assert torch.equal(ours.double(), precise)

    def test_dropout_drops(self) -> None:
        case = attention_case("dropout")
        stand_in = case.stand_in()
        assert stand_in is not None
        torch.manual_seed(0)
        first = stand_in()[0]
        assert not torch.equal(first, stand_in()[0])
        assert attention_case("dense").stand_in() is None

    def test_unknown_kind(self) -> None:
        with pytest.raises(ValueError, match="family.kind is 'sparse'"):
            attention_case("sparse").contestants()

    def test_cases_travel(self) -> None:
        for case in (attention_case("padded"), modules.grid()[0]):
            assert pickle.loads(pickle.dumps(case)) == case


class TestAttentionModules:
    CASES = [
        modules.Case(mode, 1, modules.Family(kind, modules.Shape(2, 8, 16, 2), mode, target))
        for kind, mode, target in (
            ("MultiheadAttention", "inference", modules.FAMILIES[0].target),
            ("TransformerEncoderLayer", "training", modules.FAMILIES[-1].target),
        )
    ]

    def test_flops(self) -> None:
        mha, layer = self.CASES
        # query and output of 8 positions, key and value of the 6 that are no padding
        linear = 2 * (2 * 8 + 2 * 6) * 16 * 16
        assert mha.flops == 2 * (2 * 2 * 8 * 6 * 16 + linear)
        attention_macs = 2 * 2 * 8 * 8 * 16
        linear = 2 * 8 * (4 * 16 * 16 + 2 * 16 * 2048)
        assert layer.flops == 2 * (3.5 * attention_macs + 3 * linear)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_contestants_do_the_same_work(self, case: modules.Case) -> None:
        ours, theirs = case.contestants()
        assert type(ours.module).__module__.startswith("seqkern.")
        assert type(theirs.module).__module__.startswith("torch.")
        assert ours.module.training == theirs.module.training == (case.mode == "training")
        assert ours.backend()
        stand_in = case.stand_in()
        assert (stand_in is None) == (case.mode == "inference")
        torch.manual_seed(3)
        mine = ours()
        torch.manual_seed(3)
        check_results(mine, (stand_in or theirs)(), 1e-5)
        assert len(mine) == len(theirs())
        if stand_in:  # without the dropout, PyTorch's numbers
            for contestant in (ours, theirs):
                contestant.module.eval()
            check_results(ours(), theirs(), 1e-5)

    def test_truth(self) -> None:
        case = modules.Case(
            "inference",
            1,
            modules.Family(
                "MultiheadAttention",
                modules.Shape(2, 8, 16, 2),
                "inference",
                modules.FAMILIES[0].target,
                dtype=torch.bfloat16,
            ),
        )
        _, theirs = case.contestants()
        check_results(theirs(), case.reference(theirs), TOLERANCE[torch.bfloat16])
