"""The figure of what a method sees: images, where their views were cut, and which regions it holds together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regionssl.geometry import Crops, area, intersect, iou, to_image
from regionssl.report.drawing import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    SMALL,
    TEXT,
    VERMILLION,
    YELLOW,
    Canvas,
    Colour,
    Edges,
    Panel,
    fit,
    shorten,
    text_width,
)

VIEW_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW)
REGION_COLOURS = (ORANGE, SKY, GREEN, YELLOW, PURPLE, VERMILLION, BLUE)
UNMATCHED = (128, 128, 128)
_FAINT = (255, 255, 255, 130)
_CLUTTER = 0.3  # intersection over union at which two boxes are not both numbered
SIDE, _GAP, _MARGIN, _CAPTION, FRAME, _LEGEND, _TICK = 448, 28, 28, 34, 4, 30, 22


class MatchedRegions(Protocol):
    """Regions of one view and their counterparts in another: a method's ``Matches``."""

    @property
    def views(self) -> tuple[int, int]: ...
    @property
    def first(self) -> Tensor: ...
    @property
    def second(self) -> Tensor: ...
    @property
    def valid(self) -> Tensor: ...


def view_colour(number: int) -> Colour:
    """The colour of a view's crop and frame."""
    return VIEW_COLOURS[number % len(VIEW_COLOURS)]


def region_colour(position: int) -> Colour:
    """The colour of the numbered region ``position``, counted from 0."""
    return REGION_COLOURS[position % len(REGION_COLOURS)]


def views_figure(
    images: Sequence[Image.Image],
    crops: Sequence[Crops],
    views: Sequence[Tensor],
    matches: MatchedRegions,
    names: Sequence[str],
    title: str = "",
    captions: Sequence[str] = (),
    others: Mapping[int, Sequence[Image.Image]] | None = None,
) -> Image.Image:
    """One row per image: the image with its crops, then each view; the same number and colour mark the same place.

    Args:
        images: N upright RGB images.
        crops: V views' geometry, N crops each, in pixels of the images.
        views: V tensors (N, 3, S, S) uint8, as the network sees them; S may differ between views.
        matches: two of the views, boxes (N, K, 4) in their pixels and valid (N, K) bool. At most 7 valid rows per
            image, well spread, are numbered; the others are faint. Rows that are not valid are dashed in the first.
        names: N captions.
        captions: of the views; "view 1" and so on if left out.
        others: by position of a view that was cut from other images, those N images, drawn in a column of their own.
    """
    others = others or {}
    captions = captions or [f"view {number + 1}" for number in range(len(views))]
    sources = [fit(image.convert("RGB"), round(SIDE * 1.5), SIDE) for image in images]
    foreign = {v: [fit(image.convert("RGB"), round(SIDE * 1.5), SIDE) for image in row] for v, row in others.items()}
    column = max(picture.width for picture, _ in sources)
    columns = {view: max(picture.width for picture, _ in row) for view, row in foreign.items()}
    first = _MARGIN + column + _GAP + sum(columns.values()) + _GAP * len(columns)
    width = first + len(views) * (_GAP + SIDE) - _GAP + _MARGIN
    legend = _wrap(_legend(crops, matches), width - 2 * _MARGIN)
    top = _MARGIN + _LEGEND * (len(legend) + bool(title))
    canvas = Canvas(width, top + len(images) * (_CAPTION + SIDE + _GAP))
    if title:
        canvas.write(_MARGIN, _MARGIN, shorten(title, width - 2 * _MARGIN, TEXT + 4), TEXT + 4)
    for line, entries in enumerate(legend):
        _draw_legend(canvas, entries, top - _LEGEND * (len(legend) - line))
    for row, (picture, scale) in enumerate(sources):
        y = top + row * (_CAPTION + SIDE + _GAP) + _CAPTION
        source = Panel(_MARGIN, y, picture.width, picture.height, scale)
        numbered = spread(matches.first[row], matches.valid[row])
        _draw_caption(canvas, source, column, names[row], matches.valid[row])
        own = {number: crop[row : row + 1] for number, crop in enumerate(crops) if number not in others}
        draw_source(canvas, source, picture, own, matches.views)
        x = _MARGIN + column + _GAP
        for number, wide in columns.items():
            other, zoom = foreign[number][row]
            panel = Panel(x, y, other.width, other.height, zoom)
            canvas.write(x, y - _CAPTION / 2, f"image of view {number + 1}")
            draw_source(canvas, panel, other, {number: crops[number][row : row + 1]}, matches.views)
            x += wide + _GAP
        places = to_image(matches.first[row : row + 1].double(), crops[matches.views[0]][row : row + 1])[0]
        draw_numbered(canvas, source, places, numbered, 1, SMALL - 3)
        for number, view in enumerate(views):
            panel = Panel(first + number * (SIDE + _GAP), y, SIDE, SIDE, SIDE / view.shape[-1])
            mirrored = ", mirrored" if bool(crops[number].flip[row]) else ""
            draw_view(canvas, panel, view[row], number, captions[number] + mirrored)
            draw_regions(canvas, panel, matches, row, number, numbered)
    return canvas.image


