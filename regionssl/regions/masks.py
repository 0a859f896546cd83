"""Masks from clusters of regions, and their way into a crop (R2O, sections 2.6, 3.1, 4.3 and 4.5), batched.

A *lattice* of region ids (N, G, G) covers each image. It is read on coarser grids of ``cells`` x ``cells`` as bilinear
interpolation of the ids' one-hots would read it, without making those.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import roi_align

from regionssl import geometry
from regionssl.geometry import Crops


def corner_regions(regions: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The four lattice points around the centre of each cell: their regions, and their weights.

    Args:
        regions: (N, G, G) int64.

    Returns:
        (N, 4, cells, cells) int64, and (4, cells, cells) float64, which sums to 1 over the corners.
    """
    low, high, share = geometry.cell_neighbours(regions.shape[-1], cells, regions.device)
    rows = [regions[:, index] for index in (low, high)]
    corners = torch.stack([row[:, :, index] for row in rows for index in (low, high)], 1)
    along = (1 - share, share)
    return corners, torch.stack([y[:, None] * x[None] for y in along for x in along])


def soft_regions(regions: Tensor, slots: int, cells: int) -> Tensor:
    """Share of each cell that belongs to each region: (N, slots, cells, cells) float32 (section 2.6).

    Equal to bilinear interpolation, without antialiasing, of the one-hots of ``regions`` (N, G, G) with values below
    ``slots``.
    """
    corners, weights = corner_regions(regions, cells)
    shares = torch.zeros(len(regions), slots, cells, cells, device=regions.device)
    for corner, weight in zip(corners.unbind(1), weights.float(), strict=True):
        shares.scatter_add_(1, corner[:, None], weight.expand_as(corner)[:, None])
    return shares


def pool_masks(features: Tensor, masks: Tensor, floor: float = 1.0) -> Tensor:
    """Weighted mean of a map under each mask, the total weight taken to be at least ``floor`` cells (equation 3.1).

    Args:
        features: (N, C, h, w); half precision is computed in float32.
        masks: (N, M, h, w) float.

    Returns:
        (N, M, C) float32, or float64 if the features are.
    """
    with torch.autocast(features.device.type, enabled=False):
        values = features if features.dtype == torch.float64 else features.float()
        weights = masks.to(values.dtype).flatten(2)
        sums: Tensor = weights @ values.flatten(2).transpose(1, 2)
        return sums / weights.sum(-1, keepdim=True).clamp(min=floor)


def label_map(labels: Tensor, regions: Tensor, cells: int, border: Literal["largest", "blend"] = "largest") -> Tensor:
    """The cluster of each cell (section 4.3).

    Args:
        labels: (N, S) int64, the cluster of each region; -1 for regions in no cluster.
        regions: (N, G, G) int64 below S.
        border: what happens where regions meet. "largest": the cell goes to the region with the largest share, at a
            tie to the lowest id. "blend" is the release's: label *numbers* are averaged and truncated (quirk Q2).

    Returns:
        (N, cells, cells) int64; -1 where no cluster is.
    """
    corners, weights = corner_regions(regions, cells)
    if border == "largest":
        return _look_up(labels, _largest(corners, weights)[:, None])[:, 0]
    values = _look_up(labels, corners)
    touched = weights > 0
    mean = (values * weights).sum(1)
    blended = (mean + 1e-9).floor().long()  # weights such as 1/7 may add up to a little less than a whole label
    return torch.where(((values < 0) & touched).any(1), -1, blended)


def hard_masks(label_map: Tensor, clusters: int) -> Tensor:
    """One mask per cluster, (N, clusters, n, n) float32 of 0 and 1, from a label map (N, n, n)."""
    return (label_map[:, None] == torch.arange(clusters, device=label_map.device)[:, None, None]).float()


def masks_in_crop(masks: Tensor, crops: Crops, whole: Crops, side: int, aligned: bool = False) -> Tensor:
    """Masks over whole images, seen through a crop of each (section 4.5): RoIAlign with the crop box, then the mirror.

    Args:
        masks: (N, M, n, n) float32.
        crops: the crop of each image.
        whole: the whole-image view.
        side: cells per side of the crop's feature map.
        aligned: whether cell i is centred on i + 0.5; the release takes i (quirk Q8).

    Returns:
        (N, M, side, side) float32.
    """
    boxes = geometry.on_lattice(crops, whole, masks.shape[-1]).to(masks)
    image = torch.arange(len(boxes), device=masks.device, dtype=masks.dtype)[:, None]
    with torch.autocast(masks.device.type, enabled=False):
        seen: Tensor = roi_align(masks, torch.cat([image, boxes], 1), (side, side), 1.0, -1, aligned)
    return torch.where(crops.flip[:, None, None, None], seen.flip(-1), seen)


def _largest(corners: Tensor, weights: Tensor) -> Tensor:
    """The region (N, n, n) with the largest share of each cell; the lowest id at a tie."""
    same = corners[:, :, None] == corners[:, None]
    share = (same * weights).sum(2)
    tied = share >= share.amax(1, keepdim=True) - 1e-9
    return torch.where(tied, corners, torch.iinfo(corners.dtype).max).amin(1)


def _look_up(labels: Tensor, regions: Tensor) -> Tensor:
    """The label of each region: labels (N, S), regions (N, c, n, n) -> (N, c, n, n)."""
    return labels.gather(1, regions.flatten(1)).view_as(regions)
