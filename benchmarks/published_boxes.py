"""SCRL's boxes as published codes draw them: one image, one box, one attempt at a time, with NumPy's scalar draws.

From the specification's sections 2.3 and 2.4, without jitter; what :mod:`regionssl.regions.boxes` is timed against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from regionssl.geometry import Crops
from regionssl.regions.boxes import BoxSamplerConfig

Box = tuple[float, float, float, float]


@dataclass
class PublishedBoxes:
    """The sampler; ``draws`` are consumed in order."""

    config: BoxSamplerConfig
    draws: np.random.RandomState

    def batch(self, first: Crops, second: Crops) -> list[list[tuple[Box, Box]]]:
        """Pairs of boxes in view pixels, per image; none where the views overlap too little."""
        views = [zip(crops.box.tolist(), crops.flip.tolist(), strict=True) for crops in (first, second)]
        return [self.image(one, two, first.size) for one, two in zip(*views, strict=True)]

    def image(self, one: tuple[Box, bool], two: tuple[Box, bool], size: int) -> list[tuple[Box, Box]]:
        (box, _), (other, _) = one, two
        left, top = max(box[0], other[0]), max(box[1], other[1])
        right, bottom = min(box[2], other[2]), min(box[3], other[3])
        if left >= right or top >= bottom:
            return []
        a = min(size / (box[2] - box[0]), size / (other[2] - other[0]))
        b = min(size / (box[3] - box[1]), size / (other[3] - other[1]))
        width, height = round((right - left) * a), round((bottom - top) * b)
        if min(width, height) <= self.config.min_size:
            return []
        pairs: list[tuple[Box, Box]] = []
        for _ in range(self.config.boxes):
            for _ in range(self.config.attempts):
                drawn = self.on_canvas(width, height)
                placed = [place(drawn, view, (left, top), (a, b), size) for view in (one, two)]
                if all(overlap_ratio(placed[0], kept) < self.config.max_iou for kept, _ in pairs):
                    break
            pairs.append((clipped(placed[0], size), clipped(placed[1], size)))
        return pairs

    def on_canvas(self, width: int, height: int) -> tuple[int, int, int, int]:
        draw, least = self.draws.randint, self.config.min_size
        columns, rows = draw(1, width // least + 1), draw(1, height // least + 1)
        w, h = width / columns, height / rows
        column, row = draw(0, columns), draw(0, rows)
        box_w, box_h = draw(least, int(w + 1)), draw(least, int(h + 1))
        x, y = draw(0, int(w - box_w + 1)), draw(0, int(h - box_h + 1))
        return x + math.floor(column * w), y + math.floor(row * h), box_w, box_h


def place(
    box: tuple[int, int, int, int],
    view: tuple[Box, bool],
    corner: tuple[float, float],
    scale: tuple[float, float],
    size: int,
) -> Box:
    """A box on the canvas in pixels of a view."""
    (x, y, w, h), ((left, top, right, bottom), flip) = box, view
    zoom = size / (right - left), size / (bottom - top)
    x0 = x / scale[0] * zoom[0] + (corner[0] - left) * zoom[0]
    y0 = y / scale[1] * zoom[1] + (corner[1] - top) * zoom[1]
    x1, y1 = x0 + w / scale[0] * zoom[0], y0 + h / scale[1] * zoom[1]
    return (size - x1, y0, size - x0, y1) if flip else (x0, y0, x1, y1)


def overlap_ratio(a: Box, b: Box) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def clipped(box: Box, size: int) -> Box:
    return max(0.0, box[0]), max(0.0, box[1]), min(float(size), box[2]), min(float(size), box[3])
