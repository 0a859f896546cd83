"""What a method sees, as strips: the parts of :func:`regionssl.report.views.views_figure`, one tile each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image
from torch import Tensor

from regionssl.geometry import Crops, to_image
from regionssl.report.drawing import SMALL, Canvas, Panel, fit
from regionssl.report.strips import Strip, Tile
from regionssl.report.views import (
    FRAME,
    SIDE,
    MatchedRegions,
    draw_numbered,
    draw_regions,
    draw_source,
    draw_view,
    spread,
)


def view_strips(
    images: Sequence[Image.Image],
    crops: Sequence[Crops],
    views: Sequence[Tensor],
    matches: MatchedRegions,
    names: Sequence[str],
    captions: Sequence[str],
    others: Mapping[int, Sequence[Image.Image]],
) -> list[Strip]:
    """A strip for each image: the image with its crops, images of other views, then the views. Arguments as there."""
    strips = []
    for row, (image, name) in enumerate(zip(images, names, strict=True)):
        numbered = spread(matches.first[row], matches.valid[row])
        own = {number: crop[row : row + 1] for number, crop in enumerate(crops) if number not in others}
        canvas, panel = _source(image, own, matches)
        places = to_image(matches.first[row : row + 1].double(), crops[matches.views[0]][row : row + 1])[0]
        draw_numbered(canvas, panel, places, numbered, 1, SMALL)
        valid = matches.valid[row]
        tiles = [Tile(canvas.image, f"image, {int(valid.sum())} of {len(valid)} regions matched", f"{name} with crops")]
        for number, pictures in others.items():
            canvas, _ = _source(pictures[row], {number: crops[number][row : row + 1]}, matches)
            tiles.append(Tile(canvas.image, f"image of view {number + 1}"))
        for number, view in enumerate(views):
            mirrored = ", mirrored" if bool(crops[number].flip[row]) else ""
            picture = _view(view[row], matches, row, number, numbered)
            tiles.append(Tile(picture, captions[number] + mirrored, f"{captions[number]} of {name} with its regions"))
        strips.append(Strip(name, tiles))
    return strips


def _source(image: Image.Image, crops: Mapping[int, Crops], matches: MatchedRegions) -> tuple[Canvas, Panel]:
    picture, scale = fit(image.convert("RGB"), SIDE, SIDE)
    canvas, panel = Canvas(*picture.size), Panel(0, 0, picture.width, picture.height, scale)
    draw_source(canvas, panel, picture, crops, matches.views)
    return canvas, panel


def _view(view: Tensor, matches: MatchedRegions, row: int, number: int, numbered: list[int]) -> Image.Image:
    canvas = Canvas(SIDE + 2 * FRAME, SIDE + 2 * FRAME)
    panel = Panel(FRAME, FRAME, SIDE, SIDE, SIDE / view.shape[-1])
    draw_view(canvas, panel, view, number, "")
    draw_regions(canvas, panel, matches, row, number, numbered)
    return canvas.image
