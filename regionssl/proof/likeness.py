"""Images that are alike to a pre-trained network: its pooled c5 features, put on one scale.

Features of one network all point much the same way, and a raw cosine says little. So their mean is taken away and their
main directions are given equal spread, over all images at hand; images that have nothing to do with each other then lie
at right angles.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regionssl.backbones.encoder import Encoder, pool
from regionssl.data.decode import UnreadableImage
from regionssl.data.image_list import ImageList
from regionssl.evaluation.inputs import standardise
from regionssl.evaluation.start import Start

COSINE = 0.95
MOST_ON_CPU = 4000
"""Images for which the features are worth their time on a CPU."""
LEAST = 256
"""Images below which there are too few to tell what is alike."""
_SIDE, _BATCH, _DIRECTIONS = 64, 64, 64


@torch.no_grad()
def pooled_features(start: Start, images: ImageList, device: str) -> np.ndarray:
    """(N, C) float32: c5 of the images squashed to 64 x 64, averaged; nan for images that cannot be read."""
    encoder = start.encoder(("c5",)).to(device).eval()
    rows = []
    for first in range(0, len(images), _BATCH):
        positions = range(first, min(first + _BATCH, len(images)))
        rows.append(_features(encoder, start, [_squashed(images, i) for i in positions], device))
    return np.concatenate(rows) if rows else np.zeros((0, encoder.channels["c5"]), np.float32)


def _features(encoder: Encoder, start: Start, pictures: list[Tensor | None], device: str) -> np.ndarray:
    empty = torch.zeros(3, _SIDE, _SIDE, dtype=torch.uint8)
    batch = torch.stack([empty if picture is None else picture for picture in pictures]).to(device)
    features = pool(encoder(standardise(batch, start.mean, start.std))["c5"]).float().cpu()
    features[[picture is None for picture in pictures]] = torch.nan
    return features.numpy()


def _squashed(images: ImageList, i: int) -> Tensor | None:
    try:
        image = images.load(i).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    except UnreadableImage:
        return None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def standardised_features(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features (N, C) of each split as rows (N, D) of unit length on one scale; zeros for nan.

    D is 64, or less where there are fewer channels.
    """
    known = np.concatenate(list(features.values())).astype(np.float64)
    known = known[np.isfinite(known).all(1)]
    centre = known.mean(0)
    _, spread, directions = np.linalg.svd(known - centre, full_matrices=False)
    count = min(_DIRECTIONS, int((spread > 1e-6 * spread[0]).sum()))
    basis = directions[:count].T / spread[:count]

    def unit(rows: np.ndarray) -> np.ndarray:
        turned = np.nan_to_num((rows - centre) @ basis)
        return turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)

    return {split: unit(rows) for split, rows in features.items()}
