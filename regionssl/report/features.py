"""The figure of what networks tell apart: their feature maps, with the three main directions as red, green and blue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from regionssl.report.drawing import INK, LINE, MUTED, SMALL, TEXT, Canvas, Panel, fit, shorten, text_width

_SIDE, _GAP, _MARGIN, _TITLE = 232, 10, 28, 36


def feature_maps_figure(images: Sequence[Image.Image], rows: Mapping[str, Tensor], title: str = "") -> Image.Image:
    """A column per image; on top the images, below a labelled row per network.

    Args:
        images: N RGB images that the networks saw whole.
        rows: label -> feature maps (N, C, h, w), any float type; each row has its own directions and colours.
    """
    pictures = [fit(image.convert("RGB"), _SIDE, _SIDE)[0] for image in images]
    tall = max(picture.height for picture in pictures)
    label = max(text_width(shorten(name, _SIDE, TEXT), TEXT) for name in ["images", *rows])
    left = _MARGIN + round(label) + 2 * _GAP
    top = _MARGIN + (_TITLE if title else 0)
    canvas = Canvas(
        left + len(images) * (_SIDE + _GAP) + _MARGIN - _GAP, top + (1 + len(rows)) * (tall + _GAP) + _MARGIN - _GAP
    )
    if title:
        canvas.write(_MARGIN, _MARGIN, shorten(title, canvas.image.width - 2 * _MARGIN, TEXT + 4), TEXT + 4)
    _draw_row(canvas, left, top, tall, "images", pictures, pictures)
    for number, (name, features) in enumerate(rows.items(), 1):
        colours = [Image.fromarray(tile.permute(1, 2, 0).contiguous().numpy()) for tile in pca_colours(features)]
        _draw_row(canvas, left, top + number * (tall + _GAP), tall, name, colours, pictures, tuple(features.shape[-2:]))
    return canvas.image


def _draw_row(
    canvas: Canvas,
    left: int,
    top: int,
    tall: int,
    name: str,
    tiles: Sequence[Image.Image],
    pictures: Sequence[Image.Image],
    cells: tuple[int, ...] | None = None,
) -> None:
    """One row of tiles, each as large as its picture, under a label that tells the number of cells."""
    canvas.write(_MARGIN, top + tall / 2, shorten(name, _SIDE, TEXT), TEXT, INK)
    if cells:
        canvas.write(_MARGIN, top + tall / 2 + 22, f"{cells[0]} x {cells[1]} cells", SMALL, MUTED)
    for column, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
        panel = Panel(left + column * (_SIDE + _GAP), top, picture.width, picture.height, 1.0)
        canvas.paste(tile, panel)
        canvas.outline(panel.edges, LINE, 1, halo=False)


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
