"""The figure of boxes that were matched across images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from regionssl.report.drawing import (
    BLUE,
    GREEN,
    LINE,
    ORANGE,
    PURPLE,
    SMALL,
    TEXT,
    VERMILLION,
    Canvas,
    Edges,
    Panel,
    fit,
    shorten,
)

_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE)
_SIDE, _GAP, _MARGIN, _TITLE, _NAME = 232, 10, 28, 36, 22

Box = Sequence[float]
"""x0, y0, x1, y1 in pixels of its image."""


@dataclass(frozen=True)
class Matched:
    """An image, and with each of its neighbours the boxes that were matched.

    Attributes:
        image: RGB.
        neighbours: nearest first, at most as many as the figure has colours.
        pairs: of each neighbour, a box of the image and its match in the neighbour.
    """

    image: Image.Image
    neighbours: Sequence[Image.Image]
    pairs: Sequence[tuple[Box, Box]]
    name: str = ""


def pairs_figure(rows: Sequence[Matched], title: str = "") -> Image.Image:
    """A row per image: the image with a box for each neighbour, then the neighbours, each with the match of its box."""
    columns = 1 + max(len(row.neighbours) for row in rows)
    step = _SIDE + _GAP
    top = _MARGIN + (_TITLE if title else 0)
    canvas = Canvas(2 * _MARGIN + columns * step - _GAP, top + len(rows) * (step + _NAME) + _MARGIN - _GAP)
    if title:
        canvas.write(_MARGIN, _MARGIN, shorten(title, canvas.image.width - 2 * _MARGIN, TEXT + 4), TEXT + 4)
    for number, row in enumerate(rows):
        _draw_row(canvas, top + number * (step + _NAME), row)
    return canvas.image


def _draw_row(canvas: Canvas, top: int, row: Matched) -> None:
    canvas.write(_MARGIN, top + _NAME / 2, shorten(row.name, _SIDE, SMALL), SMALL)
    own = _paste(canvas, _MARGIN, top + _NAME, row.image)
    users: dict[Edges, list[int]] = {}
    for rank, (neighbour, (box, match)) in enumerate(zip(row.neighbours, row.pairs, strict=True)):
        left = _MARGIN + (rank + 1) * (_SIDE + _GAP)
        canvas.write(left, top + _NAME / 2, f"neighbour {rank + 1}", SMALL)
        other = _paste(canvas, left, top + _NAME, neighbour)
        _mark(canvas, other.place(match), [rank])
        users.setdefault(own.place(box), []).append(rank)
    for edges, ranks in users.items():
        _mark(canvas, edges, ranks)


def _mark(canvas: Canvas, edges: Edges, ranks: Sequence[int]) -> None:
    """A box in the colour of the first of its neighbours, with the numbers of all."""
    canvas.outline(edges, _COLOURS[ranks[0]])
    canvas.tag(edges, " ".join(str(rank + 1) for rank in ranks), _COLOURS[ranks[0]])


def _paste(canvas: Canvas, left: int, top: int, image: Image.Image) -> Panel:
    picture, scale = fit(image.convert("RGB"), _SIDE, _SIDE)
    panel = Panel(left, top, picture.width, picture.height, scale)
    canvas.paste(picture, panel)
    canvas.outline(panel.edges, LINE, 1, halo=False)
    return panel