def spread(boxes: Tensor, valid: Tensor, count: int = len(REGION_COLOURS)) -> list[int]:
    """Positions, ascending, of at most ``count`` valid boxes (K, 4) to number.

    The first, then always the one whose centre is farthest from those taken, unless it nearly coincides with one.
    """
    candidates = valid.nonzero().flatten()
    boxes = boxes[candidates].double()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = torch.full((len(boxes),), torch.inf, dtype=torch.float64, device=boxes.device)
    chosen: list[int] = []
    while len(chosen) < count and len(boxes) and float(distance.max()) >= 0:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (centres - centres[chosen[-1]]).norm(dim=1))
        distance[iou(boxes, boxes[chosen[-1]]) > _CLUTTER] = -1
    return sorted(candidates[chosen].tolist())


def _draw_caption(canvas: Canvas, panel: Panel, column: int, name: str, valid: Tensor) -> None:
    count = f"{int(valid.sum())} of {len(valid)} regions matched"
    space, y = column - text_width(count, SMALL) - 16, panel.top - _CAPTION / 2
    canvas.write(panel.left, y, shorten(name, space, TEXT))
    canvas.write(panel.left + column, y, count, SMALL, MUTED, "rm")


def draw_source(
    canvas: Canvas, panel: Panel, picture: Image.Image, crops: Mapping[int, Crops], pair: tuple[int, int]
) -> None:
    """The image, darker outside the crops (by view, one each), with the crops and the overlap of the matched views."""
    pixels, edges = np.asarray(picture), {view: panel.place(crop.box[0].tolist()) for view, crop in crops.items()}
    seen = np.zeros(pixels.shape[:2], bool)
    for x0, y0, x1, y1 in edges.values():
        seen[y0 - panel.top : y1 - panel.top, x0 - panel.left : x1 - panel.left] = True
    canvas.paste(Image.fromarray(np.where(seen[..., None], pixels, pixels * 0.4).astype(np.uint8)), panel)
    for number, edge in edges.items():
        canvas.outline(edge, view_colour(number), 4)
        canvas.corner(edge, bool(crops[number].flip[0]), view_colour(number), _TICK)
    if not crops.keys() >= {*pair}:
        return
    overlap = intersect(crops[pair[0]].box, crops[pair[1]].box)
    if float(area(overlap)[0]) > 0:
        canvas.dashed(panel.place(overlap[0].tolist()), PAPER)


def draw_view(canvas: Canvas, panel: Panel, view: Tensor, number: int, caption: str) -> None:
    """One view in a frame of its colour; the triangle is at the corner that the source marks with the same colour."""
    canvas.write(panel.left, panel.top - _CAPTION / 2, shorten(caption, panel.width, TEXT))
    x0, y0, x1, y1 = panel.edges
    canvas.outline((x0 - FRAME, y0 - FRAME, x1 + FRAME, y1 + FRAME), view_colour(number), FRAME, halo=False)
    canvas.paste(Image.fromarray(view.permute(1, 2, 0).contiguous().cpu().numpy()), panel)
    canvas.corner(panel.edges, False, view_colour(number), _TICK)


