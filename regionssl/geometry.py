"""Where things are: the one place that multiplies by a size, mirrors a coordinate or divides by a stride.

One convention for the whole package: **continuous pixel coordinates measured at edges**. ``0`` is the left (top) edge
of the first pixel and ``width`` the right edge of the last; boxes are ``x0, y0, x1, y1``. No half-pixel terms.

A *view* is an axis-aligned crop of an image, resized to a square and perhaps mirrored, so it is described by the crop
rectangle, the mirror flag and its size: :class:`Crops`. All five papers use such views. Keeping the rectangle rather
than a 2x3 matrix lets every map be evaluated in the papers' own order of operations, to the last bit.

Frames: *image* (pixels of the decoded, upright image), *view* (pixels of the view, 0..size), *cells* (view / stride).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Crops:
    """The geometry of one view of each image of a batch.

    Attributes:
        box: (N, 4) float64, crop rectangle x0, y0, x1, y1 in image pixels.
        flip: (N,) bool, whether the crop is mirrored left to right after it is cut.
        size: side of the square view, pixels.
    """

    box: Tensor
    flip: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, rows: slice | Tensor) -> Crops:
        return Crops(self.box[rows], self.flip[rows], self.size)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Crops:
        return Crops(
            self.box.to(device, non_blocking=non_blocking), self.flip.to(device, non_blocking=non_blocking), self.size
        )

    @property
    def zoom(self) -> Tensor:
        """(N, 2) float64, view pixels per image pixel along x and y."""
        extent = self.box[:, 2:] - self.box[:, :2]
        return torch.full_like(extent, self.size) / extent  # number / tensor would round twice


def mirror(boxes: Tensor, flip: Tensor, size: float) -> Tensor:
    """Mirror boxes left to right inside ``[0, size]`` where ``flip`` is set.

    Args:
        boxes: (N, K, 4), any frame of width ``size``.
        flip: (N,) bool.

    Returns:
        (N, K, 4) with x0 <= x1 kept.
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    mirrored = torch.stack([size - x1, y0, size - x0, y1], -1)
    return torch.where(flip[:, None, None], mirrored, boxes)


def to_image(boxes: Tensor, crops: Crops) -> Tensor:
    """Carry boxes (N, K, 4) from the view frame to the image frame: ``X = l + x * w / size`` (ReSim, section 2.4)."""
    boxes = mirror(boxes, crops.flip, crops.size)
    origin = crops.box[:, None, :2].repeat(1, 1, 2)
    extent = (crops.box[:, 2:] - crops.box[:, :2])[:, None].repeat(1, 1, 2)
    return origin + boxes * extent / crops.size


def to_view(boxes: Tensor, crops: Crops) -> Tensor:
    """Carry boxes (N, K, 4) from the image frame to the view frame: ``x = (X - l) * size / w``, then the mirror.

    Nothing is clipped: a box outside the crop has coordinates below 0 or above ``size``.
    """
    origin = crops.box[:, None, :2].repeat(1, 1, 2)
    extent = (crops.box[:, 2:] - crops.box[:, :2])[:, None].repeat(1, 1, 2)
    return mirror((boxes - origin) * crops.size / extent, crops.flip, crops.size)


def between(boxes: Tensor, source: Crops, target: Crops) -> Tensor:
    """Carry boxes (N, K, 4) from one view of an image to another view of the same image."""
    return to_view(to_image(boxes, source), target)


def inside(boxes: Tensor, size: float) -> Tensor:
    """Whether boxes (..., 4) lie in ``[0, size)``: start at or after 0 and end strictly before ``size``.

    The half-open rule is ReSim's (section 2.5): a window ending exactly on the border does not count.
    """
    return (boxes[..., :2] >= 0).all(-1) & (boxes[..., 2:] < size).all(-1)


def intersect(first: Tensor, second: Tensor) -> Tensor:
    """Intersection rectangle of boxes (..., 4), same frame. Disjoint boxes give x1 <= x0 or y1 <= y0."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    return torch.cat([low, high], -1)


def area(boxes: Tensor) -> Tensor:
    """Area (...) of boxes (..., 4); 0 for an inverted or empty box."""
    extent = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return extent[..., 0] * extent[..., 1]


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union (...) of boxes (..., 4) that broadcast against each other; 0 for empty boxes."""
    shared = area(intersect(first, second))
    union = area(first) + area(second) - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), torch.zeros_like(union))


def mirror_ranges(boxes: np.ndarray, flip: np.ndarray, size: float) -> np.ndarray:
    """:func:`mirror` for NumPy: (2, 2, N, K) low and high ends of boxes along x and y, ``flip`` (N, 1); in place."""
    boxes[:, 0] = np.where(flip, size - boxes[::-1, 0], boxes[:, 0])
    return boxes


