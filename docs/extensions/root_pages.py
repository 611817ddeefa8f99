"""The fence ``root-page FILE``: a page of the repository's root as a page of the site.

Links of such a page are relative to the root; here they lead to the page of the site that shows the
same, or to the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "README.ko.md": "korean.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples": "examples.md",
}
"""By file at the root, the page of the site."""

_FENCE = re.compile(r"^```\{root-page\} (\S+)\n```$", re.M)
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def with_site_links(text: str) -> str:
    """The text of a page at the root with its links as the site needs them."""

    def link(match: re.Match[str]) -> str:
        target = match[1]
        if target.startswith("docs/"):
            return f"]({target.removeprefix('docs/')}"
        return f"]({PAGES.get(target, f'../{target}')}"

    return _LINK.sub(link, text)


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    def content(match: re.Match[str]) -> str:
        file = ROOT / match[1]
        app.env.note_dependency(str(file))
        return with_site_links(file.read_text())

    source[0] = _FENCE.sub(content, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}
