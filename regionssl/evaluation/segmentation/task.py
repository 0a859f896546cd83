"""Semantic segmentation by a network that is trained on the labels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from regionssl.evaluation.inputs import load_image, standardise
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.segmentation.config import SegmentationConfig
from regionssl.evaluation.segmentation.crops import fitted, resized, tensor
from regionssl.evaluation.segmentation.network import SegmentationNetwork, build, winners
from regionssl.evaluation.segmentation.scoring import judge
from regionssl.evaluation.segmentation.train import train
from regionssl.evaluation.start import Start
from regionssl.labels.sets import MapSet, Split


class SegmentationTask(SegmentationConfig):
    """FCN or DeepLabV3 on the backbone, scored by the mean IoU of whole images at their own size (R2O, 7.1 and 7.2)."""

    task: ClassVar[str] = "segmentation"

    def run(self, start: Start, data: Split[MapSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train on ``data.train``, score on ``data.val``, write predictions, tables and pictures below ``out``.

        Raises:
            InputError: a backbone that cannot be dilated, images or labels that cannot be used, or divergence.
        """
        began = time.perf_counter()
        network = build(start, self, len(data.train.classes), seed)
        saved = SavedTraining(out, self, start, data.train, seed, device)
        train(network, self, data.train, start, seed, device, saved)
        return judge(self._predictions(network, start, data.val, device), data.val, out, began - saved.earlier)

    @torch.no_grad()
    def _predictions(
        self, network: SegmentationNetwork, start: Start, val: MapSet, device: str
    ) -> Iterator[np.ndarray]:
        """(H, W) uint8 of each image, from the whole image at once."""
        for i in range(len(val)):
            image = load_image(val.images, i)
            pixels = tensor(resized(image, fitted(image.size, self.crop.base), network.multiple))
            inputs = standardise(pixels[None].to(device), start.mean, start.std)
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                scores = network(inputs)[0]
            named = winners(scores, (image.height, image.width), self.align_corners)
            yield named[0].to(torch.uint8).cpu().numpy()
