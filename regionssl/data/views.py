"""Views: which crops a method wants of an image, how they are drawn, and how they are cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator

from regionssl.config import Config
from regionssl.data.bitmaps import Picture
from regionssl.data.patches import PATCH_NAMES, Box, BoxJitter
from regionssl.data.photometric import ColourPolicy
from regionssl.geometry import lattice_labels

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

Resampler = Literal["pillow", "torch"]


class ViewSpec(Config):
    """One view: how its crop is drawn, how it is resized, and what happens to its colours.

    Attributes:
        size: side of the square view, pixels.
        crop: "random" draws a rectangle; "whole" squashes the whole image, never mirrored; "patch" takes a box that was
            drawn from correspondences (:mod:`regionssl.data.patches`).
        area: range of the crop's share of the image area.
        aspect: range of the crop's width over height, drawn log-uniformly.
        interpolation: of the one resampling (antialiased).
        flip: probability of the mirror.
        regions: side of the lattice of region labels that comes with the view; None for no labels.
    """

    size: int = Field(224, ge=8)
    crop: Literal["random", "whole", "patch"] = "random"
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: float = Field(0.5, ge=0, le=1)
    colour: ColourPolicy = ColourPolicy()
    regions: int | None = Field(None, ge=1)


class PairOverlap(Config):
    """Two views that must share image area: both are drawn again until they do, or the attempts are used up.

    Attributes:
        views: positions of the two views; None for an unseen crop that is drawn like the first view.
        share: least intersection area over the area of the larger crop.
        attempts: draws before the last pair is kept as it is.
    """

    views: tuple[int, int | None]
    share: float = Field(0.5, ge=0, le=1)
    attempts: int = Field(100, ge=1)


class ViewPlan(Config):
    """All views of an image that a method asks for.

    Attributes:
        views: the views, in the order in which the batch holds them.
        shared_flip: one mirror for all views (its probability is the first view's) instead of one each.
        overlaps: constraints between pairs of views.
        jitter: how the box of the first patch becomes that of the second.
        resampler: which library resizes the crops. The papers' codes use Pillow. "torch" takes half the time; a few
            values in a hundred then differ, by one of 255 (bicubic: by more at sharp edges), and not alike everywhere.
    """

    views: tuple[ViewSpec, ...]
    shared_flip: bool = False
    overlaps: tuple[PairOverlap, ...] = ()
    jitter: BoxJitter = BoxJitter()
    resampler: Resampler = "pillow"

    @model_validator(mode="after")
    def _views_exist(self) -> ViewPlan:
        if not self.views:
            raise ValueError("at least one view is needed")
        if self.wants_patches and [view.crop for view in self.views].count("patch") != len(PATCH_NAMES):
            raise ValueError(f"patches come in fours: {', '.join(PATCH_NAMES)}")
        if any(view.crop == "patch" and view.regions is not None for view in self.views):
            raise ValueError("patches come without region labels; leave `regions` out of their views")
        for pair in self.overlaps:
            if not all(0 <= view < len(self.views) for view in pair.views if view is not None):
                raise ValueError(f"an overlap names views {pair.views}, but there are {len(self.views)} views")
        return self

    @property
    def wants_patches(self) -> bool:
        """Whether some views are patches, so that samples need a patch source."""
        return self.neighbour_view is not None

    @property
    def neighbour_view(self) -> int | None:
        """Position of the one view that is cut from a neighbour of the image, the last patch; None without patches."""
        return max((i for i, view in enumerate(self.views) if view.crop == "patch"), default=None)

    @property
    def wants_regions(self) -> bool:
        """Whether some views come with region labels, so that samples need a region source."""
        return any(view.regions is not None for view in self.views)

    def resized(self, size: int) -> ViewPlan:
        """The same plan with every view ``size`` pixels wide, and patches in proportion to the first view."""
        scale = size / self.views[0].size
        sizes = [max(8, round(view.size * scale)) if view.crop == "patch" else size for view in self.views]
        views = tuple(view.model_copy(update={"size": side}) for view, side in zip(self.views, sizes, strict=True))
        return self.model_copy(update={"views": views})


@dataclass(frozen=True)
class CropDraw:
    """One drawn crop: left, top, width and height in whole image pixels, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    flip: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in image pixels."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def draw_crops(
    plan: ViewPlan, width: int, height: int, rng: np.random.Generator, boxes: Sequence[Box] = ()
) -> list[CropDraw]:
    """Draw the crops of all views of one image.

    Args:
        width, height: of the upright image, pixels.
        boxes: of the patches, in the order of their views.
    """
    shared = rng.random() < plan.views[0].flip if plan.shared_flip else None
    patches = iter(boxes)
    draws = [
        _draw_patch(spec, next(patches), rng, shared)
        if spec.crop == "patch"
        else _draw_crop(spec, width, height, rng, shared)
        for spec in plan.views
    ]
    for pair in plan.overlaps:
        a, b = pair.views
        specs = plan.views[a], plan.views[a if b is None else b]
        partner = _draw_crop(specs[1], width, height, rng, shared) if b is None else draws[b]
        for _ in range(pair.attempts):
            if _shared_area(draws[a], partner) >= pair.share:
                break
            draws[a], partner = (_draw_crop(spec, width, height, rng, shared) for spec in specs)
        if b is not None:
            draws[b] = partner
    return draws


