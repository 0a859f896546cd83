"""Rows of captioned tiles: one shape for pages, which wrap them, and for figures, which lay them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from regionssl.report.drawing import LINE, MUTED, SMALL, TEXT, Canvas, Panel, fit, shorten
from regionssl.report.tiles import Row

_SIDE, _GAP, _MARGIN, _TITLE, _HEADING, _CAPTION = 232, 10, 28, 36, 26, 22


@dataclass(frozen=True)
class Tile:
    """A picture and what stands below it.

    Attributes:
        alt: what it shows, for who does not see it; the caption if empty.
        cells: whether its pixels are cells of a map, to be enlarged without smoothing.
    """

    image: Image.Image
    caption: str
    alt: str = ""
    cells: bool = False


@dataclass(frozen=True)
class Strip:
    """Tiles that belong together, such as one image in several states."""

    title: str
    tiles: Sequence[Tile]


def by_image(
    images: Sequence[Image.Image], names: Sequence[str], rows: Mapping[str, Row], cells: bool = False
) -> list[Strip]:
    """A strip for each image: the image, then its tile in each row.

    Args:
        images: N RGB images.
        names: N of them.
        rows: name -> N tiles, as in :func:`regionssl.report.tiles.tiles_figure`.
        cells: whether the pixels of the rows' tiles are cells of maps.
    """
    strips = []
    for number, (image, name) in enumerate(zip(images, names, strict=True)):
        picture = fit(image.convert("RGB"), _SIDE, _SIDE)[0]
        own = [
            Tile(
                row.tiles[number] if cells else row.tiles[number].resize(picture.size),
                ", ".join(filter(None, (label, row.note))),
                f"{label}: {name}",
                cells,
            )
            for label, row in rows.items()
        ]
        strips.append(Strip(name, [Tile(picture, "image", name), *own]))
    return strips


def strips_figure(strips: Sequence[Strip], title: str = "") -> Image.Image:
    """The strips below each other, each tile with its caption below it."""
    columns = max((len(strip.tiles) for strip in strips), default=1)
    step, height = _SIDE + _GAP, _HEADING + _SIDE + _CAPTION + _GAP
    top = _MARGIN + (_TITLE if title else 0)
    canvas = Canvas(2 * _MARGIN + columns * step - _GAP, top + len(strips) * height + _MARGIN - _GAP)
    if title:
        canvas.write(_MARGIN, _MARGIN, shorten(title, canvas.image.width - 2 * _MARGIN, TEXT + 4), TEXT + 4)
    for number, strip in enumerate(strips):
        y = top + number * height
        canvas.write(_MARGIN, y + _HEADING / 2, shorten(strip.title, canvas.image.width - 2 * _MARGIN, SMALL), SMALL)
        for column, tile in enumerate(strip.tiles):
            _draw_tile(canvas, _MARGIN + column * step, y + _HEADING, tile)
    return canvas.image


def _draw_tile(canvas: Canvas, left: int, top: int, tile: Tile) -> None:
    source = tile.image.convert("RGB")
    scale = min(_SIDE / source.width, _SIDE / source.height)
    size = max(1, round(source.width * scale)), max(1, round(source.height * scale))
    picture = source.resize(size, Image.Resampling.NEAREST) if tile.cells else fit(source, _SIDE, _SIDE)[0]
    panel = Panel(left, top, picture.width, picture.height, scale)
    canvas.paste(picture, panel)
    canvas.outline(panel.edges, LINE, 1, halo=False)
    canvas.write(left, top + picture.height + _CAPTION / 2, shorten(tile.caption, _SIDE, SMALL), SMALL, MUTED)
