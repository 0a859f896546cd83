"""Which points match a point, within a view and across two views, by features (PLRC, section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from regionssl.geometry import Crops, between, lattice_boxes
from regionssl.report.drawing import ORANGE, PAPER, Canvas, Colour, Panel
from regionssl.report.strips import Strip, Tile

LEVELS = 127
"""A similarity of 1 as an 8-bit number."""
HEAT: tuple[Colour, ...] = ((13, 8, 135), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33))
"""Colours from the least to the most alike, in equal steps (matplotlib's plasma)."""
COVER = 0.72
"""How much of the picture the heat covers."""
_SIDE = 232


@dataclass(frozen=True)
class Affinity:
    """How alike the points of two views of one image are, all arrays int8 (P, P), ``LEVELS`` for equal.

    Attributes:
        within: of the first view and of the second.
        across: row p and column q: point p of the first view and q of the second.
    """

    within: tuple[np.ndarray, np.ndarray]
    across: np.ndarray

    def row(self, view: int, point: int, other: int) -> np.ndarray:
        """Similarities (P,) float64 of a point of a view to all points of a view."""
        table = self.within[view] if view == other else self.across if view == 0 else self.across.T
        return table[point].astype(np.float64) / LEVELS


@dataclass(frozen=True)
class PointViews:
    """Two views of one image.

    Attributes:
        name: of the image.
        views: RGB.
        places: for each view (P, 2) float64: where its points lie in the other view, x and y as shares of its side;
            nan outside.
    """

    name: str
    views: tuple[Image.Image, Image.Image]
    places: tuple[np.ndarray, np.ndarray]


def unit_about_mean(maps: Tensor) -> Tensor:
    """Feature maps (N, C, h, w) with the mean of all positions taken away, each position of unit length (or 0)."""
    maps = maps.detach().double().cpu()
    return F.normalize(maps - maps.mean((0, 2, 3), keepdim=True), dim=1, eps=1e-12)


def on_points(units: Tensor, most: int) -> Tensor:
    """Maps (N, C, h, w) of unit vectors on at most ``most`` x ``most`` points.

    Brought there by half-pixel bilinear interpolation, and not made unit vectors again (PLRC, section 4.3).
    """
    side = min(most, units.shape[-1])
    return units if units.shape[-1] == side else F.interpolate(units, (side, side), mode="bilinear")


def affinity(first: Tensor, second: Tensor) -> Affinity:
    """The similarities of the points of two views (C, s, s), vectors of length at most 1."""
    rows = [view.flatten(1).T for view in (first, second)]
    within = tuple(_quantised(one @ one.T) for one in rows)
    return Affinity((within[0], within[1]), _quantised(rows[0] @ rows[1].T))


def _quantised(similarities: Tensor) -> np.ndarray:
    """In steps of 1 / ``LEVELS``, so at most half of that off."""
    return (similarities.clamp(-1, 1) * LEVELS).round().to(torch.int8).numpy()


def places_between(source: Crops, target: Crops, side: int) -> np.ndarray:
    """Where the points of one view lie in another one (N, side * side, 2), as in :class:`PointViews`."""
    cells = torch.arange(side * side).expand(len(source), -1)
    boxes = between(lattice_boxes(cells, side, source.size), source, target)
    centres = ((boxes[..., :2] + boxes[..., 2:]) / 2 / target.size).numpy()
    outside = ((centres < 0) | (centres > 1)).any(-1, keepdims=True)
    return np.where(outside, np.nan, centres)


def first_point(views: PointViews, side: int) -> int:
    """The point of the first view that is shown before one is picked: the most central of those in both views."""
    cells = np.arange(side * side)
    distance = np.hypot(cells % side - (side - 1) / 2, cells // side - (side - 1) / 2)
    seen = ~np.isnan(views.places[0][:, 0])
    return int(np.where(seen, distance, distance + side).argmin())


def heat(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours (..., 3) float64 of values from ``low`` to ``high``."""
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1) * (len(HEAT) - 1)
    stops = np.array(HEAT, np.float64)
    step = np.minimum(share.astype(int), len(HEAT) - 2)
    part = (share - step)[..., None]
    return stops[step] * (1 - part) + stops[step + 1] * part


def affinity_strips(images: Sequence[PointViews], networks: Mapping[str, Sequence[Affinity]]) -> list[Strip]:
    """Of each image the two views, and by each network what matches one point within and across them.

    Args:
        networks: label -> an affinity for each image.
    """
    strips = []
    for number, views in enumerate(images):
        side = round(len(views.places[0]) ** 0.5)
        point = first_point(views, side)
        tiles = [Tile(_marked(views, 0, None, point, side), "view 1, a point")]
        tiles.append(Tile(_marked(views, 1, None, point, side), "view 2, its place"))
        for label, found in networks.items():
            rows = [found[number].row(0, point, view) for view in (0, 1)]
            span = spread_of(*rows)
            for view, row in enumerate(rows):
                picture = _marked(views, view, heat(row.reshape(side, side), *span), point, side)
                where = "within" if view == 0 else "across"
                tiles.append(Tile(picture, f"{label}, {where}", f"what matches the point {where} views by {label}"))
        strips.append(Strip(views.name, tiles))
    return strips


def spread_of(*rows: np.ndarray) -> tuple[float, float]:
    """Least and most alike of what a point is compared with; the most alike, itself, is left out of the first row."""
    others = np.concatenate([np.sort(rows[0])[:-1], *rows[1:]])
    return float(others.min()), float(others.max())


def _marked(views: PointViews, view: int, colours: np.ndarray | None, point: int, side: int) -> Image.Image:
    """A view under its heat; the point as a square in the first, its true place as a ring in the second."""
    picture = views.views[view].convert("RGB").resize((_SIDE, _SIDE))
    if colours is not None:
        cover = Image.fromarray(colours.round().astype(np.uint8)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        picture = Image.blend(picture.convert("L").convert("RGB"), cover, COVER)
    canvas = Canvas(_SIDE, _SIDE)
    panel = Panel(0, 0, _SIDE, _SIDE, 1.0)
    canvas.paste(picture, panel)
    cell = _SIDE / side
    if view == 0:
        left, top = point % side * cell, point // side * cell
        canvas.outline(panel.place((left, top, left + cell, top + cell)), PAPER, 2)
    elif not np.isnan(views.places[0][point]).any():
        x, y = views.places[0][point] * _SIDE
        for radius, colour in ((cell * 0.6 + 1, (0, 0, 0)), (cell * 0.6, ORANGE if colours is None else PAPER)):
            canvas.draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=2)
    return canvas.image
