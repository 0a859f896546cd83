"""Correspondence, without labels: how often a region finds itself in another view of its image.

A box of the first view is read as the mean feature within it. In the second view, whose geometry is known, boxes of the
size that the region has there are read at all places of a grid. The region is found if the place whose feature is most
similar, by cosine, overlaps its true place by an IoU of at least one half.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from pydantic import Field, model_validator
from rich.console import Console
from rich.progress import track
from torch import Tensor

from regionssl import geometry
from regionssl.backbones.encoder import Encoder
from regionssl.backbones.pooling import roi_align_pool
from regionssl.counted import Stream, generator
from regionssl.data.image_list import ImageList
from regionssl.errors import InputError
from regionssl.evaluation.frozen import frozen_encoder
from regionssl.evaluation.inputs import load_image, standardise
from regionssl.evaluation.outcome import Outcome, Shares
from regionssl.evaluation.sheets import side_by_side, stacked
from regionssl.evaluation.start import Start
from regionssl.evaluation.warps import Look, WarpSettings
from regionssl.labels.sets import LabelledSet, Split

_EQUAL = 1e-6  # cosines that differ by less are ties, each as good as the others
_SHOWN = 6  # images in the picture


@dataclass(frozen=True)
class Search:
    """How K regions of one image fared at one scale under one warp.

    Attributes:
        hits: (K,) float64, 1 found, 0 not; between where equally similar places are right and wrong.
        chance: (K,) float64, share of all places that would be right.
        boxes: (K, 4) of the first view; true, found: (K, 4) of the second.
    """

    hits: Tensor
    chance: Tensor
    boxes: Tensor
    true: Tensor
    found: Tensor


class CorrespondenceTask(WarpSettings):
    """How often regions find themselves, at several scales and under known warps; no labels are read.

    Attributes:
        map: the map that is read.
        scales: sides of the regions, as shares of the first view's side.
        boxes: regions of each image, scale and warp.
        spacing: of the grid of places, as a share of the region's side; at most.
        overlap: least IoU of a found place with the true one.
    """

    task: ClassVar[str] = "correspondence"

    map: Literal["c2", "c3", "c4", "c5"] = "c4"
    scales: tuple[float, ...] = Field((1 / 8, 1 / 4, 1 / 2), min_length=1)
    boxes: int = Field(8, ge=1)
    spacing: float = Field(0.25, gt=0, le=0.25)
    overlap: float = Field(0.5, gt=0, le=0.6)

    @model_validator(mode="after")
    def _regions_fit(self) -> Self:
        if min(self.scales) <= 0 or max(self.scales) * self.largest_zoom >= 1:
            raise ValueError(
                f"scales must be above 0 and below {1 / self.largest_zoom:.2f}, for warps enlarge them by up to "
                f"{self.largest_zoom:.2f}; got {self.scales}"
            )
        return self

    def run(self, start: Start, data: Split[Any], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Score the images of ``data.val``, write tables and a picture below ``out``.

        A random start looks at the images of ``data.train`` first. Labels are not read.

        Raises:
            InputError: no images, weights or images cannot be read, the map is missing, or features are not finite.
        """
        began = time.perf_counter()
        train: LabelledSet = data.train
        encoder = frozen_encoder(start, (self.map,), train.images, self._middle, seed, device)
        hits, chance, sheet = self.score(encoder, data.val.images, start, seed, device)
        return self._outcome(hits, chance, sheet, data.val.images, out, began)

    def score(
        self, encoder: Encoder, images: ImageList, start: Start, seed: int, device: str
    ) -> tuple[np.ndarray, np.ndarray, Image.Image]:
        """Hits and chance (N, warps, scales), means over an image's boxes in 0..1, and a picture.

        Raises:
            InputError: as :meth:`run`.
        """
        if not len(images):
            raise InputError("correspondence needs at least one image, got none")
        shape = (len(images), len(self.warps), len(self.scales))
        hits, chance = np.zeros(shape), np.zeros(shape)
        shown: list[Image.Image] = []
        for i in track(range(len(images)), "matching", console=Console(stderr=True), disable=not sys.stderr.isatty()):
            image = load_image(images, i)
            views, found = self._searches(encoder, image, i, start, seed, device)
            hits[i] = [[float(one.hits.mean()) for one in row] for row in found]
            chance[i] = [[float(one.chance.mean()) for one in row] for row in found]
            if len(shown) < _SHOWN:
                shown.append(_picture(views, found))
        return hits, chance, stacked(shown)

    def _searches(
        self, encoder: Encoder, image: Image.Image, i: int, start: Start, seed: int, device: str
    ) -> tuple[Tensor, list[list[Search]]]:
        """Views (1 + warps, 3, S, S) of one image, and the searches by warp and scale."""
        first = self.first(image.width, image.height)
        draws = [generator(seed, Stream.VIEWS, i, number) for number in range(len(self.warps) + 1)]
        looks = [self.second(warp, first, rng) for warp, rng in zip(self.warps, draws[1:], strict=True)]
        views = torch.stack([self.render(image, look, rng) for look, rng in zip([first, *looks], draws, strict=True)])
        with torch.no_grad():
            features = encoder(standardise(views.to(device), start.mean, start.std))[self.map].float().cpu()
        if not features.isfinite().all():
            raise InputError(f"the features of {start.name} are not finite, so there is nothing to match")
        rows = []
        for number, look in enumerate(looks):
            rng = generator(seed, Stream.BOXES, i, number)
            rows.append([self._search(features[[0, number + 1]], first, look, scale, rng) for scale in self.scales])
        return views, rows

    def _search(self, features: Tensor, first: Look, second: Look, scale: float, rng: np.random.Generator) -> Search:
        """Draw regions in the second view, read them in the first, and look for them in the second.

        Args:
            features: (2, C, h, w) of both views.
        """
        side = scale * self.size * second.zoom_over(first)
        corner = torch.from_numpy(rng.random((self.boxes, 2))) * (self.size - side)
        true = torch.cat([corner, corner + side], 1)
        boxes = second.carry(true, first)
        places = self._places(side)
        stride = self.size / features.shape[-1]
        regions = roi_align_pool(features[:1], boxes[None], stride, aligned=True)[0]
        others = roi_align_pool(features[1:], places[None], stride, aligned=True)[0]
        similar = F.normalize(regions.double(), dim=1) @ F.normalize(others.double(), dim=1).T
        right = (geometry.iou(true[:, None], places) >= self.overlap).double()
        best = (similar >= similar.amax(1, keepdim=True) - _EQUAL).double()
        hits = (right * best).sum(1) / best.sum(1)
        return Search(hits, right.mean(1), boxes, true, places[similar.argmax(1)])

    def _places(self, side: float) -> Tensor:
        """(M, 4) float64 boxes of a side at all places of the grid."""
        room = self.size - side
        steps = torch.linspace(0, room, 1 + max(1, math.ceil(room / (side * self.spacing))), dtype=torch.float64)
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        corner = torch.stack([x.flatten(), y.flatten()], 1)
        return torch.cat([corner, corner + side], 1)

    def _middle(self, image: Image.Image) -> Tensor:
        return self.render(image, self.first(image.width, image.height), np.random.default_rng(0))

    def _outcome(
        self, hits: np.ndarray, chance: np.ndarray, sheet: Image.Image, images: ImageList, out: Path, began: float
    ) -> Outcome:
        metrics = {"hit_rate": 100 * float(hits.mean()), "chance": 100 * float(chance.mean())}
        for name, table in (("hit_rate", hits), ("chance", chance)):
            for number, warp in enumerate(self.warps):
                metrics[f"{warp}_{name}"] = 100 * float(table[:, number].mean())
            for number, scale in enumerate(self.scales):
                metrics[f"scale_{scale:g}_{name}"] = 100 * float(table[:, :, number].mean())
        per_class = {
            f"{warp} {scale:g}": 100 * float(hits[:, row, column].mean())
            for row, warp in enumerate(self.warps)
            for column, scale in enumerate(self.scales)
        }
        out.mkdir(parents=True, exist_ok=True)
        artefacts = {"per_image": out / "per_image.csv", "pictures": out / "correspondence.png"}
        header = ("image", *self.warps)
        rows = [(images.names[i], *(f"{100 * x:.2f}" for x in hits[i].mean(1))) for i in range(len(images))]
        with artefacts["per_image"].open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        sheet.save(artefacts["pictures"])
        evidence = Shares(hits.mean((1, 2)), np.ones(len(hits)))
        return Outcome("hit_rate", metrics, per_class, evidence, artefacts, time.perf_counter() - began)


def _picture(views: Tensor, found: list[list[Search]]) -> Image.Image:
    """First views with a region (yellow), and second views with its true place (green) and the found one (red).

    Of each warp, the first region of the middle scale.
    """
    parts = []
    for number, searches in enumerate(found, 1):
        one = searches[len(searches) // 2]
        parts.append(_marked(views[0], [(one.boxes[0], "#ffd600")]))
        parts.append(_marked(views[number], [(one.true[0], "#00c853"), (one.found[0], "#ff1744")]))
    return side_by_side(parts)


def _marked(view: Tensor, marks: list[tuple[Tensor, str]]) -> Image.Image:
    picture = Image.fromarray(view.permute(1, 2, 0).numpy())
    for box, colour in marks:
        ImageDraw.Draw(picture).rectangle(box.tolist(), outline=colour, width=max(2, picture.width // 100))
    return picture
