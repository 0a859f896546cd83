"""Losses of dense pose: the body on every cell of a region, parts and charts at the annotated points alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from regionssl import geometry
from regionssl.evaluation.densepose.annotations import SIDE
from regionssl.evaluation.densepose.head import DenseOutput


@dataclass(frozen=True)
class RegionTargets:
    """What R regions should show.

    Attributes:
        body: (R, S, S) int64, coarse part of each cell.
        grid: (R, P, 2) float32, places of the points in the region, from -1 to 1; P is the largest number of points.
        part: (R, P) int64, 1 to 24; 0 for places that are filled up or lie outside the region.
        uv: (R, P, 2) float32.
    """

    body: Tensor
    grid: Tensor
    part: Tensor
    uv: Tensor


def region_targets(
    regions: Tensor, persons: Tensor, boxes: Tensor, target: Mapping[str, Tensor], side: int, coarse: int
) -> RegionTargets:
    """Carry the annotations of persons of one image to regions.

    Args:
        regions: (R, 4), and persons: (R,) int64, the annotated person that each stands for.
        boxes: (N, 4) of all persons, the same frame.
        target: ``dense_body`` (N, 256, 256) uint8, ``dense_places`` (N, P, 2) in shares of the box, ``dense_part``
            (N, P) int64, 0 to fill up, and ``dense_uv`` (N, P, 2).
        side: cells of a region along each axis.
        coarse: 2 or 15 classes of the body.
    """
    own = boxes[persons]
    centres = geometry.bin_centres(regions, side)[0]  # (R, 2, side)
    cells = torch.floor((centres - own[:, :2, None]) / _extent(own)[:, :, None] * SIDE).long()
    within = (cells >= 0) & (cells < SIDE)
    column, row = cells.clamp(0, SIDE - 1).unbind(1)
    body = target["dense_body"][persons[:, None, None], row[:, :, None], column[:, None, :]].long()
    body = body.clamp(max=coarse - 1) * (within[:, 1, :, None] & within[:, 0, None, :])
    places = own[:, None, :2] + target["dense_places"][persons] * _extent(own)[:, None]
    grid = 2 * (places - regions[:, None, :2]) / _extent(regions)[:, None] - 1
    part = target["dense_part"][persons] * (grid.abs() <= 1).all(-1)
    return RegionTargets(body, grid, part, target["dense_uv"][persons])


def dense_pose_losses(
    output: DenseOutput, targets: RegionTargets, body: float, part: float, uv: float
) -> dict[str, Tensor]:
    """The four losses, weighted.

    Cross-entropy of the body is a mean over cells, that of parts a mean over points, smooth L1 of u and of v on the
    true part's chart a sum over points. Without regions or points a loss is a zero that has a gradient.
    """
    known = targets.part > 0
    zero = torch.stack([one.float().sum() for one in (output.body, output.part, output.u, output.v)]).sum() * 0.0
    losses = dict.fromkeys(("loss_body", "loss_part", "loss_u", "loss_v"), zero)
    if len(targets.body):
        losses["loss_body"] = body * F.cross_entropy(output.body.float(), targets.body)
    if not known.any():
        return losses
    scores = _read(output.part, targets.grid)
    losses["loss_part"] = part * F.cross_entropy(scores, torch.where(known, targets.part, -1), ignore_index=-1)
    own = (targets.part - 1).clamp(min=0)[:, None]
    for axis, (name, chart) in enumerate({"loss_u": output.u, "loss_v": output.v}.items()):
        estimate = torch.gather(_read(chart, targets.grid), 1, own)[:, 0]
        error = F.smooth_l1_loss(estimate, targets.uv[..., axis], reduction="none")
        losses[name] = uv * (error * known).sum()
    return losses


def _read(maps: Tensor, grid: Tensor) -> Tensor:
    """Maps (R, C, S, S) at places (R, P, 2) from -1 to 1, bilinearly between cell centres: (R, C, P) float32."""
    read = F.grid_sample(maps.float(), grid[:, None], padding_mode="border", align_corners=False)
    return read[:, :, 0]


def _extent(boxes: Tensor) -> Tensor:
    """Width and height (R, 2) of boxes, pixels; not below a thousandth."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3)
