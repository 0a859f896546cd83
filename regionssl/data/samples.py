"""One image's views, and the batch that several make. What they show is counted by (seed, epoch, image)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.batch import Batch
from regionssl.data.bitmaps import Picture, as_image
from regionssl.data.decode import UnreadableImage
from regionssl.data.images import ImageList
from regionssl.data.patches import PatchDraw, PatchSource, draw_patches
from regionssl.data.photometric import ColourDraws, draw, stack
from regionssl.data.views import CropDraw, ViewPlan, cut, cut_labels, draw_crops
from regionssl.geometry import Crops

_REPLACEMENTS = 100

# (upright RGB image, its position in the image list) -> (h, w) integer labels that cover the whole image, of any size
RegionSource = Callable[[Image.Image, int], np.ndarray]


@dataclass(frozen=True)
class Sample:
    """One image to be made: its position in the list, the epoch and the step."""

    index: int
    epoch: int
    step: int


@dataclass(frozen=True)
class Taken:
    """What a sample is made of: an image and its position; with patches, their draw and the neighbour's image."""

    image: Picture
    index: int
    drawn: PatchDraw | None = None
    neighbour: Picture | None = None

    def sources(self, plan: ViewPlan) -> list[Picture]:
        """The image that each view is cut from."""
        return [
            self.neighbour if self.neighbour is not None and view == plan.neighbour_view else self.image
            for view in range(len(plan.views))
        ]


@dataclass(frozen=True)
class Views:
    """The views of one image: pixels (3, S, S) uint8, crops, colours and labels per view, and the images that failed.

    Labels are (G, G) int64, or None for a view without; ``size`` is width and height of the image in pixels;
    ``neighbour`` is the position of the image that the last patch is cut from. Without pixels, none of a hundred
    replacements could be read either.
    """

    pixels: list[np.ndarray]
    crops: list[CropDraw]
    colours: list[ColourDraws]
    sample: Sample
    index: int
    failures: tuple[tuple[int, str], ...]
    labels: list[np.ndarray | None]
    size: tuple[int, int]
    neighbour: int | None = None


class ViewDataset(Dataset[Views]):
    """Makes the views of an image; an unreadable image is replaced by a counted draw and reported.

    ``regions`` labels the images, if views ask for labels; ``patches`` has their correspondences, if some are patches.
    """

    def __init__(
        self,
        images: ImageList,
        plan: ViewPlan,
        seed: int,
        regions: RegionSource | None = None,
        patches: PatchSource | None = None,
    ) -> None:
        if plan.wants_regions and regions is None:
            raise ValueError("a view asks for region labels, but there is nothing to label the images")
        if plan.wants_patches and patches is None:
            raise ValueError("some views are patches, but there are no correspondences to draw them from")
        self.images, self.plan, self.seed, self.regions, self.patches = images, plan, seed, regions, patches

    def __getitem__(self, sample: Sample) -> Views:
        taken, failures = self._load(sample)
        if taken is None:
            return Views([], [], [], sample, sample.index, tuple(failures.items()), [], (0, 0))
        image, index, drawn = taken.image, taken.index, taken.drawn
        rng = counted.generator(self.seed, Stream.VIEWS, sample.index, sample.epoch)
        crops = draw_crops(self.plan, image.width, image.height, rng, drawn.boxes if drawn else ())
        pixels = [
            cut(source, crop, spec, self.plan.resampler)
            for source, crop, spec in zip(taken.sources(self.plan), crops, self.plan.views, strict=True)
        ]
        colours = [
            draw(spec.colour, counted.generator(self.seed, Stream.COLOURS, sample.index, sample.epoch, view))
            for view, spec in enumerate(self.plan.views)
        ]
        labels = self._labels(image, index, crops)
        neighbour = drawn.neighbour if drawn else None
        return Views(pixels, crops, colours, sample, index, tuple(failures.items()), labels, image.size, neighbour)

    def _labels(self, image: Picture, index: int, crops: list[CropDraw]) -> list[np.ndarray | None]:
        """The lattice of labels of each view, or an empty list when no view asks for one."""
        if self.regions is None or not self.plan.wants_regions:
            return []
        labels = self.regions(as_image(image), index)
        width, height = image.size
        return [
            cut_labels(labels, crop, spec, width, height) for crop, spec in zip(crops, self.plan.views, strict=True)
        ]

    def _load(self, sample: Sample) -> tuple[Taken | None, dict[int, str]]:
        """The sample's image (with neighbour), or the first readable of its counted replacements; what failed, why."""
        failures: dict[int, str] = {}
        index, as_array = sample.index, self.plan.resampler == "torch"
        for attempt in range(_REPLACEMENTS):
            opened = index
            if index not in failures:
                try:
                    image = self.images.picture(index, as_array)
                    drawn = self._draw_patches(image, index, sample)
                    if drawn is None:
                        return Taken(image, index), failures
                    opened = drawn.neighbour
                    return Taken(image, index, drawn, self.images.picture(opened, as_array)), failures
                except UnreadableImage as error:
                    failures[opened] = str(error)
            replacement = counted.integer(self.seed, Stream.REPLACEMENT, sample.index, sample.epoch, attempt)
            index = replacement % len(self.images)
        return None, failures

    def _draw_patches(self, image: Picture, index: int, sample: Sample) -> PatchDraw | None:
        if self.patches is None or not self.plan.wants_patches:
            return None
        rng = counted.generator(self.seed, Stream.PATCHES, sample.index, sample.epoch)
        return draw_patches(self.patches, index, image.width, image.height, self.plan.jitter, rng)


@dataclass(frozen=True)
class Collate:
    """Turns the views of some images into a :class:`Batch`, without views if an image had no readable replacement."""

    plan: ViewPlan
    seed: int

    def __call__(self, items: list[Views]) -> Batch:
        complete = all(item.pixels for item in items)
        numbers = range(len(self.plan.views)) if complete else ()
        return Batch(
            views=[_stacked([item.pixels[v] for item in items]) for v in numbers],
            crops=[_crops([item.crops[v] for item in items], self.plan.views[v].size) for v in numbers],
            colours=[stack([item.colours[v] for item in items]) for v in numbers],
            index=torch.tensor([item.index for item in items]),
            seed=self.seed,
            epoch=items[0].sample.epoch,
            step=items[0].sample.step,
            first=0,
            total=len(items),
            failures=tuple(failure for item in items for failure in item.failures),
            regions=[_labels([item.labels[v] for item in items]) for v in numbers] if self.plan.wants_regions else [],
            image_size=torch.tensor([item.size for item in items], dtype=torch.float64),
            neighbour=torch.tensor([item.neighbour for item in items])
            if complete and self.plan.wants_patches
            else None,
        )


def _stacked(views: list[np.ndarray]) -> Tensor:
    """One batch of a view's pixels; made in shared memory in a loader worker, so that it is not copied to get out."""
    stacked: Tensor = default_collate([torch.from_numpy(view) for view in views])
    return stacked


def _labels(lattices: list[np.ndarray | None]) -> Tensor | None:
    present = [lattice for lattice in lattices if lattice is not None]
    return torch.from_numpy(np.stack(present)) if present else None


def _crops(draws: list[CropDraw], size: int) -> Crops:
    box = torch.tensor([draw.box for draw in draws], dtype=torch.float64)
    return Crops(box, torch.tensor([draw.flip for draw in draws]), size)
