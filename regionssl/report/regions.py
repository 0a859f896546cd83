"""The figure of the regions that a method finds, and how they change in training."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from regionssl.report.tiles import Row, tiles_figure

_SIDE = 464
_GOLDEN = 0.618034  # neighbouring numbers get hues that lie far apart


def region_maps_figure(
    images: Sequence[Image.Image], rows: Mapping[str, tuple[np.ndarray, str]], title: str = ""
) -> Image.Image:
    """A column per image; below the images a row per state of training. A number has one colour in the whole row.

    Args:
        images: N RGB images.
        rows: name -> region maps (N, h, w) integers over the whole images, negative for no region; and a note.
    """
    return tiles_figure(images, region_rows(images, rows), title)


def region_rows(images: Sequence[Image.Image], rows: Mapping[str, tuple[np.ndarray, str]]) -> dict[str, Row]:
    """The rows of :func:`region_maps_figure`."""
    pictures = [np.asarray(image.convert("RGB").resize((_SIDE, _SIDE))) for image in images]
    return {
        name: Row([tinted(picture, labels) for picture, labels in zip(pictures, maps, strict=True)], note)
        for name, (maps, note) in rows.items()
    }


def tinted(picture: np.ndarray, labels: np.ndarray) -> Image.Image:
    """A picture (H, W, 3) uint8 in the colours of its regions (h, w); black where there is none."""
    row = np.arange(picture.shape[0]) * labels.shape[0] // picture.shape[0]
    column = np.arange(picture.shape[1]) * labels.shape[1] // picture.shape[1]
    spread = labels[np.ix_(row, column)]
    colours = palette(int(labels.max(initial=0)) + 1)[np.maximum(spread, 0)]
    shade = picture.mean(2, keepdims=True) / 255
    mixed = np.where(spread[..., None] < 0, 0, colours * (0.35 + 0.65 * shade))
    return Image.fromarray(mixed.round().astype(np.uint8))


def palette(count: int) -> np.ndarray:
    """Colours (count, 3) in 0..255."""
    hues = [number * _GOLDEN % 1 for number in range(count)]
    brightness = [(1.0, 0.75, 0.55)[number // 8 % 3] for number in range(count)]
    rows = [colorsys.hsv_to_rgb(hue, 0.65, value) for hue, value in zip(hues, brightness, strict=True)]
    return 255 * np.array(rows).reshape(-1, 3)
