"""What a method sees of the images of step 0: its views with the regions that it holds together or finds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from regionssl.data.batch import Batch, coloured
from regionssl.data.patches import PATCH_NAMES
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.data.views import ViewPlan
from regionssl.methods.base import Matches, Method
from regionssl.report.strips import Strip
from regionssl.report.view_strips import view_strips
from regionssl.report.views import views_figure
from regionssl.verbs.subject import Subject


@dataclass(frozen=True)
class Sight:
    """The arguments of the figures of views, in their order."""

    images: list[Image.Image]
    batch: Batch
    views: list[Tensor]
    matches: Matches
    names: list[str]
    captions: list[str]
    others: dict[int, list[Image.Image]]


def see(subject: Subject, method: Method, batch: Batch) -> Sight:
    """The views of a batch, coloured as the network sees them, with the regions that the method matches."""
    plan, positions = subject.config.method.plan, batch.index.tolist()
    others = {}
    if batch.neighbour is not None and plan.neighbour_view is not None:
        others[plan.neighbour_view] = [subject.images.load(index) for index in batch.neighbour.tolist()]
    return Sight(
        images=[subject.images.load(index) for index in positions],
        batch=batch,
        views=[to_pixels(view) for view in coloured(batch, plan).views],
        matches=method.matches(batch),
        names=[subject.images.names[index] for index in positions],
        captions=view_names(plan),
        others=others,
    )


def draw_views(sight: Sight, title: str) -> Image.Image:
    """The views as one picture."""
    return views_figure(
        sight.images, sight.batch.crops, sight.views, sight.matches, sight.names, title, sight.captions, sight.others
    )


def strips_of(sight: Sight) -> list[Strip]:
    """The views as strips."""
    return view_strips(
        sight.images, sight.batch.crops, sight.views, sight.matches, sight.names, sight.captions, sight.others
    )


def view_names(plan: ViewPlan) -> list[str]:
    """What the views are called in pictures."""
    kinds = iter(PATCH_NAMES)
    patches = [f", {next(kinds)}" if view.crop == "patch" else "" for view in plan.views]
    return [f"view {number}{patch}" for number, patch in enumerate(patches, start=1)]


def to_pixels(views: Tensor) -> Tensor:
    """Normalised views (N, 3, S, S) float as uint8."""
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return ((views * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
