"""Patches: boxes of an image and of one of its neighbours, drawn from discovered correspondences (ORL, section 4).

This module knows what correspondences look like, not where they come from: it is handed a :class:`PatchSource`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import Field

from regionssl.config import Config

Box = tuple[int, int, int, int]
"""Left, top, width and height in whole image pixels."""

PATCH_NAMES = ("box", "jittered box", "paired box", "its pair in a neighbour")
"""The patches of a sample, in order: the first three are cut from the image, the last from its neighbour."""


class BoxJitter(Config):
    """How a box is moved and reshaped (ORL, section 4.2); the release's values are the defaults.

    Attributes:
        area: range of the new area over the old one.
        aspect: range of the new box's own width over height, drawn log-uniformly.
        shift: largest shift of the centre, in widths and heights of the old box.
        iou: intersection over union with the old box that the new one must exceed.
        attempts: draws before the box is kept as it is.
    """

    area: tuple[float, float] = (0.5, 2.0)
    aspect: tuple[float, float] = (0.5, 2.0)
    shift: float = Field(0.5, ge=0)
    iou: float = Field(0.5, ge=0, lt=1)
    attempts: int = Field(200, ge=0)


class Rows(Protocol):
    """One array of integers per position."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> np.ndarray: ...


class RankedRows(Protocol):
    """For each image, one array of integers per neighbour."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Rows: ...


class PatchSource(Protocol):
    """Correspondences between N images; rows of boxes are left, top, width, height in whole pixels of their image.

    Attributes:
        boxes: per image (B, 4), B >= 1.
        neighbours: (N, K), positions of each image's neighbours, nearest first.
        pairs: per image and neighbour (P, 8), P >= 1: a box of the image, then its match in the neighbour.
    """

    @property
    def boxes(self) -> Rows: ...
    @property
    def neighbours(self) -> np.ndarray: ...
    @property
    def pairs(self) -> RankedRows: ...


class Draws(Protocol):
    """A source of random numbers: a NumPy generator, or the recorded order of the release."""

    def uniform(self, low: float, high: float, /) -> float: ...
    def integers(self, low: int, high: int, /) -> int: ...


@dataclass(frozen=True)
class PatchDraw:
    """The drawn patches of one image.

    Attributes:
        neighbour: position of the image that the last box belongs to.
        boxes: a box, its jittered copy, the image's box of a pair, the neighbour's box of that pair.
    """

    neighbour: int
    boxes: tuple[Box, Box, Box, Box]


def draw_patches(source: PatchSource, index: int, width: int, height: int, jitter: BoxJitter, rng: Draws) -> PatchDraw:
    """Draw the neighbour, the box, its jittered copy and the pair, in this order (ORL, section 4.1).

    Args:
        index: position of the image. width, height: of the upright image, pixels.
    """
    rank = int(rng.integers(0, len(source.neighbours[index])))
    box = _choose(source.boxes[index], rng)
    moved = jitter_box((box[0], box[1], box[2], box[3]), width, height, jitter, rng)
    pair = _choose(source.pairs[index][rank], rng)
    first, second = (pair[0], pair[1], pair[2], pair[3]), (pair[4], pair[5], pair[6], pair[7])
    return PatchDraw(int(source.neighbours[index][rank]), ((box[0], box[1], box[2], box[3]), moved, first, second))


def _choose(rows: np.ndarray, rng: Draws) -> list[int]:
    chosen: list[int] = rows[int(rng.integers(0, len(rows)))].tolist()
    return chosen


def jitter_box(box: Box, width: int, height: int, jitter: BoxJitter, rng: Draws) -> Box:
    """A box near ``box`` and inside the image, or ``box`` itself if no attempt gives one (ORL, section 4.2).

    Every attempt draws the area, the logarithm of the aspect ratio and the shifts along x and y, in this order.

    Args:
        width, height: of the image, pixels.
    """
    x, y, w, h = box
    low, high = math.log(jitter.aspect[0]), math.log(jitter.aspect[1])
    for _ in range(jitter.attempts):
        area, aspect = rng.uniform(*jitter.area) * (w * h), math.exp(rng.uniform(low, high))
        right, down = rng.uniform(-jitter.shift, jitter.shift), rng.uniform(-jitter.shift, jitter.shift)
        new_w, new_h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        new = (round(x + w / 2 + right * w - new_w / 2), round(y + h / 2 + down * h - new_h / 2), new_w, new_h)
        fits = new[0] >= 0 and new[1] >= 0 and new[0] + new_w <= width and new[1] + new_h <= height
        if fits and box_iou(new, box) > jitter.iou:
            return new
    return box


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes of positive area."""
    w = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    h = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)
