"""Features of whole images from a frozen backbone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from regionssl.backbones.encoder import Encoder, pool
from regionssl.config import Config
from regionssl.data.image_list import ImageList
from regionssl.errors import InputError
from regionssl.evaluation.classification.pictures import ScoredImages, ScoringCut, together
from regionssl.evaluation.frozen import frozen_encoder, read_maps
from regionssl.evaluation.inputs import standardise
from regionssl.evaluation.start import Start
from regionssl.labels.sets import ClassSet, Split

_BATCH = 32  # images per forward pass


class Reading(Config):
    """What is read of a backbone's maps.

    Attributes:
        map: "c1" is the stem's at stride 2, "c5" the last at stride 32.
        pool: kernel, stride and padding, in cells, of an average pooling whose cells are all kept; None averages all.
    """

    map: Literal["c1", "c2", "c3", "c4", "c5"] = "c5"
    pool: tuple[int, int, int] | None = None

    def read(self, features: Tensor) -> Tensor:
        """A map (B, C, h, w) -> (B, C, h', w').

        Raises:
            InputError: it is smaller than the kernel.
        """
        if self.pool is None:
            return pool(features)[:, :, None, None]
        kernel, stride, padding = self.pool
        if min(features.shape[2:]) + 2 * padding < kernel:
            raise InputError(
                f"{self.map} has {features.shape[2]} x {features.shape[3]} cells, too few for a pooling of {kernel}; "
                "use larger images (size), a smaller kernel, or pool: null"
            )
        return F.avg_pool2d(features, kernel, stride, padding)


class FeatureSettings(ScoringCut):
    """Frozen features of images.

    Attributes:
        reading: what is read of them.
    """

    reading: Reading = Field(default=Reading())

    def features(self, start: Start, data: Split[ClassSet], seed: int, device: str) -> tuple[Tensor, Tensor]:
        """Features (N, D) float32, on the CPU, of the images to train on and of those to score.

        Raises:
            InputError: weights or images cannot be read, a map is missing or too small, or features are not finite.
        """
        encoder = frozen_encoder(start, (self.reading.map,), data.train.images, self.cut, seed, device)
        train, val = (
            read_features(encoder, part.images, self.reading, self, start, device) for part in (data.train, data.val)
        )
        return train, val


@torch.no_grad()
def read_features(
    encoder: Encoder, images: ImageList, reading: Reading, cut: ScoringCut, start: Start, device: str
) -> Tensor:
    """Features (N, D) float32, on the CPU.

    Raises:
        InputError: as :meth:`FeatureSettings.features`.
    """
    parts = []
    for pixels in scored_batches(images, cut, _BATCH, device):
        inputs = standardise(pixels, start.mean, start.std)
        parts.append(reading.read(read_maps(encoder, inputs, (reading.map,))[reading.map]).flatten(1).cpu())
    found = torch.cat(parts)
    if not found.isfinite().all():
        raise InputError(f"the features of {start.name} are not finite, so there is nothing to compare")
    return found


def scored_batches(images: ImageList, cut: ScoringCut, batch_size: int, device: str) -> Iterator[Tensor]:
    """Images of a list as they are scored, in order: (B, 3, S, S) uint8 on the device.

    Raises:
        InputError: one of them cannot be read.
    """
    loader = DataLoader(ScoredImages(images, cut), batch_size, num_workers=cut.workers, collate_fn=together)
    bar = track(loader, "reading images", console=Console(stderr=True), disable=not sys.stderr.isatty())
    for batch in bar:
        if isinstance(batch, InputError):
            raise batch
        yield batch.to(device)
