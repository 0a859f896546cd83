"""What a store of regions amounts to: how many, how large, and how well they fit labelled objects."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regionssl import geometry
from regionssl.regions.annotations import Objects, at_size
from regionssl.stores.store import Store

LOOKED_AT = 2000
"""A summary looks at so many images at most, evenly spread over the list."""

TOLERANCE = 2
"""Pixels by which a region's boundary may miss an object's."""

SHARES = (0.001, 0.01, 0.05, 0.2, 0.5)
"""Limits between sizes of regions of label maps, as shares of the image."""

SIDES = (16, 32, 96, 224, 448)
"""Limits between sizes of boxes, as the square root of their area in pixels."""


def summarise(
    store: Store, image_size: Callable[[int], tuple[int, int] | None] | None = None, objects: Objects | None = None
) -> dict[str, Any]:
    """Numbers about a store of label maps or boxes, as plain values.

    Args:
        image_size: width and height of an image in pixels, None if it cannot be read. Needed with ``objects``.
        objects: labelled objects to compare with.

    Returns:
        ``images``, ``looked_at``, ``without_regions``, ``regions`` (total, least, median and most per image),
        ``sizes`` (what is measured, limits, counts), and with objects ``objects``, ``best_overlap`` (mean over objects
        of the largest IoU with a region) and for label maps ``boundary_recall`` (share of the objects' boundary pixels
        with a region's boundary within two pixels).
    """
    places = np.unique(np.linspace(0, len(store) - 1, min(len(store), LOOKED_AT)).astype(int)).tolist()
    tally = _Tally(store.manifest.content == "labels")
    for i in places:
        regions = store.read(i)
        tally.add(regions)
        size = image_size(i) if regions is not None and objects is not None and image_size is not None else None
        if regions is not None and objects is not None and size is not None:
            tally.compare(regions, objects, i, size)
    return {"images": len(store), "looked_at": len(places), **tally.to_plain(objects is not None)}


class _Tally:
    """Counts over images of a store of label maps, or of boxes."""

    def __init__(self, maps: bool) -> None:
        self.maps = maps
        self.limits = SHARES if maps else SIDES
        self.per_image: list[int] = []
        self.sizes = np.zeros(len(self.limits) + 1, np.int64)
        self.overlaps = [torch.empty(0, dtype=torch.float64)]
        self.hits = self.boundary = 0

    def add(self, regions: np.ndarray | None) -> None:
        extents = np.empty(0) if regions is None else _shares(regions) if self.maps else _sides(regions)
        self.per_image.append(len(extents))
        self.sizes += np.bincount(np.searchsorted(self.limits, extents, side="right"), minlength=len(self.sizes))

    def compare(self, regions: np.ndarray, objects: Objects, i: int, size: tuple[int, int]) -> None:
        if not self.maps:
            self.overlaps.append(best_box_overlaps(regions, objects.boxes(i, *size)))
            return
        masks, labels = objects.masks(i, *size), at_size(regions, *size)
        self.overlaps.append(best_mask_overlaps(labels, masks))
        hits, boundary = boundary_hits(labels, masks)
        self.hits, self.boundary = self.hits + hits, self.boundary + boundary

    def to_plain(self, compared: bool) -> dict[str, Any]:
        counts = self.per_image
        plain: dict[str, Any] = {
            "without_regions": counts.count(0),
            "regions": {
                "total": sum(counts),
                "least": min(counts),
                "median": int(np.median(counts)),
                "most": max(counts),
            },
            "sizes": {
                "measure": "share of the image" if self.maps else "square root of the area, pixels",
                "limits": list(self.limits),
                "counts": self.sizes.tolist(),
            },
        }
        if compared:
            overlaps = torch.cat(self.overlaps)
            plain["objects"] = len(overlaps)
            plain["best_overlap"] = round(float(overlaps.mean()), 4) if len(overlaps) else None
        if compared and self.maps:
            plain["boundary_recall"] = round(self.hits / self.boundary, 4) if self.boundary else None
        return plain


def _shares(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_counts=True)[1] / labels.size


def _sides(boxes: np.ndarray) -> np.ndarray:
    return np.sqrt(boxes[:, 2].astype(np.float64) * boxes[:, 3])


def best_box_overlaps(boxes: np.ndarray, objects: np.ndarray) -> Tensor:
    """The largest IoU of each object's box (K, 4) with one of the boxes (B, 4); (K,) float64, 0 without boxes."""
    if not len(boxes) or not len(objects):
        return torch.zeros(len(objects), dtype=torch.float64)
    first, second = (geometry.corners(torch.from_numpy(rows.astype(np.float64))) for rows in (objects, boxes))
    return geometry.iou(first[:, None], second[None]).amax(1)


def best_mask_overlaps(labels: np.ndarray, masks: np.ndarray) -> Tensor:
    """The largest IoU of each mask (K, H, W), empty ones left out, with a region of a label map (H, W): float64."""
    _, regions = np.unique(labels, return_inverse=True)
    regions = regions.reshape(labels.shape)
    areas = np.bincount(regions.ravel())
    best = []
    for mask in masks[masks.any((1, 2))]:
        shared = np.bincount(regions[mask], minlength=len(areas))
        best.append((shared / (areas + mask.sum() - shared)).max())
    return torch.tensor(best, dtype=torch.float64)


def boundary_hits(labels: np.ndarray, masks: np.ndarray, tolerance: int = TOLERANCE) -> tuple[int, int]:
    """How many boundary pixels of masks (K, H, W) have a boundary of the label map (H, W) near, and of how many."""
    truth = np.zeros(labels.shape, bool)
    for mask in masks:
        truth |= _boundary(mask)
    near = torch.from_numpy(_boundary(labels)).float()[None, None]
    near = F.max_pool2d(near, 2 * tolerance + 1, stride=1, padding=tolerance)[0, 0]
    return int(near.bool().numpy()[truth].sum()), int(truth.sum())


def _boundary(labels: np.ndarray) -> np.ndarray:
    """Pixels (H, W) whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def lines(summary: dict[str, Any]) -> list[str]:
    """The summary for a person."""
    regions, sizes = summary["regions"], summary["sizes"]
    of = "" if summary["looked_at"] == summary["images"] else f" (in {summary['looked_at']:,} images, evenly spread)"
    limits, total = sizes["limits"], max(sum(sizes["counts"]), 1)
    bins = [
        f"< {limits[0]:g}",
        *(f"{a:g}-{b:g}" for a, b in pairwise(limits)),
        f">= {limits[-1]:g}",
    ]
    said = [
        f"regions: {regions['total']:,}{of}; per image {regions['least']} to {regions['most']}, "
        f"median {regions['median']}",
        f"  sizes ({sizes['measure']}):",
        *(
            f"    {name:>11}  {count:>9,}  {'#' * round(40 * count / total)}"
            for name, count in zip(bins, sizes["counts"], strict=True)
        ),
    ]
    if summary["without_regions"]:
        said.append(f"  images without regions, unreadable ones included: {summary['without_regions']:,}")
    if "objects" in summary:
        said.append(f"  labelled objects: {summary['objects']:,}; mean best overlap (IoU): {summary['best_overlap']}")
    if "boundary_recall" in summary:
        said.append(f"  boundary recall within {TOLERANCE} pixels: {summary['boundary_recall']}")
    return said
