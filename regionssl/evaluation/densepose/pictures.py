"""Validation images with their annotated points on the left and the predicted parts on the right."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from regionssl import geometry
from regionssl.evaluation.densepose.samples import dense_poses
from regionssl.evaluation.densepose.scoring import DenseDetections
from regionssl.evaluation.densepose.surface import PARTS
from regionssl.evaluation.detection.pictures import SHOWN_SCORE
from regionssl.evaluation.detection.samples import load_picture
from regionssl.labels.sets import ObjectSet

_COLOURS = np.array([colorsys.hsv_to_rgb(7 * part / PARTS % 1, 0.9, 1.0) for part in range(PARTS)]) * 255


def draw_dense_poses(folder: Path, val: ObjectSet, found: Sequence[DenseDetections], count: int) -> Path:
    """Draw ``count`` images at equal distances through the set; returns the folder.

    Parts have colours; the farther along u, the brighter. Predictions below a score of one half are not drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    poses = dense_poses(val)
    places = np.unique(np.linspace(0, len(val) - 1, count).round().astype(int))
    for position in places.tolist():
        truth = np.array(load_picture(val, position))
        prediction = truth.copy()
        for box, pose in zip(val.objects[position].boxes, poses[position], strict=True):
            if pose is not None:
                _draw_points(truth, box[:2] + pose.places * (box[2:] - box[:2]), pose.points.part, pose.points.u)
        one = found[position]
        for row in np.flatnonzero(one.scores >= SHOWN_SCORE)[::-1]:
            _draw_maps(prediction, one.boxes[row], one.maps.part[row], one.maps.u[row] / 255)
        gap = np.full((len(truth), 8, 3), 255, np.uint8)
        name = f"{position:05d}_{Path(val.images.names[position]).stem}.jpg"
        Image.fromarray(np.concatenate([truth, gap, prediction], 1)).save(folder / name, quality=90)
    return folder


def _shade(part: np.ndarray, u: np.ndarray) -> np.ndarray:
    return _COLOURS[part - 1] * (0.4 + 0.6 * u[..., None])


def _draw_points(image: np.ndarray, places: np.ndarray, part: np.ndarray, u: np.ndarray) -> None:
    """Points as squares of a pixel or more, in place."""
    radius = min(image.shape[:2]) // 200
    for (x, y), colour in zip(places.astype(int).tolist(), _shade(part, u), strict=True):
        image[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = colour


def _draw_maps(image: np.ndarray, box: np.ndarray, part: np.ndarray, u: np.ndarray) -> None:
    """A detection's parts over its box, half transparent, in place."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.clip(np.round(box).astype(int), 0, [width, height, width, height]).tolist()
    row = geometry.nearest(np.arange(bottom - top), bottom - top, part.shape[0])[:, None]
    column = geometry.nearest(np.arange(right - left), right - left, part.shape[1])
    shown, window = part[row, column], image[top:bottom, left:right]
    body = shown > 0
    window[body] = 0.4 * window[body] + 0.6 * _shade(shown[body].astype(int), u[row, column][body])
