"""The picture of the architecture: the parts of ``seqkern``, each above what it imports.

Parts are in rows by their level. An arrow that passes other rows runs through a dummy vertex in
each of them; the order within a row is found by moving every vertex towards the middle of what it
is tied to (Sugiyama, Tagawa & Toda 1981).
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from statistics import mean

from docs.making import imports
from docs.making.imports import Graph

_HEIGHT, _STEP = 30, 78  # of a box; from row to row
_LETTER, _PADDING, _BETWEEN = 7.4, 22, 26
_FREE = 14  # the width of a dummy vertex
_MARGIN = 24
_ROUNDS = 24
_COLORS = {
    "recurrent": "#cfe3f7",
    "attention": "#fde2c0",
    "embedding": "#d5efcf",
    "word2vec": "#e4f3c4",
    "text": "#e4f3c4",
    "core": "#e3e3e3",
}
_TEXT = 'font-family="sans-serif" font-size="13" fill="#222" text-anchor="middle"'

Vertex = tuple[str, str, int]
"""A vertex of a row: a part (name, "", 0), or where an arrow passes (from, to, row)."""


def picture(package: Path) -> str:
    """The SVG for a package."""
    graph = imports.without_shortcuts(imports.condensed(imports.parts(package)))
    return draw(graph, package.name)


def draw(graph: Graph, title: str) -> str:
    """The SVG of a graph without cycles."""
    level = imports.levels(graph)
    rows, ties = _rows(graph, level)
    x = _positions(rows, ties)
    top = max(level.values())
    width = max(x[vertex] + _width(vertex) / 2 for row in rows for vertex in row) + _MARGIN
    height = top * _STEP + _HEIGHT + 2 * _MARGIN

    def y(row: int) -> float:
        return _MARGIN + (top - row) * _STEP

    arrows, boxes = [], []
    for part in sorted(graph):
        for other in sorted(graph[part]):
            way = [(part, "", 0)]
            way += [(part, other, row) for row in range(level[part] - 1, level[other], -1)]
            way += [(other, "", 0)]
            heights = [y(row) for row in range(level[part], level[other] - 1, -1)]
            arrows.append(_arrow([x[vertex] for vertex in way], heights))
    for part, row in sorted(level.items()):
        left, box = x[part, "", 0] - _width((part, "", 0)) / 2, _width((part, "", 0))
        color = _COLORS.get(re.split("[/,]", part)[0], "#ffffff")
        boxes.append(
            f'<rect x="{left:.1f}" y="{y(row):.1f}" width="{box:.1f}" height="{_HEIGHT}" rx="5" '
            f'fill="{color}" stroke="#666"/>'
            f'<text x="{left + box / 2:.1f}" y="{y(row) + 19.5:.1f}" {_TEXT}>{escape(part)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" role="img">\n'
        f"<title>{escape(title)}: each part stands above what it imports</title>\n"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#777"/></marker></defs>\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join([*arrows, *boxes]) + "\n"
        "</svg>\n"
    )


def _width(vertex: Vertex) -> float:
    return _FREE if vertex[1] else len(vertex[0]) * _LETTER + _PADDING


def _rows(
    graph: Graph, level: dict[str, int]
) -> tuple[list[list[Vertex]], dict[Vertex, tuple[list[Vertex], list[Vertex]]]]:
    """The vertices of each row, and what each is tied to in the rows above and below."""
    rows: list[list[Vertex]] = [[] for _ in range(max(level.values()) + 1)]
    ties: dict[Vertex, tuple[list[Vertex], list[Vertex]]] = {}
    for part in sorted(graph):
        rows[level[part]].append((part, "", 0))
        ties[part, "", 0] = ([], [])
    for part in sorted(graph):
        for other in sorted(graph[part]):
            above: Vertex = (part, "", 0)
            for row in range(level[part] - 1, level[other], -1):
                vertex = (part, other, row)
                rows[row].append(vertex)
                ties[vertex] = ([above], [])
                ties[above][1].append(vertex)
                above = vertex
            ties[above][1].append((other, "", 0))
            ties[other, "", 0][0].append(above)
    return rows, ties


def _positions(
    rows: list[list[Vertex]], ties: dict[Vertex, tuple[list[Vertex], list[Vertex]]]
) -> dict[Vertex, float]:
    """The middle of each vertex. Rows are passed downwards and upwards in turn."""
    x: dict[Vertex, float] = {}
    for row in rows:
        _spread(row, {vertex: float(number) for number, vertex in enumerate(row)}, x)
    for number in range(_ROUNDS):
        downwards = number % 2 == 0
        for row in reversed(rows) if downwards else rows:
            wanted = {}
            for vertex in row:
                near = ties[vertex][0 if downwards else 1] or ties[vertex][1 if downwards else 0]
                wanted[vertex] = mean(x[other] for other in near) if near else x[vertex]
            row.sort(key=lambda vertex: (wanted[vertex], vertex))
            _spread(row, wanted, x)
    left = min(x[vertex] - _width(vertex) / 2 for row in rows for vertex in row)
    return {vertex: at - left + _MARGIN for vertex, at in x.items()}


def _spread(row: list[Vertex], wanted: dict[Vertex, float], x: dict[Vertex, float]) -> None:
    """Puts a row's vertices, in their order, as near to their wanted positions as they fit; those
    that would overlap make a block, around the mean of what its members want."""
    blocks: list[tuple[list[Vertex], float]] = []  # members, middle of the first one

    def start(members: list[Vertex]) -> float:
        offsets = _offsets(members)
        return mean(wanted[p] - offset for p, offset in zip(members, offsets, strict=True))

    for vertex in row:
        members, at = [vertex], wanted[vertex]
        while blocks:
            before, first = blocks[-1]
            last = first + _offsets(before)[-1]
            if last + _apart(before[-1], members[0]) <= at:
                break
            blocks.pop()
            members = before + members
            at = start(members)
        blocks.append((members, at))
    for members, at in blocks:
        for vertex, offset in zip(members, _offsets(members), strict=True):
            x[vertex] = at + offset


def _offsets(members: list[Vertex]) -> list[float]:
    offsets = [0.0]
    for one, other in zip(members, members[1:], strict=False):
        offsets.append(offsets[-1] + _apart(one, other))
    return offsets


def _apart(one: Vertex, other: Vertex) -> float:
    return (_width(one) + _width(other)) / 2 + _BETWEEN


def _arrow(xs: list[float], ys: list[float]) -> str:
    """A line from the lower edge of the first vertex to the upper edge of the last one, straight
    down where it passes a row and curved between rows."""
    path = f"M{xs[0]:.1f} {ys[0] + _HEIGHT:.1f}"
    for number in range(1, len(xs)):
        begin, end = ys[number - 1] + _HEIGHT, ys[number]
        middle = (begin + end) / 2
        path += f"C{xs[number - 1]:.1f} {middle:.1f} {xs[number]:.1f} {middle:.1f} "
        path += f"{xs[number]:.1f} {end:.1f}"
        if number < len(xs) - 1:
            path += f"V{end + _HEIGHT:.1f}"
    return f'<path d="{path}" stroke="#777" fill="none" marker-end="url(#head)"/>'
