"""A module imports only from its own floor of the house and from those below."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "seqkern"

# From the ground up. A package without its modules stands for all of them.
FLOORS = (
    (
        "_version",
        "errors",
        "options",
        "snapshot",
        "forward_names",
        "timing",
        "comparison",
        "whole_files",
        "thread_setting",
    ),
    ("library", "backends", "triton_support", "tuning"),
    ("dispatch", "triton_operators", "fx_leaf"),
    ("second_order", "saving"),
    (
        "attention.philox",
        "attention.seeds",
        "attention.recomputation",
        "recurrent.device_operators",
    ),
    ("embedding.device_operators",),
    (
        "recurrent.triton_kernels_cells",
        "recurrent.triton_kernels_tiles",
        "recurrent.triton_kernels_steps",
        "recurrent.triton_kernels_streamed",
        "recurrent.triton_kernels_resident",
        "recurrent.triton_kernels_grouped",
        "recurrent.triton_steps",
        "recurrent.triton_loops",
        "recurrent.triton_forward",
        "recurrent.triton_backward",
    ),
    ("recurrent.reference", "recurrent.fake", "attention.reference", "attention.fake"),
    ("embedding.reference", "embedding.fake"),
    ("recurrent.autograd", "attention.autograd", "embedding.autograd"),
    ("recurrent.kinds", "recurrent.cell_autograd"),
    ("recurrent.checks", "recurrent.choice", "attention.checks", "attention.choice"),
    ("attention.causal_bias",),
    ("attention.triton_operands", "attention.triton_settings", "attention.triton_tiles"),
    ("attention.triton_softmax", "attention.triton_bias", "attention.triton_tuning"),
    ("attention.triton_descriptors", "attention.triton_skipping"),
    ("attention.triton_decode",),
    ("attention.triton_forward", "attention.triton_backward"),
    ("embedding.checks", "embedding.choice", "embedding.noise", "embedding.huffman"),
    ("embedding.batch", "embedding.sparse_adam"),
    ("embedding.triton_settings",),
    ("embedding.triton_arguments", "embedding.triton_kernels_objective"),
    ("embedding.triton_kernels_rows", "embedding.triton_kernels_train"),
    ("embedding.triton_rows", "embedding.triton_sparse_adam"),
    ("embedding.triton_objective", "embedding.triton_bags"),
    ("embedding.device_windows", "embedding.train_arguments"),
    ("embedding.triton_train",),
    ("attention.folding",),
    ("attention.masks", "attention.packing", "attention.weights"),
    ("embedding.training",),
    ("recurrent.casting", "recurrent.torch_backend", "recurrent.freeze", "recurrent.dynamo"),
    ("recurrent.triton_layer", "recurrent.triton_cell"),
    ("attention.torch_backend",),
    ("attention.overrides",),
    ("recurrent.ops", "recurrent.stack_autograd", "attention.ops", "embedding.ops"),
    ("attention.varlen",),
    ("attention.nested",),
    ("attention.dense",),
    ("recurrent.stack", "recurrent.cells"),
    ("recurrent.modules", "attention.modules", "embedding.modules"),
    ("attention.transformer",),
    ("nn", "optim"),
    ("text.files", "text.vocabulary"),
    ("text.compression",),
    ("text.opening",),
    ("text.sources", "text.room"),
    ("text.corpus", "text.samplers", "text.subwords"),
    ("text.encoding",),
    ("class_exchange", "example_run", "repeatability"),
    ("direct_calls", "module_timing"),
    ("swap", "verify", "models", "text", "info"),
    ("word2vec.arguments", "word2vec.correlation", "word2vec.progress"),
    ("word2vec.placement",),
    ("word2vec.corpora", "word2vec.evaluation", "word2vec.formats", "word2vec.tables"),
    ("word2vec.divergence",),
    ("word2vec.keyed_vectors", "word2vec.training"),
    ("word2vec.subword_vectors", "word2vec.model"),
    ("word2vec.fasttext",),
    ("word2vec",),
    ("word2vec.commands",),
    ("demo",),
    ("cli", "__main__"),
)
DOMAINS = ("recurrent", "attention", "embedding")
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
MODULES.remove("__init__")  # the face of the whole package
MODULES.remove("recurrent")  # empty
MODULES.remove("attention")  # empty
MODULES.remove("embedding")  # empty


def floor(module: str) -> int | None:
    """The floor of a module or of something in it; None for what is no module."""
    while module:
        if module in FLOOR:
            return FLOOR[module]
        module = module.rpartition(".")[0]
    return None


def imports(module: str) -> Iterator[str]:
    """The full names of what a module imports anywhere in its code."""
    path = PACKAGE / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    package = ["seqkern", *module.split(".")] if path.stem == "__init__" else None
    package = package or ["seqkern", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{name.name}" for name in node.names)


@pytest.mark.parametrize("module", MODULES)
def test_imports_from_below(module):
    own = floor(module)
    assert own is not None, f"give {module} a place in FLOORS"
    for name in imports(module):
        if name.startswith("seqkern."):
            other = floor(name.removeprefix("seqkern."))
            assert other is None or other <= own, f"seqkern.{module} imports {name} from above"


@pytest.mark.parametrize(
    "module", ["recurrent.reference", "attention.philox", "embedding.reference"]
)
def test_the_reference_imports_nothing_but_torch(module):
    roots = {name.partition(".")[0] for name in imports(module)}
    assert roots - set(sys.stdlib_module_names) == {"torch"}


def test_the_reference_of_attention_adds_its_random_generator():
    names = {name for name in imports("attention.reference") if name.startswith("seqkern")}
    assert names == {"seqkern.attention.philox.kept"}


@pytest.mark.parametrize("module", [m for m in MODULES if floor(m) is not None])
def test_a_domain_never_imports_another(module):
    domain = module.partition(".")[0]
    for name in imports(module) if domain in DOMAINS else ():
        other = name.removeprefix("seqkern.").partition(".")[0]
        assert other == domain or other not in DOMAINS, f"seqkern.{module} imports {name}"