def overlap_ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """:func:`iou` for NumPy, in the same order of operations: (2, 2, ...) low and high ends of boxes along x and y."""
    shared, down = (_shared_side(first[:, axis], second[:, axis]) for axis in (0, 1))
    shared *= down
    union = _area_of(first) + _area_of(second)
    union -= shared
    shared /= np.maximum(union, np.finfo(np.float64).tiny, out=union)
    return shared


def _shared_side(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Length of what two ranges (2, ...) share on an axis; written over itself, since new memory costs as much."""
    length = np.minimum(first[1], second[1])
    length -= np.maximum(first[0], second[0])
    clipped: np.ndarray = np.maximum(length, 0, out=length)
    return clipped


def _area_of(boxes: np.ndarray) -> np.ndarray:
    """:func:`area` for NumPy: (2, 2, ...) low and high ends along x and y."""
    sides = np.maximum(boxes[1] - boxes[0], 0)
    product: np.ndarray = sides[0] * sides[1]
    return product


def corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) given as left, top, width and height, as x0, y0, x1, y1."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def clip(boxes: Tensor, size: float) -> Tensor:
    """Boxes (..., 4) cut to ``[0, size]``."""
    return boxes.clamp(0, size)


def nearest(index: np.ndarray, cells: int, extent: int) -> np.ndarray:
    """Which of ``extent`` places holds the centre of each place ``index`` (int64) of ``cells`` on the same axis."""
    return (2 * index + 1) * extent // (2 * cells)


def lattice_labels(
    labels: np.ndarray, box: tuple[int, int, int, int], image: tuple[int, int], side: int, flip: bool
) -> np.ndarray:
    """A label map of a whole image read through a crop, at the centres of a square lattice (PLRC, equation 2.1).

    Lattice cells take the image pixel under their centre, pixels the label under theirs. So the map may have any
    resolution, also another one along each axis.

    Args:
        labels: (h, w) integers that cover the image.
        box: the crop x0, y0, x1, y1 in whole image pixels.
        image: width and height of the image, pixels.
        side: cells of the lattice along each axis.
        flip: mirror the lattice left to right.

    Returns:
        (side, side) int64.
    """
    places = np.arange(side, dtype=np.int64)
    column, row = (
        nearest(start + nearest(places, side, end - start), extent, size)
        for start, end, extent, size in zip(box[:2], box[2:], image, labels.shape[::-1], strict=True)
    )
    lattice = labels[np.ix_(row, column[::-1] if flip else column)]
    return lattice.astype(np.int64)


def lattice_boxes(cells: Tensor, side: int, size: int) -> Tensor:
    """Boxes (..., 4) float64, in pixels of a view of ``size``, of ``cells`` (row * side + column) of its lattice."""
    column, row = (cells % side).double(), (cells // side).double()
    return torch.stack([column, row, column + 1, row + 1], -1) * size / side


def centre_fractions(crops: Crops, image_size: Tensor) -> Tensor:
    """Crops by the centres of their corner pixels, as fractions from the image's first to last pixel (PLRC, 2.3).

    Args:
        image_size: (N, 2), width and height of the images, pixels.

    Returns:
        (N, 4) float64 x0, y0, x1, y1; x0 > x1 for a mirrored crop.
    """
    first, last = crops.box[:, :2], crops.box[:, 2:] - 1
    x0, y0, x1, y1 = (torch.cat([first, last], 1) / (image_size - 1).repeat(1, 2)).unbind(1)
    return torch.stack([torch.where(crops.flip, x1, x0), y0, torch.where(crops.flip, x0, x1), y1], 1)


def bin_centres(boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4), perhaps mirrored, cut into ``side`` bins along each axis.

    Returns:
        (N, 2, side) centres along x and y, and (N, 2) signed width and height of a bin.
    """
    extent = (boxes[:, 2:] - boxes[:, :2]) / side
    steps = torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5
    return boxes[:, :2, None] + steps * extent[..., None], extent


def to_cells(boxes: Tensor, stride: float) -> Tensor:
    """Boxes (..., 4) in view pixels as boxes in units of feature-map cells."""
    return boxes / stride


def on_lattice(crops: Crops, whole: Crops, cells: int) -> Tensor:
    """Crop rectangles (N, 4) float32 in cells of a lattice of ``cells`` x ``cells`` over the whole image.

    As shares of the image, rounded to float32, times the cells: R2O's release counts the samples of its RoIAlign from
    exactly these numbers (R2O, sections 2.4 and 4.5).
    """
    shares = to_view(crops.box[:, None], Crops(whole.box, whole.flip, 1))[:, 0]
    return shares.float() * cells


def cell_neighbours(points: int, cells: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Between which of ``points`` pixels the centre of each of ``cells`` equal cells of the same extent lies.

    Returns:
        (cells,) int64 the pixels before and after (equal at the border), and (cells,) float64 the share of the latter.
    """
    centre = (torch.arange(cells, dtype=torch.float64, device=device) + 0.5) * points / cells
    place = (centre - 0.5).clamp(min=0)
    low = place.long()
    return low, (low + 1).clamp(max=points - 1), place - low
