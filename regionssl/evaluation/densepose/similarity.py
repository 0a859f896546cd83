"""How alike an estimated and an annotated dense pose are, and average precisions by it.

Geodesic point similarity: GPS = mean over a person's annotated points of exp(-g^2 / (2 k^2)), where g is the distance
along the body's surface, in metres, between the estimated and the true point; k = 0.255. It takes the place of the
overlap in COCO's average precision. Without a surface's distances there is only :func:`uv_similarity`, a number of our
own that cannot be compared with any published one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from regionssl.evaluation.densepose.surface import Surface, SurfacePoints

GPS_SCALE = 0.255
"""k, metres: a mean distance of 30 cm makes a GPS of one half."""

UV_SCALE = 0.255

Similarity = Callable[[SurfacePoints, SurfacePoints], np.ndarray]
"""Estimated points (D, P) of D detections and true points (P,) -> (D,) float64 in 0..1."""


@dataclass(frozen=True)
class DenseMaps:
    """Estimated dense poses of D detections.

    Attributes:
        part: (D, S, S) uint8 on a grid over each detection's box; 0 where there is no body.
        u, v: (D, S, S) uint8, 255 times the place on the chart.
    """

    part: np.ndarray
    u: np.ndarray
    v: np.ndarray

    def at(self, boxes: np.ndarray, places: np.ndarray) -> SurfacePoints:
        """What the detections show at places of the image; part 0 outside a detection's box.

        Args:
            boxes: (D, 4) x0 y0 x1 y1 of the detections, image frame.
            places: (P, 2), image frame.

        Returns:
            (D, P) points.
        """
        side = self.part.shape[-1]
        extent = np.maximum(boxes[:, None, 2:] - boxes[:, None, :2], 1e-9)
        shares = (places[None] - boxes[:, None, :2]) / extent
        inside = ((shares >= 0) & (shares <= 1)).all(-1)
        column, row = np.moveaxis((shares.clip(0, 1) * side).astype(np.int64).clip(0, side - 1), -1, 0)
        detection = np.arange(len(boxes))[:, None]
        part = np.where(inside, self.part[detection, row, column], 0).astype(np.int64)
        return SurfacePoints(part, self.u[detection, row, column] / 255, self.v[detection, row, column] / 255)


def geodesic_point_similarity(surface: Surface, scale: float = GPS_SCALE) -> Similarity:
    """GPS on a surface."""

    def similarity(estimated: SurfacePoints, true: SurfacePoints) -> np.ndarray:
        return np.exp(-(surface.distances(estimated, true) ** 2) / (2 * scale**2)).mean(-1)

    return similarity


def uv_similarity(estimated: SurfacePoints, true: SurfacePoints) -> np.ndarray:
    """Mean over points of [same part] * exp(-d^2 / (2 * 0.255^2)), d in units of a chart's side. Not the GPS.

    Charts differ in size and a point just over a seam counts nothing, so it ranks models but measures no distance.
    """
    squared = (estimated.u - true.u) ** 2 + (estimated.v - true.v) ** 2
    return np.where(estimated.part == true.part, np.exp(-squared / (2 * UV_SCALE**2)), 0).mean(-1)
