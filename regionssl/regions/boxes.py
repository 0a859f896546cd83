"""SCRL's random boxes in the overlap of two views, for a whole batch at once (SCRL, sections 2.3 to 2.6).

The sampler has no loop over images. Of the attempts at a box, the first that is diverse enough counts. On a GPU every
attempt of every box is drawn up front, so nothing waits for the device; on the CPU few are (regions/box_rounds.py), and
the boxes are the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from regionssl import counted, geometry
from regionssl.config import Config
from regionssl.counted import Stream
from regionssl.geometry import Crops
from regionssl.regions.box_rounds import Draws, choose_diverse, on_canvas, shared_canvas

Array = TypeVar("Array", np.ndarray, Tensor)

_DUMMY = (0.0, 0.0, 1.0, 1.0)


class BoxSamplerConfig(Config):
    """How boxes are drawn in the overlap of two views.

    Attributes:
        boxes: boxes per image.
        max_iou: a box whose IoU with an earlier box of its image reaches this is drawn again; 1 switches the test off.
        min_size: least side of a box in the coarser view, pixels; the overlap must be larger than this on both axes.
        grid: draw a cell of a random grid first and the box inside it; otherwise anywhere in the overlap.
        jitter: half-width of the relative perturbation of the second view's box (section 2.5 uses 0.1); 0 for none.
        attempts: draws of a box before the last one is kept whatever its IoU.
    """

    boxes: int = Field(10, ge=1)
    max_iou: float = Field(0.5, gt=0, le=1)
    min_size: int = Field(32, ge=1)
    grid: bool = True
    jitter: float = Field(0.0, ge=0, lt=1)
    attempts: int = Field(50, ge=1)

    @property
    def draws_shape(self) -> tuple[int, int, int]:
        """Shape of the uniform draws of one image: boxes, attempts, draws of an attempt."""
        attempts = 1 if self.max_iou == 1 else self.attempts
        return self.boxes, attempts, (8 if self.grid else 4) + (4 if self.jitter else 0)


@dataclass(frozen=True)
class BoxPairs:
    """Boxes in two views of each image of a batch; row k of both is the same place.

    Attributes:
        first, second: (N, K, 4) float64, x0, y0, x1, y1 in pixels of the two views, clipped to them.
        valid: (N,) bool, whether the views overlap enough; the boxes of other images are the dummy (0, 0, 1, 1).
    """

    first: Tensor
    second: Tensor
    valid: Tensor


def draw_boxes(config: BoxSamplerConfig, first: Crops, second: Crops, seed: int, epoch: int, index: Tensor) -> BoxPairs:
    """The boxes of the images at positions ``index`` (N,) of the image list, by counted draws.

    :func:`sample_boxes` of ``counted.uniform(config.draws_shape, seed, Stream.BOXES, epoch, index)``.
    """
    if index.device.type != "cpu":
        uniform = counted.uniform(config.draws_shape, seed, Stream.BOXES, epoch, index)
        return sample_boxes(config, first, second, uniform)
    _, attempts, width = config.draws_shape
    steps, numbers = np.arange(width), index.numpy()

    def draws(image: np.ndarray, box: np.ndarray, attempt: np.ndarray) -> np.ndarray:
        places = (box * attempts + attempt) * width
        steps_first = steps.reshape(-1, *[1] * max(image.ndim, places.ndim))
        return counted.uniform_at(places + steps_first, seed, Stream.BOXES, epoch, numbers[image])

    return _sample_in_rounds(config, first, second, draws)


def sample_boxes(config: BoxSamplerConfig, first: Crops, second: Crops, uniform: Tensor) -> BoxPairs:
    """Draw the boxes of a batch from given numbers.

    The arithmetic is the release's, in float64 and in its order, so that equal draws give equal boxes to the last bit.

    Args:
        first, second: the two views of the N images.
        uniform: (N, *config.draws_shape) float64 in [0, 1), on the device of the crops. The last axis holds, for the
            grid, n_x, n_y, c_x, c_y, w, h, o_x, o_y, without it w, h, x, y; then the four jitter factors.
    """
    if uniform.device.type != "cpu":
        return sample_at_once(config, first, second, uniform)
    given = uniform.numpy()

    def draws(image: np.ndarray, box: np.ndarray, attempt: np.ndarray) -> np.ndarray:
        return np.moveaxis(given[image, box, attempt], -1, 0)

    return _sample_in_rounds(config, first, second, draws)


def _sample_in_rounds(config: BoxSamplerConfig, first: Crops, second: Crops, draws: Draws) -> BoxPairs:
    canvas, valid = shared_canvas(first, second, config.min_size)
    shape = config.draws_shape[:2]
    images = np.flatnonzero(valid)
    chosen = choose_diverse(canvas, images, draws, shape, config.max_iou, config.min_size, config.grid)
    corner, side = on_canvas(canvas.extent, chosen, config.min_size, config.grid)
    kept, partner = (canvas.place(corner, side, view) for view in (0, 1))
    if config.jitter:
        partner = _jittered(config, partner, chosen[-4:])
    boxes = (_usable_boxes(kept, valid, first.size), _usable_boxes(partner, valid, second.size))
    return BoxPairs(*boxes, torch.from_numpy(valid))


def _usable_boxes(ranges: np.ndarray, valid: np.ndarray, size: int) -> Tensor:
    """Low and high ends (2, 2, N, K) as boxes (N, K, 4), clipped, with the dummy for images without an overlap."""
    clipped = np.minimum(np.maximum(ranges, 0, out=ranges), size, out=ranges)
    boxes = np.ascontiguousarray(np.moveaxis(clipped.reshape(4, *ranges.shape[2:]), 0, -1))
    boxes[~valid] = _DUMMY
    return torch.from_numpy(boxes)


def _jittered(config: BoxSamplerConfig, ranges: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """:func:`_jitter` of low and high ends (2, 2, N, K), with draws (4, N, K)."""
    factors = _factors(config, uniform)
    side = ranges[1] - ranges[0]
    low = ranges[0] + side * (factors[:2] - 1)
    return np.stack([low, low + side * factors[2:]])


def sample_at_once(config: BoxSamplerConfig, first: Crops, second: Crops, uniform: Tensor) -> BoxPairs:
    """:func:`sample_boxes` without a look at the device: all attempts of all boxes, then a choice box by box."""
    overlap = geometry.intersect(first.box, second.box)
    extent = overlap[:, 2:] - overlap[:, :2]
    coarser = torch.minimum(first.zoom, second.zoom)
    canvas = torch.round(extent * coarser)
    valid = (extent > 0).all(-1) & (canvas > config.min_size).all(-1)
    canvas = torch.where(valid[:, None], canvas, config.min_size + 1.0)

    corner, side = _draw(config, canvas[:, None, None], uniform)
    candidates = _place(corner, side, overlap, coarser, first)
    chosen, kept = _choose_diverse(config, candidates, first.size)
    corner, side, draws = (_pick(values, chosen) for values in (corner, side, uniform))
    partner = _place(corner[:, :, None], side[:, :, None], overlap, coarser, second)[:, :, 0]
    if config.jitter:
        partner = _jitter(partner, _factors(config, draws[..., -4:]))
    usable, dummy = valid[:, None, None], kept.new_tensor(_DUMMY)
    return BoxPairs(
        torch.where(usable, geometry.clip(kept, first.size), dummy),
        torch.where(usable, geometry.clip(partner, second.size), dummy),
        valid,
    )


def _factors(config: BoxSamplerConfig, uniform: Array) -> Array:
    """The jitter factors of the last four draws."""
    least, most = 1 - config.jitter, 1 + config.jitter
    return least + (most - least) * uniform


def _draw(config: BoxSamplerConfig, canvas: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Corner and side (N, K, A, 2) of the boxes inside the overlap, whole pixels of the coarser view (section 2.4).

    Args:
        canvas: (N, 1, 1, 2), extent of the overlap in the same unit.
    """
    draws = [uniform[..., i : i + 2] for i in range(0, uniform.shape[-1], 2)]
    if not config.grid:
        side = config.min_size + torch.floor(draws[0] * (canvas - config.min_size))
        return torch.floor(draws[1] * (canvas - side)), side
    cells = 1 + torch.floor(draws[0] * torch.floor(canvas / config.min_size))
    cell = canvas / cells
    place = torch.floor(draws[1] * cells)
    side = config.min_size + torch.floor(draws[2] * torch.floor(cell + 1 - config.min_size))
    offset = torch.floor(draws[3] * torch.floor(cell - side + 1))
    return offset + torch.floor(place * cell), side


