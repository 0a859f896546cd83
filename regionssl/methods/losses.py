"""The two losses that all methods are made of, and the measures logged beside them. All take and give float rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(rows: Tensor) -> Tensor:
    """Rows (..., D) divided by ``max(norm, 1e-12)``; half precision is raised to float32 first."""
    if rows.dtype in (torch.float16, torch.bfloat16):
        rows = rows.float()
    return F.normalize(rows, dim=-1, eps=1e-12)


def contrast_logits(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Cosines over the temperature, the positive in column 0.

    Args:
        query, positive: (R, D) unit rows; row r of both is a pair.
        negatives: (M, D) unit rows, shared by all queries.

    Returns:
        (R, 1 + M).
    """
    own = (query * positive).sum(-1, keepdim=True)
    return torch.cat([own, query @ negatives.T], 1) / temperature


def info_nce(logits: Tensor) -> Tensor:
    """InfoNCE per row (R,) of :func:`contrast_logits`: cross-entropy with the positive in column 0."""
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64), reduction="none")


def top1(logits: Tensor) -> Tensor:
    """Whether the positive is the largest logit, per row (R,), as 0 or 1."""
    return (logits.detach().argmax(1) == 0).float()


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
