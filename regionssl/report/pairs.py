"""The figure of boxes that were matched across images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from regionssl.report.drawing import BLUE, GREEN, ORANGE, PURPLE, VERMILLION, Canvas, Edges, Panel, fit
from regionssl.report.strips import Strip, Tile, strips_figure

_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE)
_SIDE = 232

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
    return strips_figure(pair_strips(rows), title)


def pair_strips(rows: Sequence[Matched]) -> list[Strip]:
    """:func:`pairs_figure` as strips."""
    return [_strip(row) for row in rows]


def _strip(row: Matched) -> Strip:
    own, source = _canvas(row.image)
    users: dict[Edges, list[int]] = {}
    tiles = []
    for rank, (neighbour, (box, match)) in enumerate(zip(row.neighbours, row.pairs, strict=True)):
        canvas, panel = _canvas(neighbour)
        _mark(canvas, panel.place(match), [rank])
        tiles.append(Tile(canvas.image, f"neighbour {rank + 1}"))
        users.setdefault(source.place(box), []).append(rank)
    for edges, ranks in users.items():
        _mark(own, edges, ranks)
    return Strip(row.name, [Tile(own.image, "image", row.name), *tiles])


def _mark(canvas: Canvas, edges: Edges, ranks: Sequence[int]) -> None:
    """A box in the colour of the first of its neighbours, with the numbers of all."""
    canvas.outline(edges, _COLOURS[ranks[0]])
    canvas.tag(edges, " ".join(str(rank + 1) for rank in ranks), _COLOURS[ranks[0]])


def _canvas(image: Image.Image) -> tuple[Canvas, Panel]:
    """An image to draw on."""
    picture, scale = fit(image.convert("RGB"), _SIDE, _SIDE)
    canvas, panel = Canvas(*picture.size), Panel(0, 0, picture.width, picture.height, scale)
    canvas.paste(picture, panel)
    return canvas, panel