def draw_regions(
    canvas: Canvas, panel: Panel, matches: MatchedRegions, row: int, view: int, numbered: list[int]
) -> None:
    """The regions of one view, if it is one of the two that are matched."""
    if view not in matches.views:
        return
    boxes = (matches.first, matches.second)[matches.views.index(view)][row]
    for index, (box, valid) in enumerate(zip(boxes.tolist(), matches.valid[row].tolist(), strict=True)):
        if valid and index not in numbered:
            canvas.outline(panel.place(box), _FAINT, 1, halo=False)
        elif not valid and view == matches.views[0]:
            canvas.dashed(panel.place(box), UNMATCHED)
    draw_numbered(canvas, panel, boxes, numbered, 3, SMALL)


def draw_numbered(canvas: Canvas, panel: Panel, boxes: Tensor, numbered: list[int], width: int, size: int) -> None:
    edges = [panel.place(boxes[index].tolist()) for index in numbered]
    for position, edge in enumerate(edges):
        canvas.outline(edge, region_colour(position), width, halo=width > 1)
    for position, edge in enumerate(edges):
        canvas.tag(edge, str(position + 1), region_colour(position), size)


_Sign = Callable[[Canvas, Edges], None]


def _legend(crops: Sequence[Crops], matches: MatchedRegions) -> list[tuple[str, _Sign]]:
    """What each sign means, as (text, how to draw the sign)."""

    def crop_of(number: int) -> _Sign:
        return lambda canvas, edges: canvas.outline(edges, view_colour(number), 4, halo=False)

    def triangle(canvas: Canvas, edges: Edges) -> None:
        canvas.corner(edges, False, view_colour(matches.views[0]), 16)

    def pair(canvas: Canvas, edges: Edges) -> None:
        canvas.outline(edges, region_colour(0))
        canvas.tag(edges, "1", region_colour(0), 11)

    def dark(inner: _Sign) -> _Sign:
        def sign(canvas: Canvas, edges: Edges) -> None:
            canvas.draw.rectangle(edges, fill=(60, 60, 60))
            inner(canvas, edges)

        return sign

    first, second = (number + 1 for number in matches.views)
    signs: list[tuple[str, _Sign]] = [(f"view {number + 1}", crop_of(number)) for number in range(len(crops))]
    signs += [
        ("corner that is top left in the view", triangle),
        (f"shared by views {first} and {second}", dark(lambda canvas, edges: canvas.dashed(edges, PAPER, dash=4))),
        ("the same place", pair),
    ]
    if any(len(spread(*row)) < int(row[1].sum()) for row in zip(matches.first, matches.valid, strict=True)):
        signs.append(("more of these", dark(lambda canvas, edges: canvas.outline(edges, _FAINT, 1, halo=False))))
    if not bool(matches.valid.all()):
        signs.append(("no counterpart: not in the loss", lambda canvas, edges: canvas.dashed(edges, UNMATCHED, dash=4)))
    return signs


def _wrap(entries: list[tuple[str, _Sign]], width: int) -> list[list[tuple[str, _Sign]]]:
    """The entries of the legend in lines of at most ``width`` pixels."""
    lines: list[list[tuple[str, _Sign]]] = [[]]
    used = 0.0
    for entry in entries:
        needed = _LEGEND + _GAP + text_width(entry[0], SMALL)
        if lines[-1] and used + needed - _GAP > width:
            lines.append([])
            used = 0.0
        lines[-1].append(entry)
        used += needed
    return lines


def _draw_legend(canvas: Canvas, entries: list[tuple[str, _Sign]], y: int) -> None:
    x = float(_MARGIN)
    for text, sign in entries:
        sign(canvas, (int(x), y - 9, int(x) + 22, y + 9))
        canvas.write(x + _LEGEND, y, text, SMALL)
        x += _LEGEND + _GAP + text_width(text, SMALL)
