"""BYOL per mask: the branch that makes one row per mask, and how much each mask counts (R2O, sections 3 and 5)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from regionssl.backbones.encoder import Encoder
from regionssl.methods.byol import Branch, ByolConfig
from regionssl.regions.masks import pool_masks

LEAST_WEIGHT = 1e-3
"""Cells; a mask with less in either crop is not valid (section 5, step 5)."""


class MaskBranch(Branch):
    """Encoder, mask pooling and heads: one row per mask instead of one per image.

    Attributes:
        area_floor: least total weight, in cells, that a mean over a mask divides by.
        head_rows: whether rows of masks that are not valid pass the heads and enter their batch statistics.
        synchronised: whether batch statistics are those of all processes; those of no rows exist only then.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: ByolConfig,
        *,
        predicts: bool,
        area_floor: float,
        head_rows: Literal["all", "valid"],
        synchronised: bool,
    ) -> None:
        super().__init__(encoder, config, predicts=predicts)
        self.dim = config.dim
        self.area_floor = area_floor
        self.head_rows = head_rows
        self.synchronised = synchronised

    def forward(self, views: Tensor, masks: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]
        """Views (n, V, 3, S, S), masks (n, V, K, h, w) on c5's cells, valid (n, K) -> (n, V, K, dim)."""
        features = self.encoder(views.flatten(0, 1))["c5"]
        rows = pool_masks(features, masks.flatten(0, 1), self.area_floor).unflatten(0, views.shape[:2])
        if self.head_rows == "all":
            return self.head(rows.flatten(0, 2)).unflatten(0, rows.shape[:3])
        chosen = valid[:, None].expand(rows.shape[:3])
        outputs = rows.new_zeros(*rows.shape[:3], self.dim)
        if self.synchronised or bool(chosen.any()):
            outputs[chosen] = self.head(rows[chosen]).to(outputs.dtype)
        return outputs


def valid_masks(areas: Tensor) -> Tensor:
    """Which masks both crops see, (n, K) bool, from their total weights (n, 2, K) in cells."""
    return (areas > LEAST_WEIGHT).all(1)


def mask_weights(areas: Tensor, groups: int, indicator: bool = True, by_area: bool = False) -> Tensor:
    """The weight of each mask in the loss, for the sum of both directions' distances (equation 5.1).

    The loss is the mean over groups of each group's weighted mean over images, masks and both directions.

    Args:
        areas: (n, 2, K) total weight of the masks in cells.
        groups: number of equal groups of consecutive images.
        indicator: only valid masks count.
        by_area: masks count as their area, the mean over both crops, instead of 1.

    Returns:
        (n, K) float32; a group in which no mask counts has zeros.
    """
    weights = areas.mean(1) if by_area else torch.ones_like(areas[:, 0])
    if indicator:
        weights = weights * valid_masks(areas)
    grouped = weights.view(groups, -1)
    totals = grouped.sum(1, keepdim=True)
    return torch.where(totals > 0, grouped / (2 * groups * totals), 0).view_as(weights)
