"""SCRL's box sampler on the CPU, for a whole batch: the boxes of :mod:`regionssl.regions.boxes`, from few draws.

Only the first attempt of every box is made for all images; then, in rounds, further attempts of the first failing box
of each image that still has one. Arrays of a few thousand numbers are NumPy's ground: torch takes several times as long
for each operation on them. Coordinates come first: (2, images, boxes) are x and y, (2, 2, images, boxes) low and high
ends of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from regionssl.geometry import Crops, mirror_ranges, overlap_ratio

Draws = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(image, box, attempt), int64 that broadcast to a shape -> (draws of an attempt, *shape) float64 in [0, 1)."""

_CANDIDATES = 128  # boxes that a round tries, over all its images


@dataclass(frozen=True)
class Canvas:
    """What the two views of N images share, in whole pixels of the coarser view (section 2.3).

    Attributes:
        extent: (2, N, 1). unit: (2, N, 1), image pixels per canvas pixel.
        zoom, shift: (2, 2, N, 1) for each view, its pixels per image pixel, and where its canvas begins.
        flip: (2, N, 1) bool, whether the view is mirrored. sizes: sides of the views, pixels.
    """

    extent: np.ndarray
    unit: np.ndarray
    zoom: np.ndarray
    shift: np.ndarray
    flip: np.ndarray
    sizes: tuple[int, int]

    def __getitem__(self, images: np.ndarray) -> Canvas:
        return Canvas(
            self.extent[:, images],
            self.unit[:, images],
            self.zoom[:, :, images],
            self.shift[:, :, images],
            self.flip[:, images],
            self.sizes,
        )

    def place(self, corner: np.ndarray, side: np.ndarray, view: int) -> np.ndarray:
        """Boxes (2, 2, N, K) in pixels of a view, not yet clipped, from corner and side (2, N, K) on the canvas."""
        low = corner * self.unit * self.zoom[view] + self.shift[view]
        boxes = np.stack([low, low + side * self.unit * self.zoom[view]])
        return mirror_ranges(boxes, self.flip[view], self.sizes[view])


def shared_canvas(first: Crops, second: Crops, min_size: int) -> tuple[Canvas, np.ndarray]:
    """The canvas of each image, and which are larger than ``min_size``, (N,) bool; the others get the least extent."""
    boxes = np.stack([first.box.numpy(), second.box.numpy()]).reshape(2, -1, 2, 2).transpose(0, 2, 3, 1)[..., None]
    low, high = boxes[:, 0].max(0), boxes[:, 1].min(0)
    zoom = np.array([first.size, second.size]).reshape(2, 1, 1, 1) / (boxes[:, 1] - boxes[:, 0])
    coarser = zoom.min(0)
    extent = np.round((high - low) * coarser)
    valid = ((high > low) & (extent > min_size)).all(0)
    flip = np.stack([first.flip.numpy(), second.flip.numpy()])[..., None]
    extent = np.where(valid, extent, min_size + 1.0)
    shift = (low - boxes[:, 0]) * zoom
    return Canvas(extent, 1 / coarser, zoom, shift, flip, (first.size, second.size)), valid[:, 0]


def on_canvas(extent: np.ndarray, draws: np.ndarray, min_size: int, grid: bool) -> tuple[np.ndarray, np.ndarray]:
    """Corner and side (2, N, K) of boxes in whole canvas pixels, from draws (D, N, K) (section 2.4)."""
    if not grid:
        side = min_size + np.floor(draws[:2] * (extent - min_size))
        return np.floor(draws[2:4] * (extent - side)), side
    cells = 1 + np.floor(draws[:2] * np.floor(extent / min_size))
    cell = extent / cells
    place = np.floor(draws[2:4] * cells)
    side = min_size + np.floor(draws[4:6] * np.floor(cell + 1 - min_size))
    offset = np.floor(draws[6:8] * np.floor(cell - side + 1))
    return offset + np.floor(place * cell), side


def choose_diverse(
    canvas: Canvas, images: np.ndarray, draws: Draws, shape: tuple[int, int], max_iou: float, min_size: int, grid: bool
) -> np.ndarray:
    """The draws (D, N, K) of the first attempt of each box that overlaps no earlier box too much, or of the last.

    Args:
        images: those that have a canvas; the boxes of others are first attempts.
        shape: boxes per image, and attempts.
    """
    number, attempts = shape
    order = np.arange(number)
    earlier = order < order[:, None]
    chosen = draws(np.arange(canvas.extent.shape[1])[:, None], order, np.zeros(1, dtype=np.int64))
    if attempts == 1:
        return chosen
    boxes = canvas.place(*on_canvas(canvas.extent, chosen, min_size, grid), 0)
    size = canvas.sizes[0]
    kept = np.minimum(np.maximum(boxes, 0), size)
    alike: np.ndarray = (overlap_ratio(boxes[..., None], kept[..., None, :]) >= max_iou) & earlier
    tried = np.zeros(boxes.shape[2:], dtype=np.int64)
    while True:
        failing = alike[images].any(-1) & (tried[images] < attempts - 1)
        unsettled = failing.any(-1)
        images, box = images[unsettled], failing[unsettled].argmax(-1)
        if not len(images):
            return chosen
        more = np.arange(1, 2 + min(attempts, _CANDIDATES // len(images)))
        attempt = np.minimum(tried[images, box][:, None] + more, attempts - 1)
        part, uniform = canvas[images], draws(images[:, None], box[:, None], attempt)
        new = part.place(*on_canvas(part.extent, uniform, min_size, grid), 0)
        as_earlier: np.ndarray = overlap_ratio(new[..., None], kept[:, :, images][..., None, :]) >= max_iou
        as_earlier &= earlier[box][:, None]
        accepted = np.logical_not(as_earlier.any(-1))
        accepted[:, -1] = True  # if none fits, the next round goes on behind the last of these
        place, rows = accepted.argmax(-1), np.arange(len(images))
        tried[images, box] = attempt[rows, place]
        chosen[:, images, box] = uniform[:, rows, place]
        boxes[:, :, images, box] = new = new[:, :, rows, place]
        kept[:, :, images, box] = new = np.minimum(np.maximum(new, 0), size)
        alike[images, box] = as_earlier[rows, place]
        alike[images, :, box] = overlap_ratio(boxes[:, :, images], new[..., None]) >= max_iou
        alike[images] &= earlier
