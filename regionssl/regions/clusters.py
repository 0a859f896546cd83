"""K-means on a device, for many groups of rows at once (R2O, section 4.2).

Greedy k-means++ (sequential in K by nature), then Lloyd's rounds without a loop over clusters or groups. The draws are
arguments, so equal draws give equal labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

_ROUNDS_BETWEEN_LOOKS = 4


@dataclass(frozen=True)
class Clusters:
    """Clusters of the rows of G groups.

    Attributes:
        labels: (G, R) int64, the cluster of each row within its group; -1 for rows that were left out.
        centres: (G, K, C), dtype of the rows. An empty cluster's is NaN under the rule "nan".
        inertia: (G,) sum over rows of the squared distance to the nearest centre.
        rounds: (G,) int64, assignments made.
    """

    labels: Tensor
    centres: Tensor
    inertia: Tensor
    rounds: Tensor


def candidates_per_centre(clusters: int) -> int:
    """How many candidates greedy k-means++ compares for each centre: 2 + floor(ln K)."""
    return 2 + int(math.log(clusters))


def draws_shape(clusters: int) -> tuple[int]:
    """Shape of one group's uniform draws: one for the first centre, then the candidates of each further one."""
    return (1 + (clusters - 1) * candidates_per_centre(clusters),)


def k_means(
    rows: Tensor,
    clusters: int,
    uniform: Tensor,
    used: Tensor | None = None,
    empty: Literal["keep", "nan"] = "keep",
    rounds: int = 200,
    tolerance: float = 1e-6,
) -> Clusters:
    """Seed by :func:`seed_centres`, then run :func:`lloyd`.

    Args:
        rows: (G, R, C) float.
        clusters: K.
        uniform: (G, *draws_shape(K)) in [0, 1).
        used: (G, R) bool, rows that take part; None for all. Each group needs one.
        empty: what becomes of the centre of a cluster that has lost its rows: it stays where it was, or turns NaN and
            in the next round takes every row, as in R2O's release (quirk Q5).
        rounds: at most so many assignments.
        tolerance: a group is done when its inertia moves by less than this.
    """
    with torch.autocast(rows.device.type, enabled=False):
        used = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device) if used is None else used
        seeds = seed_centres(rows, clusters, uniform, used)
        centres = rows.gather(1, seeds[..., None].expand(-1, -1, rows.shape[2]))
        return lloyd(rows, centres, used, empty, rounds, tolerance)


def seed_centres(rows: Tensor, clusters: int, uniform: Tensor, used: Tensor) -> Tensor:
    """Greedy k-means++: (G, K) int64, positions of the rows that become the first centres.

    The first is drawn uniformly from the used rows. For each further one, L candidates are drawn with probability
    proportional to their squared distance to the nearest centre so far, and the one that lowers the sum of those
    distances most is taken. Arguments as in :func:`k_means`.
    """
    uniform = uniform.to(rows.dtype)
    norms = rows.square().sum(-1)
    rank = used.cumsum(1)
    wanted = torch.minimum((uniform[:, :1] * rank[:, -1:]).long() + 1, rank[:, -1:])
    chosen = [((rank >= wanted) & used).byte().argmax(1)]
    last = (rank == rank[:, -1:]).byte().argmax(1)
    distance = _from_positions(rows, norms, chosen[0][:, None])[:, 0].masked_fill_(~used, 0)
    draws = uniform[:, 1:].unflatten(1, (clusters - 1, -1)).unbind(1) if clusters > 1 else ()
    for draw in draws:
        sums = distance.cumsum(1).masked_fill_(rank == 0, -1)
        reached = torch.searchsorted(sums, draw * distance.sum(1, keepdim=True))
        candidates = torch.where(reached < rows.shape[1], reached, last[:, None])
        left = torch.minimum(distance[:, None], _from_positions(rows, norms, candidates))
        best = left.sum(2).argmin(1, keepdim=True)
        chosen.append(candidates.gather(1, best)[:, 0])
        distance = left.gather(1, best[..., None].expand(-1, -1, rows.shape[1]))[:, 0]
    return torch.stack(chosen, 1)


def lloyd(
    rows: Tensor, centres: Tensor, used: Tensor, empty: Literal["keep", "nan"], rounds: int, tolerance: float
) -> Clusters:
    """Lloyd's rounds from given centres (G, K, C). Arguments as in :func:`k_means`.

    A group that is done keeps its state while others go on; a GPU is looked at every few rounds only.
    """
    between_looks = 1 if rows.device.type == "cpu" else _ROUNDS_BETWEEN_LOOKS
    norms = rows.square().sum(-1)
    active = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    inertia = torch.full_like(norms[:, 0], torch.inf)
    labels = torch.zeros(rows.shape[:2], dtype=torch.int64, device=rows.device)
    count = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for number in range(1, rounds + 1):
        distance, nearest = _squared_distances(rows, norms, centres).min(-1)
        total = torch.where(used, distance, 0).sum(1)
        labels = torch.where(active[:, None], nearest, labels)
        done = (total - inertia).abs() < tolerance
        inertia = torch.where(active, total, inertia)
        count += active
        active = active & ~done
        centres = torch.where(active[:, None, None], _means(rows, nearest, used, centres, empty), centres)
        if number % between_looks == 0 and not active.any():
            break
    return Clusters(torch.where(used, labels, -1), centres, inertia, count)


def _means(rows: Tensor, labels: Tensor, used: Tensor, centres: Tensor, empty: str) -> Tensor:
    """The mean row of each cluster (G, K, C), the same to the last bit every time."""
    total = scattered_sums if rows.device.type == "cpu" else product_sums
    sums, sizes = total(rows, labels, used, centres.shape[1])
    means = sums / sizes
    return means if empty == "nan" else torch.where(sizes > 0, means, centres)


def product_sums(rows: Tensor, labels: Tensor, used: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Sum (G, K, C) and number (G, K, 1) of each cluster's used rows; on a GPU, scattered sums would not repeat."""
    members = F.one_hot(labels, clusters).to(rows.dtype) * used[..., None]
    return members.mT @ rows, members.sum(1)[..., None]


def scattered_sums(rows: Tensor, labels: Tensor, used: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """:func:`product_sums` on the CPU: a sum for each row instead of one for each row and cluster."""
    groups, bins = len(rows), clusters + 1  # the last bin takes the rows that are left out
    places = (torch.where(used, labels, clusters) + bins * torch.arange(groups)[:, None]).flatten()
    sums = rows.new_zeros(groups * bins, rows.shape[2]).index_add_(0, places, rows.flatten(0, 1))
    sizes = places.bincount(minlength=groups * bins)
    return sums.view(groups, bins, -1)[:, :-1], sizes.view(groups, bins, 1)[:, :-1]


def _from_positions(rows: Tensor, norms: Tensor, positions: Tensor) -> Tensor:
    """Squared distances (G, L, R) of those rows at ``positions`` (G, L) to all rows."""
    chosen = rows.gather(1, positions[..., None].expand(-1, -1, rows.shape[2]))
    sums = norms[:, None] + norms.gather(1, positions)[..., None]
    return torch.baddbmm(sums, chosen, rows.mT, alpha=-2).clamp_(min=0)


def _squared_distances(rows: Tensor, norms: Tensor, centres: Tensor) -> Tensor:
    """(G, R, K), at least 0; ``norms`` (G, R) are the squared norms of the rows."""
    sums = norms[..., None] + centres.square().sum(-1)[:, None]
    return torch.baddbmm(sums, rows, centres.mT, alpha=-2).clamp_(min=0)
