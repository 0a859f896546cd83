"""Where regions come from: functions that label the pixels of an image.

A source takes an upright RGB image and its position in the image list, and gives an integer label map that covers the
whole image at any resolution; equal labels are one region. Maps are made in the loader, before the views are cut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from regionssl.config import Config
from regionssl.errors import InputError

# (upright RGB image, its position in the image list) -> (h, w) integer labels
RegionSource = Callable[[Image.Image, int], np.ndarray]


class SourceConfig(Config):
    """Which regions; settings of other kinds than the chosen one are not looked at.

    Attributes:
        kind: "grid" (PLRC 2.1); "slic" superpixels (R2O 2.3); "felzenszwalb" segments; "labels" from a folder;
            "store" takes whatever label maps a store holds.
        side: grid: cells along each axis.
        size: slic, felzenszwalb: the image is first squashed to a square of this side; None takes it as it is.
        segments, compactness: slic: about how many superpixels, and how square.
        scale, sigma, min_size: felzenszwalb: preference for large segments, blur, and least size in pixels.
        folder: labels: where the PNG of image ``a/b.jpg`` is ``a/b.png``; see :class:`Labels`.
        store: read the regions from this store (``regionssl regions``), which must have been made with these settings.
    """

    kind: Literal["grid", "slic", "felzenszwalb", "labels", "store"] = "grid"
    side: int = Field(4, ge=1)
    size: int | None = Field(224, ge=8)
    segments: int = Field(100, ge=2)
    compactness: float = Field(10.0, gt=0)
    scale: float = Field(100.0, gt=0)
    sigma: float = Field(0.8, ge=0)
    min_size: int = Field(50, ge=1)
    folder: Path | None = None
    store: Path | None = None


def make_source(
    config: SourceConfig, names: Sequence[str], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> RegionSource:
    """The source of a config, ready to use and to be sent to loader workers.

    Args:
        names: of the images, by position.
        mean, std: of the normalisation of views, which SLIC is computed after (R2O 2.3).

    Raises:
        InputError: scikit-image is needed and absent, or label files are missing.
    """
    if config.kind == "grid":
        return Grid(config.side)
    if config.kind == "labels":
        return find_labels(config.folder, names)
    segmentation()
    if config.kind == "slic":
        return Slic(config.segments, config.compactness, config.size, mean, std)
    return Felzenszwalb(config.scale, config.sigma, config.min_size, config.size)


@dataclass(frozen=True)
class Grid:
    """``side`` x ``side`` equal cells of the image, labelled 1, 2, ... row by row (PLRC, section 2.2)."""

    side: int

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        return 1 + np.arange(self.side**2, dtype=np.int64).reshape(self.side, self.side)


@dataclass(frozen=True)
class Slic:
    """SLIC superpixels of the normalised image (R2O, section 2.3), by scikit-image, labelled from 0."""

    segments: int
    compactness: float
    size: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        pixels = (squashed(image, self.size) / 255.0 - np.array(self.mean)) / np.array(self.std)
        labels = segmentation().slic(
            pixels, n_segments=self.segments, compactness=self.compactness, start_label=0, channel_axis=-1
        )
        return np.asarray(labels)


@dataclass(frozen=True)
class Felzenszwalb:
    """Segments by Felzenszwalb and Huttenlocher's graph, by scikit-image, labelled from 0."""

    scale: float
    sigma: float
    min_size: int
    size: int | None

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        pixels = squashed(image, self.size)
        labels = segmentation().felzenszwalb(pixels, self.scale, self.sigma, self.min_size, channel_axis=-1)
        return np.asarray(labels)


@dataclass(frozen=True)
class Labels:
    """Label maps from PNG files of any size: grey values or palette indices; colours count as R + 256 G + 65536 B.

    The last is COCO's way of writing panoptic segments. Maps lie over the upright image, whatever its EXIF data say.

    Attributes:
        files: of the images, by position.
    """

    files: tuple[str, ...]

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        file = self.files[position]
        try:
            with Image.open(file) as picture:
                labels = np.asarray(picture).astype(np.int64)
        except OSError as error:
            raise InputError(f"the label map {file} cannot be read: {error}") from error
        if labels.ndim == 3 and labels.shape[2] == 3:
            labels = labels @ np.array([1, 256, 65536])
        if labels.ndim != 2:
            raise InputError(
                f"the label map {file} has {labels.shape[2]} channels; it must be a greyscale, palette or RGB PNG"
            )
        return labels


def find_labels(folder: Path | None, names: Sequence[str]) -> Labels:
    """The label files of all images: below ``folder``, under the image's name with ``.png`` instead of its extension.

    Raises:
        InputError: no folder is given, or it lacks files.
    """
    if folder is None:
        raise InputError("regions of kind labels need the folder of the label maps: --set method.source.folder=FOLDER")
    files = []
    for name in names:
        path = PurePosixPath(name).with_suffix(".png")
        files.append(os.path.join(folder, path.name if path.is_absolute() else path))
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} images have no label map; the first expected file is {missing[0]}; "
            "every image needs one, named like the image with the extension .png"
        )
    return Labels(tuple(files))


def squashed(image: Image.Image, size: int | None) -> np.ndarray:
    """The pixels (h, w, 3) uint8 of an image, resized to ``size`` x ``size`` (bicubic, antialiased) if given."""
    if size is not None:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def segmentation() -> Any:
    """scikit-image's segmentation module.

    Raises:
        InputError: it is not installed.
    """
    try:
        from skimage import segmentation as module
    except ImportError as error:
        raise InputError(
            "regions of kind slic and felzenszwalb need scikit-image; install it with: pip install 'regionssl[regions]'"
        ) from error
    return module
