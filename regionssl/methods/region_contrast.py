"""Contrast of points by the regions that they lie in (PLRC, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from regionssl.methods.losses import LOGITS_AT_ONCE
from regionssl.regions.points import RegionPoints


@dataclass(frozen=True)
class PointLabels:
    """Whose the points are.

    Attributes:
        image, region, view: (M,) int64; views are 0 (query) and 1 (key).
    """

    image: Tensor
    region: Tensor
    view: Tensor


def contrast_drawn_points(
    points: Tensor, drawn: RegionPoints, temperature: float, intra_image: bool, cross: bool
) -> Tensor:
    """The mean of :func:`region_contrast` over the anchors of some images; 0 if none is valid.

    Anchors are the points of the region that both views show, in images where there is one; with ``cross`` those of the
    query view alone.

    Args:
        points: (n, 2, S, P, D) unit rows, of the points of ``drawn``.
    """
    shape, device = drawn.cells.shape, points.device
    image = torch.arange(shape[0], device=device).view(-1, 1, 1, 1).expand(shape).flatten()
    view = torch.arange(2, device=device).view(1, 2, 1, 1).expand(shape).flatten()
    region = drawn.regions[..., None].expand(shape).flatten()
    anchors = torch.arange(len(image), device=device).view(shape)[:, : 1 if cross else 2, 0].flatten()
    labels = PointLabels(image, region, view)
    losses, found = region_contrast(points.flatten(0, 3), labels, anchors, temperature, intra_image, cross)
    used = found & drawn.valid[image[anchors]]
    return torch.where(used, losses, 0).sum() / used.sum().clamp(min=1)


def region_contrast(
    points: Tensor,
    labels: PointLabels,
    anchors: Tensor,
    temperature: float,
    intra_image: bool,
    cross: bool,
    limit: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """The loss l_i of each anchor: its region's points against all that it may be told from (PLRC, 4.2).

    Args:
        points: (M, D) unit rows.
        anchors: (K,) int64, rows that are anchors.
        intra_image: whether points of other regions of the same image are negatives too.
        cross: whether anchors are held against key points alone.
        limit: if there are more similarities, they are made in blocks, and once more in the backward pass.

    Returns:
        (K,) losses, 0 for an anchor without positives, and (K,) bool, whether it has any.
    """
    contrast = partial(_contrast, points, labels, temperature=temperature, intra_image=intra_image, cross=cross)
    parts = anchors.split(max(1, limit // max(1, len(points))))
    if len(parts) <= 1:
        return contrast(anchors)
    outcomes = [checkpoint(contrast, part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    losses, found = (torch.cat(values) for values in zip(*outcomes, strict=True))
    return losses, found


def _contrast(
    points: Tensor, labels: PointLabels, anchors: Tensor, temperature: float, intra_image: bool, cross: bool
) -> tuple[Tensor, Tensor]:
    similarity = points[anchors] @ points.T / temperature
    same_image = labels.image[anchors, None] == labels.image
    same_region = same_image & (labels.region[anchors, None] == labels.region)
    admitted = anchors[:, None] != torch.arange(len(points), device=points.device)
    if not intra_image:
        admitted = admitted & (same_region | ~same_image)
    if cross:
        admitted = admitted & (labels.view == 1)
    positive = same_region & admitted
    count = positive.sum(1)
    # not minus infinity: a row without admitted points would have a gradient of NaN
    partition = similarity.masked_fill(~admitted, torch.finfo(points.dtype).min).logsumexp(1, keepdim=True)
    losses = torch.where(positive, partition - similarity, 0).sum(1) / count.clamp(min=1)
    return losses, count > 0
