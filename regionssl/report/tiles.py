"""Figures of maps that cover images: a column per image, a labelled row per kind of map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from regionssl.report.drawing import INK, LINE, MUTED, SMALL, TEXT, Canvas, Panel, fit, shorten, text_width

_SIDE, _GAP, _MARGIN, _TITLE = 232, 10, 28, 36


@dataclass(frozen=True)
class Row:
    """One row of a figure: a tile for each image, and a note that stands below the row's name."""

    tiles: Sequence[Image.Image]
    note: str = ""


def cells(maps: Tensor) -> str:
    """What a row says of the resolution of its maps (..., h, w)."""
    return f"{maps.shape[-2]} x {maps.shape[-1]} cells"


def tiles_figure(images: Sequence[Image.Image], rows: Mapping[str, Row], title: str = "") -> Image.Image:
    """On top the images, below the rows; each tile is drawn as large as its image.

    Args:
        images: N RGB images.
        rows: name -> N tiles of any size, each of which covers its image.
    """
    pictures = [fit(image.convert("RGB"), _SIDE, _SIDE)[0] for image in images]
    tall = max(picture.height for picture in pictures)
    label = max(text_width(shorten(name, _SIDE, TEXT), TEXT) for name in ["images", *rows])
    left = _MARGIN + round(label) + 2 * _GAP
    top = _MARGIN + (_TITLE if title else 0)
    canvas = Canvas(
        left + len(images) * (_SIDE + _GAP) + _MARGIN - _GAP, top + (1 + len(rows)) * (tall + _GAP) + _MARGIN - _GAP
    )
    if title:
        canvas.write(_MARGIN, _MARGIN, shorten(title, canvas.image.width - 2 * _MARGIN, TEXT + 4), TEXT + 4)
    for number, (name, row) in enumerate({"images": Row(pictures), **rows}.items()):
        _draw_row(canvas, left, top + number * (tall + _GAP), tall, name, row, pictures)
    return canvas.image


def _draw_row(
    canvas: Canvas, left: int, top: int, tall: int, name: str, row: Row, pictures: Sequence[Image.Image]
) -> None:
    canvas.write(_MARGIN, top + tall / 2, shorten(name, _SIDE, TEXT), TEXT, INK)
    if row.note:
        canvas.write(_MARGIN, top + tall / 2 + 22, row.note, SMALL, MUTED)
    for column, (tile, picture) in enumerate(zip(row.tiles, pictures, strict=True)):
        panel = Panel(left + column * (_SIDE + _GAP), top, picture.width, picture.height, 1.0)
        canvas.paste(tile, panel)
        canvas.outline(panel.edges, LINE, 1, halo=False)
