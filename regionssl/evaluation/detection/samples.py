"""Labelled images as torchvision's detectors take them, resized, cut and mirrored by counted draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from regionssl import geometry
from regionssl.config import Config
from regionssl.counted import Stream, generator
from regionssl.data.decode import UnreadableImage
from regionssl.errors import InputError, TooFewLabels
from regionssl.labels.sets import Objects, ObjectSet

PADDING = 0.5
"""Value of the pixels beyond the image, of values in 0..1."""

Target = dict[str, Tensor]


class InputSettings(Config):
    """How images reach a detector. The defaults are detectron2's for COCO (ReSim 6.3, SCRL 6.1, PLRC 6.2, ORL 6.5).

    Attributes:
        train_sizes: short sides in training, pixels; one is drawn for each image.
        test_size: short side in scoring.
        max_size: limit of the long side, which takes precedence; both in training and scoring.
        jitter: R2O's rule instead (R2O 7.3): in training the long side is ``max_size`` times a draw from this range,
            and the image is cut, at a drawn place, and padded to a square of ``max_size``; ``train_sizes`` is unused.
        flip: probability of mirroring left to right.
        skip_empty: leave images without objects out of training.
    """

    train_sizes: tuple[int, ...] = Field((640, 672, 704, 736, 768, 800), min_length=1)
    test_size: int = Field(800, ge=32)
    max_size: int = Field(1333, ge=32)
    jitter: tuple[float, float] | None = None
    flip: float = Field(0.5, ge=0, le=1)
    skip_empty: bool = True

    @model_validator(mode="after")
    def _ranges(self) -> InputSettings:
        if min(self.train_sizes) < 32:
            raise ValueError(f"train_sizes must be at least 32 pixels, got {min(self.train_sizes)}")
        if self.jitter is not None and not 0 < self.jitter[0] <= self.jitter[1] < math.inf:
            raise ValueError(f"jitter must be a range of positive factors, low then high, got {self.jitter}")
        return self


@dataclass(frozen=True)
class Window:
    """Where an image lands: resized to ``width`` x ``height``, then a rectangle of it is kept, then it may be mirrored.

    Attributes:
        left, top, right, bottom: the kept rectangle, whole pixels of the resized image.
        side: of the square to which the rectangle is padded at its right and lower edge, or None.
    """

    width: int
    height: int
    left: int
    top: int
    right: int
    bottom: int
    flip: bool
    side: int | None = None


def resized(width: int, height: int, short: int, longest: int) -> tuple[int, int]:
    """Width and height such that the short side is ``short``, or the long side ``longest`` where it would be longer."""
    scale = min(short / min(width, height), longest / max(width, height))
    return max(round(width * scale), 1), max(round(height * scale), 1)


def draw_window(size: tuple[int, int], settings: InputSettings, rng: np.random.Generator) -> Window:
    """The window of a training image of ``size`` (width, height); consumes four uniform numbers."""
    flip, scale, across, down = rng.random(4).tolist()
    if settings.jitter is None:
        short = settings.train_sizes[int(scale * len(settings.train_sizes))]
        width, height = resized(*size, short, settings.max_size)
        return Window(width, height, 0, 0, width, height, flip < settings.flip)
    low, high = settings.jitter
    longest = round(settings.max_size * (low + (high - low) * scale))
    width, height = resized(*size, longest, longest)
    side = settings.max_size
    left, top = int(across * (max(width - side, 0) + 1)), int(down * (max(height - side, 0) + 1))
    right, bottom = min(left + side, width), min(top + side, height)
    return Window(width, height, left, top, right, bottom, flip < settings.flip, side)


class Samples:
    """The images of a set for training; what is drawn for one is a pure function of (seed, epoch, place in the set).

    Args:
        masks, keypoints: whether targets hold them.

    Raises:
        TooFewLabels: no image has an object.
    """

    def __init__(
        self, data: ObjectSet, settings: InputSettings, seed: int = 0, masks: bool = False, keypoints: bool = False
    ) -> None:
        self.data, self.settings, self.seed, self.masks, self.keypoints = data, settings, seed, masks, keypoints
        used = [i for i, one in enumerate(data.objects) if not settings.skip_empty or not one.crowd.all()]
        if not any((~one.crowd).any() for one in data.objects):
            raise TooFewLabels(f"none of the {len(data)} training images has an object; give labels with objects")
        self.positions = np.array(used, np.int64)

    def __len__(self) -> int:
        return len(self.positions)

    def name(self, i: int) -> str:
        return self.data.images.names[int(self.positions[i])]

    def draw(self, i: int, epoch: int) -> tuple[Tensor, Target]:
        """Sample ``i`` as it is seen in an epoch.

        Returns:
            The image (3, H, W) float32 in 0..1, RGB, and a target in its frame: ``boxes`` (n, 4) float32, ``labels``
            (n,) int64 from 1 (0 is background), ``rows`` (n,) int64 the objects' places in the set's ``objects``,
            ``position`` () int64 of the image in the set, ``flip`` () bool; with masks ``masks`` (n, H, W) uint8; with
            keypoints ``keypoints`` (n, K, 3) float32. Crowds, and objects of which less than a pixel is left along
            an axis, are left out.

        Raises:
            InputError: the image cannot be read, or is not of the size that the labels say.
        """
        position = int(self.positions[i])
        picture = load_picture(self.data, position)
        window = draw_window(picture.size, self.settings, generator(self.seed, Stream.VIEWS, epoch, position))
        return _pixels(picture, window), self._target(position, window)

    def _target(self, position: int, window: Window) -> Target:
        objects, size = self.data.objects[position], self.data.sizes[position]
        boxes = _move_boxes(objects.boxes, size, window)
        extent = boxes[:, 2:] - boxes[:, :2]
        rows = np.flatnonzero(~objects.crowd & (extent >= 1).all(1).numpy())
        target = {
            "boxes": boxes[rows].float(),
            "labels": torch.from_numpy(objects.labels[rows] + 1),
            "rows": torch.from_numpy(rows),
            "position": torch.tensor(position),
            "flip": torch.tensor(window.flip),
        }
        if self.masks:
            target["masks"] = _move_masks([self.data.mask(position, int(row)) for row in rows], window)
        if self.keypoints:
            target["keypoints"] = _move_keypoints(objects, rows, size, window, self.data.keypoint_flips)
        return target


def load_picture(data: ObjectSet, position: int) -> Image.Image:
    """An image of a set, upright RGB.

    Raises:
        InputError: it cannot be read, or is not of the size that the labels say.
    """
    name = data.images.names[position]
    try:
        picture = data.images.load(position)
    except UnreadableImage as error:
        raise InputError(f"{name} {error}; replace it or remove it from the labels") from error
    if picture.size != tuple(data.sizes[position].tolist()):
        stated = " x ".join(str(side) for side in data.sizes[position])
        raise InputError(f"{name} is {picture.width} x {picture.height} pixels, and its labels are for {stated}")
    return picture


def _pixels(picture: Image.Image, window: Window) -> Tensor:
    small = picture.resize((window.width, window.height), Image.Resampling.BILINEAR)
    values = np.asarray(small)[window.top : window.bottom, window.left : window.right]
    if window.flip:
        values = values[:, ::-1]
    pixels = torch.from_numpy(values.transpose(2, 0, 1).copy()).float() / 255
    return _pad(pixels, window, PADDING)


def _pad(values: Tensor, window: Window, value: float) -> Tensor:
    if window.side is None:
        return values
    return F.pad(values, (0, window.side - values.shape[-1], 0, window.side - values.shape[-2]), value=value)


def _move_points(points: Tensor, size: np.ndarray, window: Window) -> Tensor:
    """Points (..., 2) of the image in the frame of the resized, cut, not yet mirrored image; float64."""
    scale = torch.tensor([window.width / float(size[0]), window.height / float(size[1])], dtype=torch.float64)
    return points * scale - torch.tensor([window.left, window.top], dtype=torch.float64)


def _move_boxes(boxes: np.ndarray, size: np.ndarray, window: Window) -> Tensor:
    moved = _move_points(torch.from_numpy(boxes).view(-1, 2, 2), size, window)
    width, height = window.right - window.left, window.bottom - window.top
    limit = torch.tensor([width, height], dtype=torch.float64)
    moved = torch.minimum(moved.clamp(min=0), limit).view(1, -1, 4)
    return geometry.mirror(moved, torch.tensor([window.flip]), width)[0]


def _move_masks(masks: list[np.ndarray], window: Window) -> Tensor:
    """Masks of the image, (n, H, W) uint8 in the window, nearest neighbour."""
    moved = np.zeros((len(masks), window.bottom - window.top, window.right - window.left), np.uint8)
    for row, mask in zip(moved, masks, strict=True):
        y = geometry.nearest(np.arange(window.top, window.bottom), window.height, mask.shape[0])
        x = geometry.nearest(np.arange(window.left, window.right), window.width, mask.shape[1])
        row[:] = mask[np.ix_(y, x[::-1] if window.flip else x)]
    return _pad(torch.from_numpy(moved), window, 0)


def _move_keypoints(
    objects: Objects, rows: np.ndarray, size: np.ndarray, window: Window, pairs: tuple[tuple[int, int], ...]
) -> Tensor:
    """Keypoints (n, K, 3) float32; those outside the window, or not labelled, have visibility 0 and lie at the origin.

    In a mirrored image left and right change places: the keypoints of each pair are exchanged.
    """
    if objects.keypoints is None:
        raise InputError("keypoints are needed, and an image's objects have none")
    points = torch.from_numpy(objects.keypoints[rows]).double()
    place, visible = _move_points(points[..., :2], size, window), points[..., 2:]
    width, height = window.right - window.left, window.bottom - window.top
    if window.flip:
        order = np.arange(points.shape[1])
        for first, second in pairs:
            order[[first, second]] = order[[second, first]]
        place = torch.stack([width - place[..., 0], place[..., 1]], -1)[:, order]
        visible = visible[:, order]
    limit = torch.tensor([width, height], dtype=torch.float64)
    seen = (visible > 0) & ((place >= 0) & (place <= limit)).all(-1, keepdim=True)
    return (torch.cat([place, visible], -1) * seen).float()
