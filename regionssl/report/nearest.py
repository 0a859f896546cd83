"""Which regions of other images have the features nearest to those of a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from regionssl.report.strips import Strip, Tile


@dataclass(frozen=True)
class Neighbours:
    """The nearest regions of each of Q regions, best first.

    Attributes:
        image, region: (Q, K) int64, positions of the images and of the regions within them.
        similarity: (Q, K) float64, cosine.
    """

    image: Tensor
    region: Tensor
    similarity: Tensor


def spread_regions(boxes_per_side: int, size: int) -> Tensor:
    """Square boxes (K, 4) float64 over a picture of ``size``: a lattice of boxes of a third of its side."""
    extent = size / 3
    start = torch.linspace(0, size - extent, boxes_per_side, dtype=torch.float64)
    y, x = torch.meshgrid(start, start, indexing="ij")
    return torch.stack([x, y, x + extent, y + extent], -1).flatten(0, 1)


def most_unlike(features: Tensor, images: Sequence[int]) -> list[tuple[int, int]]:
    """Of each of these images the region that differs most from the mean region of all images.

    Args:
        features: (N, K, C) float.

    Returns:
        (image, region) pairs.
    """
    distance = (features - features.mean((0, 1))).norm(dim=2)
    return [(image, int(distance[image].argmax())) for image in images]


def nearest_regions(features: Tensor, queries: Sequence[tuple[int, int]], count: int) -> Neighbours:
    """The regions nearest to the queries, at most one of each other image, none of the query's own.

    Args:
        features: (N, K, C) float, N at least 2; compared by their cosine once the mean of all is taken away.
        queries: (image, region) pairs.
    """
    features = features.double()
    rows = torch.nn.functional.normalize(features - features.mean((0, 1)), dim=2, eps=1e-12)
    image, region = (torch.tensor(part) for part in zip(*queries, strict=True))
    similarity = torch.einsum("qc,nkc->qnk", rows[image, region], rows)
    best, place = similarity.max(2)
    best = best.scatter(1, image[:, None], -torch.inf)
    values, images = best.topk(min(count, features.shape[0] - 1))
    return Neighbours(images, place.gather(1, images), values)


def nearest_strips(
    pictures: Sequence[Image.Image],
    names: Sequence[str],
    boxes: Tensor,
    queries: Sequence[tuple[int, int]],
    networks: Mapping[str, Neighbours],
) -> list[Strip]:
    """A strip for each query and network: the region, then the nearest ones.

    Args:
        pictures: N RGB images in whose pixels the ``boxes`` (K, 4) are.
        networks: label -> neighbours of the queries.
    """

    def patch(image: int, region: int) -> Image.Image:
        x0, y0, x1, _ = boxes[region].tolist()
        left, top, side = round(x0), round(y0), round(x1 - x0)
        return pictures[image].convert("RGB").crop((left, top, left + side, top + side))

    strips = []
    for number, (image, region) in enumerate(queries):
        for label, found in networks.items():
            tiles = [Tile(patch(image, region), "region", f"region of {names[image]}")]
            ranks = zip(found.image[number].tolist(), found.region[number].tolist(), strict=True)
            for (other, place), value in zip(ranks, found.similarity[number].tolist(), strict=True):
                tiles.append(Tile(patch(other, place), f"{value:.2f}", f"region of {names[other]}, cosine {value:.2f}"))
            strips.append(Strip(f"{names[image]}, nearest by {label}", tiles))
    return strips
