"""The site that ``make docs`` builds. Needs the extra ``docs``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docs.making import public

pytest.importorskip("sphinx", reason="make docs installs what builds the site")

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every public name has its entry, too: `docs/extensions/public_names.py` warns otherwise."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", tmp_path / "doctrees", "docs", tmp_path / "html"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {
        path.relative_to(tmp_path / "html").with_suffix("")
        for path in (tmp_path / "html").rglob("*.html")
    }
    sources = {
        path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")
    }
    assert sources <= pages
    assert public.missing(_documented(tmp_path / "html" / "objects.inv")) == []


def _documented(inventory: Path) -> set[str]:
    from sphinx.util.inventory import InventoryFile

    with inventory.open("rb") as file:
        found = InventoryFile.load(file, "", lambda base, target: target)
    entries = getattr(found, "data", found)
    return {name for kind in entries for name in entries[kind] if kind.startswith("py:")}


def test_source_map_says_what_files_say(tmp_path: Path) -> None:
    from docs.extensions import source_map

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text('"""Does one thing. And says more.\n\nLater."""\n')
    (tmp_path / "a" / "two.h").write_text(
        "#pragma once\n// A second\n// thing: it is long.\n//\n// x\n"
    )
    (tmp_path / "a" / "two.cpp").write_text('#include "a/two.h"\n')
    (tmp_path / "a" / "three.cu").write_text("int x;\n")
    assert source_map.folders(tmp_path) == {
        tmp_path / "a": {
            "one.py": "Does one thing",
            "three.cu": "",
            "two.cpp .h": "A second thing: it is long",
        }
    }


def test_source_map_sets_code_apart() -> None:
    from docs.extensions import source_map

    found = [
        (type(node).__name__, node.astext())
        for node in source_map.with_code("`a.b` and what `c` takes")
    ]
    assert found == [
        ("literal", "a.b"),
        ("Text", " and what "),
        ("literal", "c"),
        ("Text", " takes"),
    ]


def test_signatures_of_dataclasses_are_python() -> None:
    import ast

    from docs.extensions.public_names import without_factories

    said = "(swapped: list[str] = <factory>, calls: dict[str, int] | None = None)"
    options: Any = None  # neither these nor the application are looked at
    changed = without_factories(options, "class", "A", None, options, said, "None")
    assert changed == ("(swapped: list[str] = ..., calls: dict[str, int] | None = None)", "None")
    ast.parse(f"def made{changed[0]}: ...")
    for other in ("(a: int = 1)", None):
        assert without_factories(options, "class", "A", None, options, other, None) is None


def test_links_of_pages_at_the_root() -> None:
    from docs.extensions.root_pages import with_site_links

    text = "[a](docs/a.md) [b](LICENSE) [c](https://x.y/docs/z) [d](#e) [f](README.ko.md)"
    assert with_site_links(f"{text} ![g](docs/g.svg)") == (
        "[a](a.md) [b](../LICENSE) [c](https://x.y/docs/z) [d](#e) [f](korean.md) ![g](g.svg)"
    )
