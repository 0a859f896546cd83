"""A look at some of the images: each is read, decoded and cut into views once, and timed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.decode import Details, UnreadableImage, decode, details
from regionssl.data.hashes import small_picture
from regionssl.data.image_list import ImageList
from regionssl.data.views import ViewPlan, cut, draw_crops

SECONDS = 60.0
"""After which no further image is looked at."""


@dataclass(frozen=True)
class Seen:
    """What an image that can be used shows.

    Attributes:
        details: what its file says.
        small: (16, 17) uint8 grey means.
        colourful: whether its channels differ.
        mean: of all values, 0 to 255.
        read, decoded, cut: seconds for each; ``cut`` is 0 where views need more than the image.
    """

    details: Details
    small: np.ndarray
    colourful: bool
    mean: float
    read: float
    decoded: float
    cut: float


@dataclass(frozen=True)
class Look:
    """One image: its position in the list, and what it shows, or why it cannot be used."""

    position: int
    seen: Seen | None
    problem: str = ""


def look_at(images: ImageList, plan: ViewPlan, most: int, seconds: float = SECONDS) -> list[Look]:
    """Look at up to ``most`` images, in order of their positions, or as many as ``seconds`` allow.

    Of more images, pairs that follow each other by name are drawn: frames of one film do.
    """
    looks: list[Look] = []
    start = time.perf_counter()
    for position in chosen(len(images), most):
        looks.append(_look(images, plan, position))
        if time.perf_counter() - start > seconds:
            break
    return sorted(looks, key=lambda look: look.position)


def chosen(images: int, most: int) -> Iterator[int]:
    """Positions to look at, in an order of which any beginning is a fair sample."""
    count = 0
    for pair in counted.permutation((images + 1) // 2, 0, Stream.ORDER, 0).tolist():
        for position in (2 * pair, 2 * pair + 1):
            if position < images and count < most:
                count += 1
                yield position


def _look(images: ImageList, plan: ViewPlan, position: int) -> Look:
    begin = time.perf_counter()
    try:
        content = images.read(position)
        read = time.perf_counter()
        known = details(content)
        start = time.perf_counter()
        image = decode(content)
    except UnreadableImage as error:
        return Look(position, None, str(error))
    decoded = time.perf_counter()
    if not plan.wants_patches:
        rng = np.random.default_rng(position)
        for crop, spec in zip(draw_crops(plan, image.width, image.height, rng), plan.views, strict=True):
            cut(image, crop, spec, plan.resampler)
    times = read - begin, decoded - start, time.perf_counter() - decoded
    pixels = np.asarray(image.reduce(max(1, min(image.size) // 64)))
    colourful = bool((np.ptp(pixels, axis=2) > 0).any())
    return Look(position, Seen(known, small_picture(image), colourful, float(pixels.mean()), *times))
