"""Cases of attention, and how to run one by seqkern, by PyTorch and by the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import seqkern
from seqkern.nn.functional import scaled_dot_product_attention
from tests.guards import all_guarded
from tests.parity import TINY, assert_parity

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KERNEL_DTYPES = DTYPES[:3]


@dataclass(frozen=True)
class Case:
    """One way to call attention.

    mask: "" for none; "padding" (B,1,1,M), "keys" (1,H,1,M), "pairs" (N,M), "full" (B,H,N,M),
    "rows" (B,1,N,1) boolean; the same with "+" before it additive, with a gradient.
    layout: "heads" for contiguous (B,H,N,D), "positions" for (B,N,H,D) in memory, "strided" for
    every other number of something larger, "packed" for q, k, v in one (B,N,3,H,D).
    """

    B: int
    H: int
    N: int
    M: int
    D: int
    Dv: int = 0  # 0: D
    Hkv: int = 0  # 0: H
    mask: str = ""
    layout: str = "heads"
    is_causal: bool = False
    causal: str | None = None
    window: tuple[int, int] | None = None
    softcap: float | None = None
    scale: float | None = None
    alibi: int = 0  # dimensions of the slopes
    sinks: bool = False
    lse: bool = False
    dropout: float = 0.0

    def __str__(self) -> str:
        words = [f"B{self.B}H{self.H}N{self.N}M{self.M}D{self.D}"]
        for name in ("Dv", "Hkv", "mask", "causal", "window", "softcap", "scale", "alibi"):
            if getattr(self, name):
                words.append(f"{name}{getattr(self, name)}".replace(" ", ""))
        words += [name for name in ("is_causal", "sinks", "lse", "dropout") if getattr(self, name)]
        words += [] if self.layout == "heads" else [self.layout]
        return "-".join(words)

    @property
    def in_pytorch(self) -> bool:
        """Whether F.scaled_dot_product_attention computes this."""
        ours = (self.causal, self.window, self.softcap, self.alibi, self.sinks, self.lse)
        both = self.is_causal and bool(self.mask)  # its path for masks with gradients refuses
        return not any(ours) and not self.dropout and not both


def _laid_out(shape: tuple[int, int, int, int], layout: str, dtype: torch.dtype) -> Tensor:
    """Random numbers (B, H, N, D) as a leaf's view; the leaf is what the gradient is taken of."""
    batch, heads, length, width = shape
    if layout == "positions":
        return torch.randn(batch, length, heads, width).to(dtype).transpose(1, 2)
    if layout == "strided":
        numbers = torch.randn(shape).to(dtype)
        return torch.stack([numbers, torch.full_like(numbers, torch.nan)], dim=-1)[..., 0]
    return torch.randn(shape).to(dtype)


def mask_for(case: Case, dtype: torch.dtype) -> Tensor | None:
    """A mask in which every query attends to some key (PyTorch's gradients are NaN otherwise)."""
    kind = case.mask.removeprefix("+")
    if not kind:
        return None
    shapes = {
        "padding": (case.B, 1, 1, case.M),
        "keys": (1, case.H, 1, case.M),
        "pairs": (case.N, case.M),
        "full": (case.B, case.H, case.N, case.M),
        "rows": (case.B, 1, case.N, 1),
    }
    shape = shapes[kind]
    if case.mask.startswith("+"):
        return torch.randn(shape).to(dtype)
    if kind == "padding":  # real padding: at the end
        lengths = torch.randint(1, case.M + 1, (case.B, 1, 1, 1))
        return torch.arange(case.M) < lengths
    allowed = torch.rand(shape) < 0.7
    return allowed if kind == "rows" else allowed.index_fill(-1, torch.tensor(0), True)