def _draw_crop(spec: ViewSpec, width: int, height: int, rng: np.random.Generator, flip: bool | None) -> CropDraw:
    if spec.crop == "whole":
        return CropDraw(0, 0, width, height, flip=False)
    left, top, w, h = random_resized_crop(width, height, spec.area, spec.aspect, rng)
    own_flip = bool(rng.random() < spec.flip)
    return CropDraw(left, top, w, h, flip=own_flip if flip is None else bool(flip))


def _draw_patch(spec: ViewSpec, box: Box, rng: np.random.Generator, flip: bool | None) -> CropDraw:
    own_flip = bool(rng.random() < spec.flip)
    return CropDraw(*box, flip=own_flip if flip is None else bool(flip))


def random_resized_crop(
    width: int, height: int, area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """The field's crop rule (ReSim section 2.2, SCRL section 2.1): ten attempts, then the centred crop.

    ``rng`` needs ``uniform(low, high)`` and ``integers(low, high, endpoint=True)``; the vertical offset is drawn first.

    Returns:
        left, top, width, height in whole pixels.
    """
    for _ in range(10):
        target = rng.uniform(*area) * (width * height)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h, endpoint=True))
            left = int(rng.integers(0, width - w, endpoint=True))
            return left, top, w, h
    return centred_crop(width, height, aspect)


def centred_crop(width: int, height: int, aspect: tuple[float, float]) -> tuple[int, int, int, int]:
    """The largest centred crop whose aspect ratio lies in the range: left, top, width, height; at least one pixel."""
    w, h = width, height
    if width / height < aspect[0]:
        h = max(1, round(width / aspect[0]))
    elif width / height > aspect[1]:
        w = max(1, round(height * aspect[1]))
    return (width - w) // 2, (height - h) // 2, w, h


def _shared_area(a: CropDraw, b: CropDraw) -> float:
    """Intersection area over the area of the larger crop."""
    w = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    h = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    return max(w, 0) * max(h, 0) / max(a.width * a.height, b.width * b.height)


def cut(image: Picture, draw: CropDraw, spec: ViewSpec, resampler: Resampler = "pillow") -> np.ndarray:
    """Cut one view out of an RGB image with one antialiased resampling.

    Returns:
        (3, size, size) uint8.
    """
    size = (spec.size, spec.size)
    if resampler == "torch":
        crop = np.asarray(image.crop(draw.box)) if isinstance(image, Image.Image) else image.values(draw.box)
        pixels = _resize_by_torch(crop, size, spec.interpolation)
    else:
        pixels = np.asarray(image.crop(draw.box).resize(size, _RESAMPLING[spec.interpolation]))
    if draw.flip:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _resize_by_torch(pixels: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """(H, W, 3) uint8 at another size, antialiased."""
    reverse = pixels.strides[2] < 0  # torch knows no negative strides
    batch = torch.from_numpy((pixels[..., ::-1] if reverse else pixels).copy()).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(batch, size, mode=mode, antialias=True)[0].permute(1, 2, 0).numpy()
    return resized[..., ::-1] if reverse else resized


def cut_labels(labels: np.ndarray, draw: CropDraw, spec: ViewSpec, width: int, height: int) -> np.ndarray | None:
    """The lattice of region labels of one view, mirrored with it (PLRC, equation 2.1), if the view asks for one.

    A whole view reads the label map directly, so a map as large as the lattice stays as it is (R2O, 2.3 and 2.4).

    Args:
        labels: (h, w) integers that cover the image.
        width, height: of the upright image, pixels.

    Returns:
        (regions, regions) int64, or None.
    """
    if spec.regions is None:
        return None
    if spec.crop == "whole":
        width, height = labels.shape[1], labels.shape[0]
        return lattice_labels(labels, (0, 0, width, height), (width, height), spec.regions, flip=False)
    return lattice_labels(labels, draw.box, (width, height), spec.regions, draw.flip)
