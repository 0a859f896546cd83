"""What a segmentation network trains on: scaled, mirrored crops of images and their label maps, as counted draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from regionssl.config import Config
from regionssl.errors import InputError
from regionssl.evaluation.inputs import load_image
from regionssl.geometry import nearest
from regionssl.labels.maps import IGNORED
from regionssl.labels.sets import MapSet

_TRIES = 10  # crops drawn before one with too much of a single class is taken as it is

Colour = tuple[int, int, int]


class CropConfig(Config):
    """How training crops are drawn. The defaults are VOC's of R2O, section 7.1.

    Attributes:
        size: side of the square crops, pixels; smaller images are padded on the right and below, with the mean colour
            and without labels.
        base: longest and shortest side that images are fitted into, with their aspect, before the jitter and for
            scoring; None takes images as they are.
        scale: range of the jitter of the size, drawn uniformly.
        largest_share: a crop whose labelled pixels belong to one class by more than this share is drawn again, up to
            ten times.
        flip: probability of the mirror.
    """

    size: int = Field(513, ge=32)
    base: tuple[int, int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    largest_share: float = Field(0.99, gt=0, le=1)
    flip: float = Field(0.5, ge=0, le=1)


@dataclass(frozen=True)
class Crop:
    """A crop of a scaled image.

    Attributes:
        width, height: of the whole scaled image, pixels.
        x0, y0, x1, y1: the crop in it, whole pixels; at most as large as the image.
        flip: mirrored left to right after it is cut.
    """

    width: int
    height: int
    x0: int
    y0: int
    x1: int
    y1: int
    flip: bool


def fitted(size: tuple[int, int], base: tuple[int, int] | None, jitter: float = 1.0) -> tuple[int, int]:
    """Width and height of an image of ``size`` fitted into ``base`` (longest, shortest side), times ``jitter``."""
    zoom = jitter
    if base is not None:
        zoom *= min(max(base) / max(size), min(base) / min(size))
    width, height = (max(1, math.floor(side * zoom + 0.5)) for side in size)
    return width, height


def draw(config: CropConfig, labels: np.ndarray, rng: np.random.Generator) -> Crop:
    """A crop of the image whose labels are (H, W) int64."""
    share, mirror = rng.random(2)
    low, high = config.scale
    height, width = labels.shape
    width, height = fitted((width, height), config.base, low + share * (high - low))
    for _ in range(_TRIES):
        x0, y0 = (int(rng.integers(max(extent - config.size, 0) + 1)) for extent in (width, height))
        x1, y1 = min(x0 + config.size, width), min(y0 + config.size, height)
        crop = Crop(width, height, x0, y0, x1, y1, bool(mirror < config.flip))
        kept = cut_labels(labels, crop)
        kept = kept[kept != IGNORED]
        if len(kept) and np.bincount(kept).max() <= config.largest_share * len(kept):
            break
    return crop


def cut_labels(labels: np.ndarray, crop: Crop) -> np.ndarray:
    """The labels (H, W) within a crop, each pixel's the one under its centre."""
    columns = nearest(np.arange(crop.x0, crop.x1), crop.width, labels.shape[1])
    rows = nearest(np.arange(crop.y0, crop.y1), crop.height, labels.shape[0])
    return labels[np.ix_(rows, columns[::-1] if crop.flip else columns)]


def cut_image(image: Image.Image, crop: Crop) -> np.ndarray:
    """The image within a crop, (h, w, 3) uint8, resampled once: bilinear, with the support that shrinking needs."""
    width, height = image.size
    x0, x1 = (x * width / crop.width for x in (crop.x0, crop.x1))
    y0, y1 = (y * height / crop.height for y in (crop.y0, crop.y1))
    box = (x0, y0, min(x1, width), min(y1, height))
    cut = image.resize((crop.x1 - crop.x0, crop.y1 - crop.y0), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(cut)
    return pixels[:, ::-1] if crop.flip else pixels


def training_crop(
    data: MapSet, i: int, config: CropConfig, fill: Colour, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A training example: image ``i`` cut and padded.

    Args:
        fill: colour of the padding.

    Returns:
        (3, S, S) uint8 and labels (S, S) int16, -1 where there are none.

    Raises:
        InputError: as :func:`load`.
    """
    image, labels = load(data, i)
    crop = draw(config, labels, rng)
    height, width = crop.y1 - crop.y0, crop.x1 - crop.x0
    picture = np.empty((config.size, config.size, 3), np.uint8)
    picture[:] = fill
    truth = np.full((config.size, config.size), IGNORED, np.int16)
    picture[:height, :width] = cut_image(image, crop)
    truth[:height, :width] = cut_labels(labels, crop)
    return torch.from_numpy(picture).permute(2, 0, 1), torch.from_numpy(truth)


def load(data: MapSet, i: int) -> tuple[Image.Image, np.ndarray]:
    """Image ``i``, upright RGB, and its labels (H, W) int64.

    Raises:
        InputError: one of them cannot be read, or they differ in size.
    """
    image, labels = load_image(data.images, i), data.labels(i)
    if labels.shape != (image.height, image.width):
        raise InputError(
            f"{data.images.names[i]} has {image.width} x {image.height} pixels and its label map {data.maps.names[i]} "
            f"{labels.shape[1]} x {labels.shape[0]}; a label map has the size of its image"
        )
    return image, labels


def resized(image: Image.Image, size: tuple[int, int], multiple: int = 1) -> Image.Image:
    """The whole image at the width and height nearest to ``size`` that are multiples, bilinear."""
    width, height = (max(1, round(side / multiple)) * multiple for side in size)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def tensor(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
