"""The pages of the documentation, and the fenced blocks in them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TOP = [ROOT / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md")]
SITE = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*TOP, *SITE]


class Block(NamedTuple):
    """A fenced block: its language, its text, and the number of its first line."""

    language: str
    text: str
    line: int
    after_code: bool  # nothing but empty lines since the last block, and that was Python


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found: list[Block] = []
    fence, begin, follows = "", 0, False
    lines = page.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if not fence and line.startswith("```"):
            fence, begin = line, number
        elif fence and line.strip() == "```":
            text = "".join(f"{inside}\n" for inside in lines[begin : number - 1])
            found.append(Block(fence[3:].strip(), text, begin + 1, follows))
            follows, fence = fence[3:].strip() == "python", ""
        elif not fence and line.strip():
            follows = False
    assert not fence, f"{page.name}: the block that begins in line {begin} has no end"
    return found


def name(page: Path) -> str:
    """How a page is called in the names of tests."""
    return page.relative_to(ROOT).as_posix()
