"""The two losses that all methods are made of, and the measures logged beside them. All take and give float rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_AT_ONCE = 1 << 22
"""Logits that live at once, 16 MiB in float32: ReSim's P3 would have 44 million in each group of 32 images."""


def unit(rows: Tensor) -> Tensor:
    """Rows (..., D) divided by ``max(norm, 1e-12)``; half precision is raised to float32 first."""
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    return F.normalize(rows, dim=-1, eps=1e-12)


def info_nce(
    query: Tensor, positive: Tensor, negatives: Tensor, temperature: float, limit: int = LOGITS_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """InfoNCE of each query: cross-entropy of its positive among its positive and the negatives, by cosine.

    The logits exist ``limit`` at a time, in the forward pass only: the gradient of a query does not depend on other
    queries, so it is made along with the loss. None flows to positives and negatives, which are keys.

    Args:
        query, positive: (..., R, D) unit rows; row r of both is a pair.
        negatives: (..., M, D) unit rows, shared by the queries of the same leading index.

    Returns:
        (..., R) losses; and (..., R), 1 where no negative is more alike than the positive, else 0.
    """
    losses, hits = _InfoNce.apply(
        query.flatten(0, -3) if query.dim() > 2 else query[None],
        positive.detach().reshape(-1, *query.shape[-2:]),
        negatives.detach().reshape(-1, *negatives.shape[-2:]),
        temperature,
        limit,
    )
    return losses.view(query.shape[:-1]), hits.view(query.shape[:-1])


class _InfoNce(torch.autograd.Function):
    """:func:`info_nce` for (G, R, D) and (G, M, D)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, positive: Tensor, negatives: Tensor, temperature: float, limit: int
    ) -> tuple[Tensor, Tensor]:
        losses, hits = query.new_empty(query.shape[:2]), query.new_empty(query.shape[:2])
        gradient = torch.empty_like(query) if ctx.needs_input_grad[0] else None
        for block in blocks(query.shape[0], query.shape[1], negatives.shape[1], limit):
            own = (query[block] * positive[block]).sum(-1, keepdim=True).div_(temperature)
            others = negatives[block[0]]
            logits = (query[block] @ others.mT).div_(temperature)
            nearest = logits.amax(-1, keepdim=True)
            largest = torch.maximum(own, nearest)
            weights = logits.sub_(largest).exp_()
            own_weight = (own - largest).exp()
            total = weights.sum(-1, keepdim=True) + own_weight
            losses[block] = (total.log() - (own - largest))[..., 0]
            hits[block] = (own >= nearest)[..., 0].to(hits.dtype)
            if gradient is not None:
                pull = (weights @ others).div_(total) + (own_weight / total - 1) * positive[block]
                gradient[block] = pull / temperature
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        return upstream[0][..., None] * ctx.saved_tensors[0], None, None, None, None


def blocks(groups: int, rows: int, columns: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Groups and rows whose matrices (rows, columns) have at most ``limit`` elements together, if that can be."""
    together = max(1, limit // max(1, rows * columns))
    height = rows if rows * columns <= limit else max(1, limit // columns)
    for group in range(0, groups, together):
        for row in range(0, rows, max(1, height)):
            yield slice(group, group + together), slice(row, row + height)


def regression(prediction: Tensor, target: Tensor) -> Tensor:
    """BYOL's distance ``2 - 2 cos`` per row, in [0, 4], of rows (..., D)."""
    return 2 - 2 * (unit(prediction) * unit(target)).sum(-1)


@torch.no_grad()
def feature_std(rows: Tensor) -> Tensor:
    """Standard deviation of unit rows (R, D), averaged over dimensions, times sqrt(D).

    Near 1 when the rows spread over the sphere, 0 when they have collapsed to one point.
    """
    rows = unit(rows)
    return rows.std(0, unbiased=False).mean() * rows.shape[-1] ** 0.5
