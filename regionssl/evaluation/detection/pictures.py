"""Validation images with the truth on the left and the predictions on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from regionssl.evaluation.detection.predictions import Detections
from regionssl.evaluation.detection.samples import load_picture
from regionssl.labels.masks import decode
from regionssl.labels.sets import ObjectSet

SHOWN_SCORE = 0.5
"""Predictions below it are not drawn."""

# The palette of Okabe and Ito, by class.
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (240, 228, 66))


def draw_pictures(folder: Path, val: ObjectSet, found: Sequence[Detections], count: int) -> Path:
    """Draw ``count`` images at equal distances through the set; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    places = np.unique(np.linspace(0, len(val) - 1, count).round().astype(int))
    for position in places.tolist():
        picture = load_picture(val, position)
        name = f"{position:05d}_{Path(val.images.names[position]).stem}.jpg"
        Image.fromarray(pair(val, position, picture, found[position])).save(folder / name, quality=90)
    return folder


def pair(val: ObjectSet, position: int, picture: Image.Image, one: Detections) -> np.ndarray:
    """(H, 2W + 8, 3) uint8: truth, a white gap, predictions of a score of at least one half."""
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    objects = val.objects[position]
    truth = np.flatnonzero(~objects.crowd)
    labels = [val.classes[label] for label in objects.labels[truth]]
    masks = [val.mask(position, int(k)) for k in truth] if objects.masks else []
    left = _drawn(pixels, objects.boxes[truth], objects.labels[truth], labels, masks)
    shown = np.flatnonzero(one.scores >= SHOWN_SCORE)
    labels = [f"{val.classes[one.labels[k]]} {one.scores[k]:.2f}" for k in shown]
    masks = [decode(one.masks[k], picture.width, picture.height) for k in shown] if one.masks else []
    right = _drawn(pixels, one.boxes[shown], one.labels[shown], labels, masks)
    gap = torch.full((3, picture.height, 8), 255, dtype=torch.uint8)
    return np.ascontiguousarray(torch.cat([left, gap, right], 2).permute(1, 2, 0).numpy())


def _drawn(pixels: Tensor, boxes: np.ndarray, labels: np.ndarray, texts: list[str], masks: list[np.ndarray]) -> Tensor:
    if not len(boxes):
        return pixels
    colours: Any = [_COLOURS[label % len(_COLOURS)] for label in labels.tolist()]
    if masks:
        stacked = torch.from_numpy(np.stack(masks)).bool()
        pixels = draw_segmentation_masks(pixels, stacked, alpha=0.5, colors=colours)
    limit = torch.tensor([pixels.shape[2], pixels.shape[1]] * 2) - 1
    corners = torch.minimum(torch.from_numpy(boxes).float().round(), limit)
    return draw_bounding_boxes(pixels, corners, texts, colours, width=2)
