"""The figure of what networks tell apart: their feature maps, with the three main directions as red, green and blue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from regionssl.report.tiles import Row, cells, tiles_figure


def feature_maps_figure(images: Sequence[Image.Image], rows: Mapping[str, Tensor], title: str = "") -> Image.Image:
    """A column per image; on top the images, below a labelled row per network.

    Args:
        images: N RGB images that the networks saw whole.
        rows: label -> feature maps (N, C, h, w), any float type; each row has its own directions and colours.
    """
    return tiles_figure(images, feature_rows(rows), title)


def feature_rows(rows: Mapping[str, Tensor]) -> dict[str, Row]:
    """The rows of :func:`feature_maps_figure`; a pixel of a tile is a cell of a map."""
    return {
        name: Row(
            [Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy()) for tile in pca_colours(maps)], cells(maps)
        )
        for name, maps in rows.items()
    }


def pca_colours(features: Tensor) -> Tensor:
    """The three main directions of feature maps as colours.

    The directions are those of all positions of all maps together; each is scaled so that its 2nd and 98th percentile
    become black and full, and points to where it is skewed: it does not matter how channels are mirrored or mixed.

    Args:
        features: (N, C, h, w), any float type.

    Returns:
        (N, 3, h, w) uint8; a direction in which nothing varies is mid grey.
    """
    count, channels, height, width = features.shape
    points = features.detach().double().cpu().permute(0, 2, 3, 1).reshape(-1, channels)
    points = points - points.mean(0)
    variances, directions = torch.linalg.eigh(points.T @ points)
    used = directions[:, -3:].flip(1)
    used[:, variances[-3:].flip(0) <= 1e-10 * variances[-1].clamp(min=1e-300)] = 0
    values = points @ used
    values = values * torch.where((values**3).sum(0) < 0, -1.0, 1.0)
    low, high = torch.quantile(values, torch.tensor([0.02, 0.98], dtype=values.dtype), dim=0)
    extent = high - low
    scaled = torch.where(extent > 0, (values - low) / torch.where(extent > 0, extent, 1.0), 0.5).clamp(0, 1)
    scaled = torch.cat([scaled, scaled.new_full((len(scaled), 3 - scaled.shape[1]), 0.5)], 1)
    return (scaled * 255).round().to(torch.uint8).reshape(count, height, width, 3).permute(0, 3, 1, 2)