def inputs(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything that is a tensor; what is floating requires grad."""
    heads = case.Hkv or case.H
    shapes = {
        "query": (case.B, case.H, case.N, case.D),
        "key": (case.B, heads, case.M, case.D),
        "value": (case.B, heads, case.M, case.Dv or case.D),
    }
    if case.layout == "packed":
        whole = torch.randn(case.B, case.N, 3, case.H, case.D).to(dtype)
        tensors = dict(zip(shapes, whole.permute(2, 0, 3, 1, 4), strict=True))
    else:
        tensors = {name: _laid_out(s, case.layout, dtype) for name, s in shapes.items()}
    mask = mask_for(case, dtype)
    if mask is not None:
        tensors["attn_mask"] = mask
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if case.alibi:
        shape = (case.H,) if case.alibi == 1 else (case.B, case.H)
        tensors["alibi_slopes"] = torch.rand(shape).to(wide)
    if case.sinks:
        tensors["sinks"] = torch.randn(case.H).to(wide)
    return {name: t.detach().requires_grad_(t.is_floating_point()) for name, t in tensors.items()}


def options(case: Case) -> dict[str, Any]:
    chosen = {
        "dropout_p": case.dropout,
        "is_causal": case.is_causal,
        "scale": case.scale,
        "enable_gqa": case.Hkv not in (0, case.H),
    }
    if not case.in_pytorch:
        chosen |= {
            "causal": case.causal,
            "window": case.window,
            "softcap": case.softcap,
            "return_lse": case.lse,
        }
    return chosen


def run(case: Case, tensors: dict[str, Tensor], backend: str) -> list[Tensor]:
    """Forward by a backend, the seed of dropout always the same; "F" is PyTorch's function."""
    torch.manual_seed(3)
    if backend == "F":
        return [F.scaled_dot_product_attention(**tensors, **options(case))]
    with seqkern.use_backend(backend):
        result = scaled_dot_product_attention(**tensors, **options(case))
    return list(result) if isinstance(result, tuple) else [result]


def gradients(
    results: Sequence[Tensor], tensors: dict[str, Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """Gradients of a random linear function of all results with respect to everything."""
    sources = [t for t in tensors.values() if t.requires_grad]
    wanted = [w.to(r.dtype) for w, r in zip(weights, results, strict=True)]
    return list(torch.autograd.grad(results, sources, wanted))


def names(case: Case, tensors: dict[str, Tensor]) -> list[str]:
    of = [f"gradient of {name}" for name, t in tensors.items() if t.requires_grad]
    return ["output", *(["lse"] if case.lse else []), *of]


def tiny_for(name: str, of: torch.dtype, dtype: torch.dtype) -> float:
    """The absolute tolerance of `tests.parity` for a result of the dtype `of`; `dtype` is that of
    the query.

    Slopes and sinks are float32 and so are their gradients, but they are sums of differences of
    16-bit outputs and gradients, in which rounding errors of 2^-9 survive.
    """
    if name.endswith(("alibi_slopes", "sinks")) and dtype in (torch.bfloat16, torch.float16):
        return 4e-2
    if name == "lse" and dtype in (torch.bfloat16, torch.float16):
        return 1e-4  # float32, of scores of 16-bit numbers: see exp2_for_bf16 in csrc/attention
    return TINY[of]


def double(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: t.detach().double().requires_grad_() if t.is_floating_point() else t
        for name, t in tensors.items()
    }


def check(
    case: Case,
    dtype: torch.dtype,
    backend: str = "cpu",
    training: bool = True,
    pooled: bool = False,
    guards: bool = False,
) -> None:
    """Runs a case forward and backward and holds every result to the rule of `tests.parity`.

    Where PyTorch has no such option, its side is the reference in the same dtype, by PyTorch's own
    operators. `pooled` takes all gradients as one vector, for random cases, among which tensors of
    one or two numbers that nearly cancel turn up. `guards` surrounds all tensors with NaN.
    """
    tensors = inputs(case, dtype)
    if guards:
        tensors = all_guarded(tensors)
    if not training:
        tensors = {name: t.detach() for name, t in tensors.items()}
    exact = double(tensors)
    reference = run(case, exact, "reference")
    weights = [torch.randn(r.shape).to(dtype) for r in reference]
    found = run(case, tensors, backend)
    theirs = run(case, tensors, "F" if case.in_pytorch else "reference")
    if training:
        reference += gradients(reference, exact, weights)
        found += gradients(found, tensors, weights)
        theirs += gradients(theirs, tensors, weights)
    titles = names(case, tensors)
    if pooled:
        plain = 1 + case.lse
        for results in (found, theirs, reference):
            results[plain:] = [torch.cat([r.flatten() for r in results[plain:]])]
        titles[plain:] = ["gradients"]
    for mine, other, right, name in zip(found, theirs, reference, titles, strict=True):
        if torch.linalg.vector_norm(right) < 1e-14:
            # 0 but for rounding, as where each query attends to one key: no relative distance.
            assert torch.linalg.vector_norm(mine) <= 100 * TINY[dtype], name
        else:
            # The saved log-sum-exp is rounded, and with it every probability of the backward.
            room = 10 if pooled and name == "gradients" else 1
            assert_parity(mine, other, right, name, room * tiny_for(name, mine.dtype, dtype))


# Options of `reference.attention` and of `ops.attention`, by name.
OPTIONS_OF_THE_REFERENCE: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "bottom right": {"window": (-1, 0)},
    "window": {"window": (2, 1)},
    "left only": {"window": (0, -1)},
    "window and causal": {"window": (3, 2), "is_causal": True},
    "scale": {"scale": -0.3},
    "softcap": {"softcap": 0.8},
    "mask": {"mask": True},
    "bias": {"bias": True},
    "mask and bias": {"mask": True, "bias": True},
    "alibi": {"alibi_slopes": 1},
    "alibi of each sequence": {"alibi_slopes": 2},
    "sinks": {"sinks": True},
    "dropout": {"dropout_p": 0.4},
    "everything": {
        "is_causal": True,
        "window": (4, 1),
        "scale": 0.7,
        "softcap": 1.2,
        "mask": True,
        "bias": True,
        "alibi_slopes": 2,
        "sinks": True,
        "dropout_p": 0.3,
    },
}


def some_tensors(
    name: str, dtype: torch.dtype = torch.float64, queries: int = 5, keys: int = 7
) -> tuple[dict[str, Tensor | None], dict[str, Any]]:
    """Tensors and other options for an entry of the table; always the same numbers.

    Some entries of the bias are -inf, and with a mask one query attends to nothing.
    """
    options = dict(OPTIONS_OF_THE_REFERENCE[name])
    generator = torch.Generator().manual_seed(1)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    tensors: dict[str, Tensor | None] = {
        "query": randn(2, 4, queries, 6),
        "key": randn(2, 2, keys, 6),
        "value": randn(2, 2, keys, 3),
    }
    mask = torch.rand(2, 1, queries, keys, generator=generator) < 0.7
    mask[1, 0, queries // 2] = False
    bias = randn(1, 4, queries, keys)
    bias[0, 1, 0, 0] = -torch.inf
    slopes, sinks = randn(2, 4).abs(), randn(4)
    if options.pop("mask", False):
        tensors["mask"] = mask
    if options.pop("bias", False):
        tensors["bias"] = bias
    dimensions = options.pop("alibi_slopes", 0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    if dimensions:
        tensors["alibi_slopes"] = (slopes if dimensions == 2 else slopes[0]).to(wide)
    if options.pop("sinks", False):
        tensors["sinks"] = sinks.to(wide)
    if "dropout_p" in options:
        options["seed"] = torch.tensor(2**35 + 3)
    return tensors, options
