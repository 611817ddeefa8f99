"""A class of one name has one definition: the linker takes functions of two classes with the same
name, in the same namespace, for the same function."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "csrc"
OF_ONE_FILE = re.compile(r"namespace \{.*?\n\}  // namespace\n", re.DOTALL)
DEFINITION = re.compile(
    r"^(?:template <[^;{]*?>\n)?(?:class|struct|enum(?: class)?) "
    r"(?:alignas\(\w+\) )?(\w+)[^;\n]*\{",
    re.MULTILINE,
)


def defined(folder: Path) -> dict[tuple[str, str], set[str]]:
    """For each namespace and class where headers, which several files include, define it."""
    found = defaultdict(set)
    for path in sorted(folder.rglob("*.h")):
        text = OF_ONE_FILE.sub("", path.read_text())
        namespace = "an ISA level's" if "namespace SEQKERN_ISA" in text else "seqkern"
        for name in DEFINITION.findall(text):
            found[namespace, name].add(str(path.relative_to(folder)))
    return found


@pytest.mark.parametrize("library", [("attention", "common", "embedding", "recurrent"), ("text",)])
def test_every_class_is_defined_once(library):
    found = {k: {p for p in v if p.split("/")[0] in library} for k, v in defined(ROOT).items()}
    assert sum(map(len, found.values())) > 5
    assert {key: paths for key, paths in found.items() if len(paths) > 1} == {}


def test_two_definitions_are_noticed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.h").write_text(
            f"namespace seqkern {{\nclass Same {{\n}};\n}}\n// {name}"
        )
    assert defined(tmp_path) == {("seqkern", "Same"): {"a.h", "b.h"}}
