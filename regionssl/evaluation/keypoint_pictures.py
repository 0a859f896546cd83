"""Validation images with their labelled keypoints on the left and the predicted ones on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_keypoints as dots

from regionssl.evaluation.detection.pictures import SHOWN_SCORE
from regionssl.evaluation.detection.samples import load_picture
from regionssl.labels.sets import ObjectSet

_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0))


def draw_keypoints(folder: Path, val: ObjectSet, results: Sequence[dict[str, Any]], count: int) -> Path:
    """Draw ``count`` images at equal distances through the set; returns the folder.

    Args:
        results: in COCO's format with keypoints; those below a score of one half are not drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = np.unique(np.linspace(0, len(val) - 1, count).round().astype(int))
    for position in places.tolist():
        pixels = torch.from_numpy(np.array(load_picture(val, position))).permute(2, 0, 1)
        shown = [
            np.reshape(one["keypoints"], (-1, 3))
            for one in results
            if one["image_id"] == position + 1 and one["score"] >= SHOWN_SCORE
        ]
        objects = val.objects[position]
        truth = [] if objects.keypoints is None else list(objects.keypoints[~objects.crowd])
        gap = torch.full((3, pixels.shape[1], 8), 255, dtype=torch.uint8)
        sides = [_drawn(pixels, persons, val.keypoint_skeleton) for persons in (truth, shown)]
        both = torch.cat([sides[0], gap, sides[1]], 2).permute(1, 2, 0).numpy()
        name = f"{position:05d}_{Path(val.images.names[position]).stem}.jpg"
        Image.fromarray(np.ascontiguousarray(both)).save(folder / name, quality=90)
    return folder


def _drawn(pixels: Tensor, persons: list[np.ndarray], skeleton: tuple[tuple[int, int], ...]) -> Tensor:
    radius = max(2, min(pixels.shape[1:]) // 150)
    for number, person in enumerate(persons):
        points = torch.from_numpy(person).float()[None]
        colour = _COLOURS[number % len(_COLOURS)]
        pixels = dots(
            pixels, points[..., :2], list(skeleton) or None, colour, radius, width=2, visibility=points[..., 2] > 0
        )
    return pixels