def _place(corner: Tensor, side: Tensor, overlap: Tensor, coarser: Tensor, crops: Crops) -> Tensor:
    """Boxes (N, K, A, 4) in pixels of a view, not yet clipped, from corner and side in pixels of the coarser view."""
    zoom, unit = crops.zoom[:, None, None], (1 / coarser)[:, None, None]
    low = corner * unit * zoom + ((overlap[:, :2] - crops.box[:, :2]) * crops.zoom)[:, None, None]
    boxes = torch.cat([low, low + side * unit * zoom], -1)
    return geometry.mirror(boxes.flatten(1, 2), crops.flip, crops.size).view_as(boxes)


def _choose_diverse(config: BoxSamplerConfig, candidates: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first attempt of each box that overlaps no earlier box too much, or the last attempt.

    Args:
        candidates: (N, K, A, 4).

    Returns:
        (N, K) int64 positions of the attempts, and (N, K, 4) the boxes, clipped to the view.
    """
    chosen = torch.zeros(candidates.shape[:2], dtype=torch.int64, device=candidates.device)
    kept = geometry.clip(candidates[:, :, 0], size)
    for k in range(1, config.boxes) if config.max_iou < 1 else ():
        worst = geometry.iou(candidates[:, k, :, None], kept[:, None, :k]).amax(-1)
        accepted = worst < config.max_iou
        accepted[:, -1] = True
        chosen[:, k] = accepted.int().argmax(-1)
        kept[:, k] = geometry.clip(_pick(candidates[:, k], chosen[:, k]), size)
    return chosen, kept


def _pick(values: Tensor, chosen: Tensor) -> Tensor:
    """Values (..., A, C) at the attempts (...,): (..., C)."""
    where = chosen[..., None, None].expand(*chosen.shape, 1, values.shape[-1])
    return values.gather(-2, where).squeeze(-2)


def _jitter(boxes: Tensor, factors: Tensor) -> Tensor:
    """Boxes (N, K, 4) moved and resized by factors (N, K, 4) around 1 of their own sides (section 2.5)."""
    side = boxes[..., 2:] - boxes[..., :2]
    low = boxes[..., :2] + side * (factors[..., :2] - 1)
    return torch.cat([low, low + side * factors[..., 2:]], -1)
