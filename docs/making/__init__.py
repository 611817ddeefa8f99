"""What ``python -m docs`` makes, and for which files."""

from __future__ import annotations

from pathlib import Path

from docs.making import architecture, blocks, charts

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"


def pages() -> list[Path]:
    """The pages that may hold blocks: those at the root and those of the site."""
    top = [ROOT / name for name in ("README.md", "README.ko.md", "CONTRIBUTING.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def made_files() -> dict[Path, str]:
    """Every file with something made in it, and what it should hold."""
    files = {IMAGES / f"{name}.svg": draw() for name, draw in charts.CHARTS.items()}
    files[IMAGES / "architecture.svg"] = architecture.picture(ROOT / "seqkern")
    for page in pages():
        text = page.read_text()
        filled = blocks.filled(text, str(page.relative_to(ROOT)))
        if filled != text or blocks.names(text):
            files[page] = filled
    return files
