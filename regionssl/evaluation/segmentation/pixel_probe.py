"""Semantic segmentation by a linear layer on frozen features: minutes on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from regionssl.config import Config
from regionssl.evaluation.frozen import frozen_encoder
from regionssl.evaluation.inputs import load_image, standardise
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.probes import LinearClassifier, Picture, extracted, fit, read_samples
from regionssl.evaluation.segmentation.crops import fitted, load, resized, tensor
from regionssl.evaluation.segmentation.network import input_multiple, winners
from regionssl.evaluation.segmentation.scoring import judge
from regionssl.evaluation.start import Start
from regionssl.labels.maps import IGNORED
from regionssl.labels.sets import MapSet, Split

_BATCH = 8  # images per pass


class PixelProbeTask(Config):
    """A linear pixel classifier on frozen maps: :func:`regionssl.evaluation.probes.pixel_probe` on labelled images.

    Attributes:
        maps: feature maps, brought to the size of the finest and joined.
        short_side: images are resized to it, with their aspect; scores are enlarged to the images' own size.
        pixels, l2, balance: as in ``pixel_probe``.
    """

    task: ClassVar[str] = "pixel_probe"

    maps: tuple[Literal["c2", "c3", "c4", "c5"], ...] = Field(("c3", "c4"), min_length=1)
    short_side: int = Field(320, ge=32)
    pixels: int = Field(40_000, ge=1)
    l2: float = Field(3e-3, ge=0)
    balance: float = Field(0.5, ge=0, le=1)

    def run(self, start: Start, data: Split[MapSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Fit on pixels of ``data.train``, score on ``data.val``, write predictions, tables and pictures below ``out``.

        A random backbone takes its batch statistics from training images first.

        Raises:
            InputError: a backbone without one of the maps, images or labels that cannot be used, or features that are
                not finite.
        """
        began = time.perf_counter()
        maps = tuple(sorted(set(self.maps)))
        encoder = frozen_encoder(start, maps, data.train.images, self._square, seed, device)
        multiple = input_multiple(encoder)

        def extract(pictures: Tensor) -> Tensor:
            found = encoder(standardise(pictures.to(device), start.mean, start.std))
            finest = found[maps[0]].shape[-2:]
            return torch.cat([F.interpolate(found[name], finest, mode="bilinear") for name in maps], 1)

        pictures = (self._picture(data.train, i, multiple) for i in range(len(data.train)))
        per_image = math.ceil(self.pixels / len(data.train))
        features, targets = read_samples(extract, pictures, IGNORED, per_image, seed, _BATCH)
        classifier = fit(features, targets, len(data.train.classes), self.l2, self.balance)
        return judge(self._predictions(extract, classifier, data.val, multiple), data.val, out, began)

    def _resized(self, image: Image.Image, multiple: int) -> Image.Image:
        return resized(image, fitted(image.size, None, self.short_side / min(image.size)), multiple)

    def _picture(self, data: MapSet, i: int, multiple: int) -> Picture:
        image, labels = load(data, i)
        return tensor(self._resized(image, multiple)), torch.from_numpy(labels)

    def _square(self, image: Image.Image) -> Tensor:
        return tensor(resized(image, (self.short_side, self.short_side)))

    def _predictions(
        self, extract: Callable[[Tensor], Tensor], classifier: LinearClassifier, val: MapSet, multiple: int
    ) -> Iterator[np.ndarray]:
        """(H, W) uint8 of each image. The few scores are enlarged, not the many features: both are linear."""
        for i in range(len(val)):
            image = load_image(val.images, i)
            features = extracted(extract, tensor(self._resized(image, multiple))[None])
            named = winners(classifier.on_map(features), (image.height, image.width), align_corners=False)
            yield named[0].to(torch.uint8).cpu().numpy()
