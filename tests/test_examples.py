"""The scripts in ``examples``: each runs in seconds, learns what it shows, and stands alone."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# By script, whether what its main() returns is as it should be.
EXPECTED: dict[str, Callable[[Any], bool]] = {
    "attention_classifier": lambda right: right > 0.95,
    "item_vectors": lambda share: share > 0.9,
    "korean_word_vectors": lambda cosines: cosines[0] > cosines[1] + 0.3,
    "language_model": lambda found: found[0] < 0.6 and "the cat sat on the mat. " in found[1],
    "packed_documents": lambda difference: difference < 1e-5,
    "serving": lambda difference: difference < 1e-5,
    "speech_ctc": lambda share: share > 0.8,
    "tagger": lambda right: right > 0.95,
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)
    assert len(EXPECTED) >= 6


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # the same sums everywhere, and no waiting for a busy core
    found = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)["main"]()
    assert EXPECTED[name](found), found
    assert not list(tmp_path.iterdir()), "it leaves files behind"


@pytest.mark.parametrize("name", EXPECTED)
def test_example_stands_alone(name: str) -> None:
    """It needs torch and seqkern only, says how it is run, and runs that way."""
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text())
    said = ast.get_docstring(tree) or ""
    assert f"    python examples/{name}.py" in said.splitlines()
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").partition(".")[0])
    assert modules - set(sys.stdlib_module_names) <= {"torch", "seqkern"}
    assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    main()"


def test_every_example_is_on_the_page() -> None:
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    for name in EXPECTED:
        assert f"../examples/{name}.py" in page
