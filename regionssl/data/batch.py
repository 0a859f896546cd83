"""What the loader hands to the device and the device to a method."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from regionssl.data.photometric import ColourDraws, apply
from regionssl.data.views import ViewPlan
from regionssl.geometry import Crops


@dataclass(frozen=True)
class Batch:
    """The views of some images, and where each view was taken.

    All lists have one entry per view, in the order in which the method declared them.

    Attributes:
        views: (N, 3, size, size), uint8 from the loader; float32, normalised, once the colours are done.
        crops: geometry of the views.
        colours: the photometric draws of the views, until they are applied.
        index: (N,) int64, position of each image in the image list.
        seed, epoch, step: what the draws of this batch are counted by; ``step`` counts from 0 over the whole run.
        first: position of the first image within the process's share of the global batch; not 0 in a later part.
        total: number of images in the process's share; larger than N when this is a part of it.
        failures: images that could not be read while this batch was made, with the reason.
        regions: (N, G, G) int64 region labels on a lattice over each view, mirrored with it; None for a view that asks
            for none; empty when no view does. A label denotes the same region in all views of an image.
        image_size: (N, 2) float64, width and height of the upright images, pixels.
        neighbour: (N,) int64, positions of the images that the last patch is cut from; None without patches. The crop
            of that view is in pixels of this image.
    """

    views: list[Tensor]
    crops: list[Crops]
    colours: list[ColourDraws]
    index: Tensor
    seed: int
    epoch: int
    step: int
    first: int
    total: int
    failures: tuple[tuple[int, str], ...] = ()
    regions: list[Tensor | None] = field(default_factory=list)
    image_size: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.float64))
    neighbour: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def split(self, size: int) -> Iterator[Batch]:
        """Consecutive parts of at most ``size`` images, for gradient accumulation."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield replace(
                self,
                views=[view[rows] for view in self.views],
                crops=[crops[rows] for crops in self.crops],
                colours=[draws[rows] for draws in self.colours],
                index=self.index[rows],
                first=self.first + start,
                regions=[labels if labels is None else labels[rows] for labels in self.regions],
                image_size=self.image_size[rows],
                neighbour=None if self.neighbour is None else self.neighbour[rows],
            )

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; the copy overlaps with computation when the batch is pinned."""
        return replace(
            self,
            views=[view.to(device, non_blocking=True) for view in self.views],
            crops=[crops.to(device, non_blocking=True) for crops in self.crops],
            index=self.index.to(device, non_blocking=True),
            regions=[labels if labels is None else labels.to(device, non_blocking=True) for labels in self.regions],
            image_size=self.image_size.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """Page-locked copies of what :meth:`to` moves (called by the DataLoader)."""
        return replace(
            self,
            views=[view.pin_memory() for view in self.views],
            crops=[Crops(c.box.pin_memory(), c.flip.pin_memory(), c.size) for c in self.crops],
            index=self.index.pin_memory(),
            regions=[labels if labels is None else labels.pin_memory() for labels in self.regions],
            image_size=self.image_size.pin_memory(),
        )


def coloured(batch: Batch, plan: ViewPlan) -> Batch:
    """The batch with its colour draws applied: views float32, normalised, on the device where they are."""
    coloured_views = zip(batch.views, batch.colours, plan.views, strict=True)
    return replace(batch, views=[apply(view, draws, spec.colour) for view, draws, spec in coloured_views])
