"""The directive ``source-map``: the files of a folder, each with what it says of itself.

A Python file is described by the first sentence of its docstring, a C++ file by that of the comment
at its top; a file that has none is named beside the one of the same stem that has.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
_CODE = (".py", ".h", ".cuh", ".cpp", ".cu")


def folders(top: Path) -> dict[Path, dict[str, str]]:
    """By folder below `top`, itself included, the files in it with their descriptions.

    Files of one stem stand together, as "layer_cpu.h .cpp".
    """
    found: dict[Path, dict[str, str]] = {}
    for folder in sorted({path.parent for path in top.rglob("*") if path.suffix in _CODE}):
        stems: dict[str, list[Path]] = {}
        for path in sorted(folder.iterdir()):
            if path.suffix in _CODE:
                stems.setdefault(path.stem, []).append(path)
        found[folder] = {
            " ".join([paths[0].name, *(path.suffix for path in paths[1:])]): next(
                filter(None, map(description, paths)), ""
            )
            for paths in sorted(stems.values())
        }
    return found


def description(path: Path) -> str:
    """The first sentence of what a file says of itself; empty if it says nothing."""
    text = path.read_text()
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.match(r"(?:#pragma once\n|\n)*((?://.*\n)+)", text)
        said = re.sub(r"^// ?", "", comment[1], flags=re.M) if comment else ""
    paragraph = " ".join(said.partition("\n\n")[0].split())
    return re.split(r"(?<=[.:]) (?=[A-Z(])", paragraph)[0].rstrip(":.").replace("``", "")


def with_code(said: str) -> list[nodes.Node]:
    """The text with what stands between backquotes as code."""
    parts = enumerate(said.split("`"))
    return [nodes.literal("", part) if i % 2 else nodes.Text(part) for i, part in parts if part]


class SourceMap(SphinxDirective):
    """A definition list of folders, in each a list of files."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        result: list[nodes.Node] = []
        for folder, files in folders(ROOT / self.arguments[0]).items():
            name = folder.relative_to(ROOT).as_posix()
            section = nodes.section(ids=[nodes.make_id(name)])
            section += nodes.title("", "", nodes.literal("", f"{name}/"))
            listing = nodes.bullet_list()
            for file, said in files.items():
                paragraph = nodes.paragraph("", "", nodes.literal("", file))
                if said:
                    paragraph += [nodes.Text(": "), *with_code(said)]
                listing += nodes.list_item("", paragraph)
            section += listing
            result.append(section)
        return result


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("source-map", SourceMap)
    return {"parallel_read_safe": True}
