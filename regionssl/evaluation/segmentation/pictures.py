"""Label maps as pictures."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
from PIL import Image

_GOLDEN = 0.618033988749895  # share of the circle between hues of neighbouring classes
_WIDTH = 480  # of one of the three pictures, pixels, at most
_GAP = 8


@lru_cache(maxsize=4)
def palette(classes: int) -> np.ndarray:
    """(C + 1, 3) uint8 colours of classes; the last, white, is for what is not labelled."""
    colours = [
        colorsys.hsv_to_rgb((0.58 + c * _GOLDEN) % 1, (0.75, 0.5, 0.95)[c % 3], (0.85, 0.95, 0.6)[c // 3 % 3])
        for c in range(classes)
    ]
    return np.round(255 * np.array([*colours, (1, 1, 1)])).astype(np.uint8)


def side_by_side(image: Image.Image, truth: np.ndarray, predicted: np.ndarray, classes: int) -> Image.Image:
    """Image, its labels (H, W; -1 not labelled) and the predictions (H, W), from left to right."""
    colours = palette(classes)
    parts = [image, Image.fromarray(colours[truth]), Image.fromarray(colours[predicted])]
    scale = min(1.0, _WIDTH / image.width)
    width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("RGB", (3 * width + 2 * _GAP, height), "white")
    for number, part in enumerate(parts):
        resample = Image.Resampling.NEAREST if number else Image.Resampling.LANCZOS
        canvas.paste(part.resize((width, height), resample), (number * (width + _GAP), 0))
    return canvas
