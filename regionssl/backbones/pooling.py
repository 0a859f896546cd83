"""From feature maps and boxes to one vector per box."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from regionssl.geometry import to_cells


def precise_roi_pool(features: Tensor, boxes: Tensor, stride: float) -> Tensor:
    """Exact mean of the bilinear surface of a map over each box (ReSim specification, 3.3).

    The surface passes through the value of cell (row i, column j) at coordinate (i, j), without half a cell's shift,
    as in the release, and is zero outside the map; the divisor is the full area of the box. A box of zero or negative
    extent gives zeros and no gradient.

    Args:
        features: (N, C, h, w); half precision is computed in float32.
        boxes: (N, K, 4) x0, y0, x1, y1 in view pixels; no gradient flows to them.
        stride: view pixels per cell.

    Returns:
        (N, K, C), dtype of ``features``.
    """
    return precise_roi_bins(features, boxes, stride, (1, 1))[..., 0, 0]


def precise_roi_bins(features: Tensor, boxes: Tensor, stride: float, bins: tuple[int, int]) -> Tensor:
    """:func:`precise_roi_pool` over each of the equal ``bins`` (rows, columns) of a box: (N, K, C, rows, columns).

    The mean separates into one weight per row and one per column of the map, so it is a matrix product. Weights are
    differences of nearly equal numbers for small boxes, hence made in float64.
    """
    with torch.autocast(features.device.type, enabled=False):
        values = _at_least_float32(features)
        x0, y0, x1, y1 = to_cells(boxes.detach().double(), stride).unbind(-1)
        down = _axis_weights(y0, y1, features.shape[2], bins[0]).to(values.dtype)
        across = _axis_weights(x0, x1, features.shape[3], bins[1]).to(values.dtype)
        weights = torch.einsum("nkri,nkcj->nkrcij", down, across)
        pooled: Tensor = weights.flatten(4).flatten(1, 3) @ values.flatten(2).transpose(1, 2)
        return pooled.reshape(*weights.shape[:4], features.shape[1]).movedim(-1, 2).to(features.dtype)


def roi_align_pool(features: Tensor, boxes: Tensor, stride: float, aligned: bool = False) -> Tensor:
    """torchvision's RoIAlign to 1x1 with as many samples as a box has cells (SCRL specification, 3).

    Args:
        features: (N, C, h, w); half precision is computed in float32.
        boxes: (N, K, 4) x0, y0, x1, y1 in view pixels.
        stride: view pixels per cell.
        aligned: whether cell i is centred on i + 0.5, as in later detectors; SCRL's release takes i.

    Returns:
        (N, K, C), dtype of ``features``.
    """
    with torch.autocast(features.device.type, enabled=False):
        values = _at_least_float32(features)
        cells = to_cells(boxes.detach().to(values.dtype), stride)
        image = torch.arange(len(cells), device=cells.device, dtype=cells.dtype)[:, None, None].expand(
            -1, cells.shape[1], 1
        )
        rois = torch.cat([image, cells], -1).flatten(0, 1)
        pooled: Tensor = roi_align(values, rois, (1, 1), spatial_scale=1.0, sampling_ratio=-1, aligned=aligned)
        return pooled.reshape(*boxes.shape[:2], features.shape[1]).to(features.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _axis_weights(start: Tensor, end: Tensor, cells: int, bins: int) -> Tensor:
    """Weight of each cell of an axis in the mean over each bin of [start, end] (N, K): (N, K, bins, cells)."""
    extent = (end - start).clamp(min=0)[..., None]
    steps = torch.arange(bins + 1, device=start.device, dtype=start.dtype) / bins
    edges = start[..., None] + extent * steps
    centres = torch.arange(cells, device=start.device, dtype=start.dtype)
    below = _tent_integral(edges[..., None] - centres)
    width = extent[..., None] / bins
    weights = (below[..., 1:, :] - below[..., :-1, :]) / torch.where(width > 0, width, 1)
    return torch.where(width > 0, weights, 0)


def _tent_integral(z: Tensor) -> Tensor:
    """Integral of max(0, 1 - |t|) from minus infinity to ``z``."""
    z = z.clamp(-1, 1)
    return torch.where(z < 0, (1 + z) ** 2 / 2, 1 - (1 - z) ** 2 / 2)
