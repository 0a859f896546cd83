"""Views: which crops a method wants of an image, how they are drawn, and how they are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from regionssl.config import Config
from regionssl.data.photometric import ColourPolicy

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class ViewSpec(Config):
    """One view: how its crop is drawn, how it is resized, and what happens to its colours.

    Attributes:
        size: side of the square view, pixels.
        crop: "random" draws a rectangle; "whole" squashes the whole image, never mirrored.
        area: range of the crop's share of the image area.
        aspect: range of the crop's width over height, drawn log-uniformly.
        interpolation: of the one resampling (antialiased).
        flip: probability of the mirror.
    """

    size: int = Field(224, ge=8)
    crop: Literal["random", "whole"] = "random"
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: float = Field(0.5, ge=0, le=1)
    colour: ColourPolicy = ColourPolicy()


class PairOverlap(Config):
    """Two views that must share image area: both are drawn again until they do, or the attempts are used up.

    Attributes:
        views: positions of the two views.
        share: least intersection area over the area of the larger crop.
        attempts: draws before the last pair is kept as it is.
    """

    views: tuple[int, int]
    share: float = Field(0.5, ge=0, le=1)
    attempts: int = Field(100, ge=1)


class ViewPlan(Config):
    """All views of an image that a method asks for.

    Attributes:
        views: the views, in the order in which the batch holds them.
        shared_flip: one mirror for all views (its probability is the first view's) instead of one each.
        overlaps: constraints between pairs of views.
    """

    views: tuple[ViewSpec, ...]
    shared_flip: bool = False
    overlaps: tuple[PairOverlap, ...] = ()

    @model_validator(mode="after")
    def _views_exist(self) -> ViewPlan:
        if not self.views:
            raise ValueError("at least one view is needed")
        for pair in self.overlaps:
            if not all(0 <= view < len(self.views) for view in pair.views):
                raise ValueError(f"an overlap names views {pair.views}, but there are {len(self.views)} views")
        return self

    def resized(self, size: int) -> ViewPlan:
        """The same plan with every view ``size`` pixels wide."""
        return self.model_copy(update={"views": tuple(view.model_copy(update={"size": size}) for view in self.views)})


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


def draw_crops(plan: ViewPlan, width: int, height: int, rng: np.random.Generator) -> list[CropDraw]:
    """Draw the crops of all views of one image.

    Args:
        width, height: of the upright image, pixels.
    """
    shared = rng.random() < plan.views[0].flip if plan.shared_flip else None
    draws = [_draw_crop(spec, width, height, rng, shared) for spec in plan.views]
    for pair in plan.overlaps:
        a, b = pair.views
        for _ in range(pair.attempts):
            if _shared_area(draws[a], draws[b]) >= pair.share:
                break
            draws[a], draws[b] = (_draw_crop(plan.views[v], width, height, rng, shared) for v in (a, b))
    return draws


def _draw_crop(spec: ViewSpec, width: int, height: int, rng: np.random.Generator, flip: bool | None) -> CropDraw:
    if spec.crop == "whole":
        return CropDraw(0, 0, width, height, flip=False)
    left, top, w, h = random_resized_crop(width, height, spec.area, spec.aspect, rng)
    own_flip = bool(rng.random() < spec.flip)
    return CropDraw(left, top, w, h, flip=own_flip if flip is None else bool(flip))


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


def cut(image: Image.Image, draw: CropDraw, spec: ViewSpec) -> np.ndarray:
    """Cut one view out of an RGB image with one antialiased resampling.

    Returns:
        (3, size, size) uint8.
    """
    view = image.crop(draw.box).resize((spec.size, spec.size), _RESAMPLING[spec.interpolation])
    pixels = np.asarray(view)
    if draw.flip:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
