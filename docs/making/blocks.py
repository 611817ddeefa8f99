"""Blocks of a page that a command fills, between two comments::

<!-- made by python -m docs: NAME -->
...
<!-- made: end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable

from docs.making import gpu_status, tables

MAKERS: dict[str, Callable[[], str]] = {
    "gpu status": gpu_status.english,
    "gpu status in Korean": gpu_status.korean,
    "speed": tables.speed,
    "speed in Korean": tables.speed_in_korean,
    "summary xeon": tables.summary_of("xeon"),
    "summary epyc": tables.summary_of("epyc"),
    "limits xeon": tables.limits_of("xeon"),
    "random shapes": tables.random_shapes,
    "releases of torch": tables.releases,
    "errors": tables.errors,
    "word vectors: speed": tables.word_speed,
    "word vectors: two threads": tables.word_scaling,
    "word vectors: quality": tables.word_quality,
    "word vectors: variants": tables.word_variants,
    "word vectors: steps": tables.embedding_steps,
}
"""What fills each block: Markdown that ends with a line feed."""

_BLOCK = re.compile(
    r"^<!-- made by python -m docs: (?P<name>.+?) -->\n.*?^<!-- made: end -->$", re.M | re.S
)
_BEGIN = re.compile(r"<!-- made by python -m docs: (.+?) -->")


class UnknownBlock(Exception):
    """A page has an unknown block, or one that does not end."""


def names(text: str) -> list[str]:
    """The blocks of a page, in their order."""
    return _BEGIN.findall(text)


def filled(text: str, page: str) -> str:
    """The page with its blocks filled anew.

    Raises:
        UnknownBlock: there is no such block, or its end is missing.
    """
    if len(_BLOCK.findall(text)) != len(names(text)):
        raise UnknownBlock(f"{page}: a block has no end: '<!-- made: end -->' in a line of its own")

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in MAKERS:
            known = ", ".join(MAKERS)
            raise UnknownBlock(f"{page}: there is no block {name!r}, only: {known}")
        begin = match[0].partition("\n")[0]
        return f"{begin}\n{MAKERS[name]()}<!-- made: end -->"

    return _BLOCK.sub(fill, text)
