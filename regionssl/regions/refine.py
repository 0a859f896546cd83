"""From regions to masks: regions with alike features, in a group of images, become one mask (R2O, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from regionssl.config import Config
from regionssl.regions.clusters import k_means
from regionssl.regions.masks import hard_masks, label_map, pool_masks, soft_regions

_LATTICE_PER_CELL = 4  # a lattice of 224 x 224 becomes a mask map of 56 x 56 cells


class RefineConfig(Config):
    """What happens where R2O's release is odd; each second value is the release's.

    Attributes:
        empty: "keep" the centre of a cluster that has lost its rows, or let it turn "nan" and take every row (Q5).
        border: a cell between regions goes to the "largest" one, or is a "blend" of label numbers (Q2).
        zero_rows: regions that no cell of the features sees take part in k-means, and so does the padding of images
            with fewer regions than others of their group (Q4). Otherwise they are in no cluster and no mask.
    """

    empty: Literal["keep", "nan"] = "keep"
    border: Literal["largest", "blend"] = "largest"
    zero_rows: bool = True


@dataclass(frozen=True)
class Refined:
    """Masks over whole images.

    Attributes:
        masks: (N, K, cells, cells) float32.
        labels: (N, S) int64, the cluster of each region; -1 for none.
        filled: (groups,) int64, clusters that have regions.
    """

    masks: Tensor
    labels: Tensor
    filled: Tensor


def refine(
    config: RefineConfig, features: Tensor, regions: Tensor, slots: int, clusters: int, draws: Tensor
) -> Refined:
    """Cluster the regions of each group of images and unite them (sections 4.1 to 4.3).

    Args:
        features: (N, C, h, w) maps of the whole images.
        regions: (N, G, G) int64 labels below ``slots``; those of one image have nothing to do with another's.
        clusters: K.
        draws: (groups, *draws_shape(K)) in [0, 1); their number tells the groups, which are consecutive images.
    """
    rows, used = region_rows(features, regions, slots)
    grouped = rows.reshape(len(draws), -1, rows.shape[-1])
    if config.zero_rows:
        largest = regions.view(len(draws), -1).amax(1)
        padded = torch.arange(slots, device=regions.device) > largest[:, None]
        used = ~padded.repeat_interleave(len(regions) // len(draws), 0)
    labels = k_means(grouped, clusters, draws, used.view(len(draws), -1), config.empty).labels
    numbers = torch.arange(clusters, device=labels.device)
    filled = (labels[..., None] == numbers).any(1).sum(1)
    labels = labels.view(len(regions), slots)
    mapped = label_map(labels, regions, mask_cells(regions), config.border)
    return Refined(hard_masks(mapped, clusters), labels, filled)


def region_rows(features: Tensor, regions: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """The mean feature of each region, of unit length (N, slots, C), and whether it has any (N, slots)."""
    shares = soft_regions(regions, slots, features.shape[-1])
    return F.normalize(pool_masks(features, shares), dim=-1, eps=1e-12), shares.sum((2, 3)) > 0


def mask_cells(regions: Tensor) -> int:
    """Side of the mask map over lattices (N, G, G)."""
    return max(1, regions.shape[-1] // _LATTICE_PER_CELL)


def compact_labels(regions: Tensor) -> Tensor:
    """Labels (N, G, G) int64 numbered anew within each image, 0, 1, ... in their order."""
    ordered, place = regions.flatten(1).sort(1)
    steps = F.pad((ordered[:, 1:] != ordered[:, :-1]).long(), (1, 0))
    return torch.empty_like(ordered).scatter_(1, place, steps.cumsum(1)).view_as(regions)
