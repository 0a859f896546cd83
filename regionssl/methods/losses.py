"""The two losses that all methods are made of, and the measures logged beside them. All take and give float rows."""

from __future__ import annotations

import math
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


@torch.no_grad()
def pair_measures(
    kind: str,
    online: Tensor,
    target: Tensor,
    share: float | Tensor,
    valid: Tensor | None = None,
    twin: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a run's health is judged by, of paired features; docs/health.md says what each means.

    Args:
        kind: what the rows are features of, such as "image" or "boxes"; part of the measures' names.
        online, target: (n, r, D), r rows of each of n images; row j of image i is a pair.
        share: of the batch that these images are; the measures of its parts add up.
        valid: (n, r), rows that count; None for all.
        twin: (n, r, D), what the target makes of the view that the online rows are of.

    Returns:
        Scalars ``health/KIND_...``: ``online_std`` and ``target_std`` (:func:`feature_std`), ``online_rank`` and
        ``target_rank`` (:func:`_spread`), ``positive`` and ``negative``: the mean cosine of a pair, and of online rows
        with the target's row of that number in other images; ``elsewhere``, if r > 1, with its other rows of the same
        image; of a twin also ``slow_positive``, ``slow_negative``, ``slow_elsewhere``: of its rows with the target's.
    """
    with torch.autocast(online.device.type, enabled=False):
        online, target = unit(online), unit(target)
        weight = online.new_ones(online.shape[:2]) if valid is None else valid.to(online.dtype)
        weight = weight / weight.sum().clamp(min=1)
        measures = _similarities(online, target, weight)
        if twin is not None:
            alike = _similarities(unit(twin), target, weight)
            measures |= {f"slow_{name}": value for name, value in alike.items()}
        for side, rows in (("online", online), ("target", target)):
            measures[f"{side}_std"], measures[f"{side}_rank"] = _spread(rows.flatten(0, 1), weight.flatten())
        return {f"health/{kind}_{name}": value * share for name, value in measures.items()}


def _similarities(first: Tensor, second: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Mean cosines of unit rows (n, r, D), under weights (n, r) of sum 1; see :func:`pair_measures`."""
    own = weight * (first * second).sum(-1)
    weighted = [weight[..., None] * rows for rows in (first, second)]
    itself, squares = (weight * own).sum(), weight.square().sum()

    def others(dim: int) -> Tensor:
        """The mean over pairs of different rows along a dimension."""
        together = (weighted[0].sum(dim) * weighted[1].sum(dim)).sum()
        return (together - itself) / (weight.sum(dim).square().sum() - squares).clamp(min=1e-9)

    similarities = {"positive": own.sum(), "negative": others(0)}
    return similarities | ({"elsewhere": others(1)} if first.shape[1] > 1 else {})


def _spread(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`feature_std` of unit rows (R, D) under weights (R,) of sum 1, and their effective rank.

    The rank is the participation ratio ``(tr C)^2 / tr(C^2)`` of the covariance C: d if d directions vary alike, at
    most D and R - 1.
    """
    centred = (rows - (weight[:, None] * rows).sum(0)) * weight[:, None].sqrt()
    variance = centred.square().sum(0)
    product = centred.T @ centred if len(rows) > rows.shape[-1] else centred @ centred.T
    rank = variance.sum().square() / product.square().sum().clamp(min=1e-30)
    return variance.sqrt().mean() * rows.shape[-1] ** 0.5, rank


def chance_measure(term: str, candidates: int, like: Tensor, share: float) -> dict[str, Tensor]:
    """``health/TERM_chance``: the cross-entropy of a blind guess among ``candidates``, for this share of the batch."""
    return {f"health/{term}_chance": like.new_full((), share * math.log(candidates))}


@torch.no_grad()
def assignment_entropy(masses: Tensor) -> Tensor:
    """Entropy () of how much is assigned to each of K choices, masses (..., K) >= 0: 1 if alike, 0 if all to one.

    It is the mean over the leading dimensions.
    """
    shares = masses / masses.sum(-1, keepdim=True).clamp(min=1e-12)
    return torch.special.entr(shares).sum(-1).mean() / math.log(max(masses.shape[-1], 2))
