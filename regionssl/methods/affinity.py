"""Distillation of the affinities between points (PLRC, section 4.3): the head, the rows, and the loss over pairs.

The logit row of each of the G x G lattice points of a view is an interpolation of those of the L cells of its map, so
everything here is kept as the factor E (L, D) of the rows y = U E; rows exist for a block of points at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regionssl.methods.losses import LOGITS_AT_ONCE, unit
from regionssl.regions.points import near_points


class CellHead(nn.Module):
    """Three linear layers from N(0, 0.02), truncated, with batch norm between, per cell; and prototypes (section 3).

    Args:
        width, hidden, dim: channels of the map, between the layers, and of the output.
        prototypes: K; 0 for none.
    """

    def __init__(self, width: int, hidden: int, dim: int, prototypes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((width, hidden), (hidden, hidden), (hidden, dim)):
            linear = nn.Linear(inputs, outputs)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-2])
        self.dim = dim
        self.prototypes = nn.Linear(dim, prototypes, bias=False) if prototypes else None

    def forward(self, cells: Tensor) -> Tensor:
        """Cells (N, L, C) -> unit rows (N, L, dim)."""
        return unit(self.layers(cells.flatten(0, 1)).unflatten(0, cells.shape[:2]))

    def unit_prototypes(self, like: Tensor) -> Tensor:
        """Unit rows (K, dim); of no prototypes, none of dtype and device of ``like``."""
        return like.new_zeros(0, self.dim) if self.prototypes is None else unit(self.prototypes.weight)


def row_factors(cells: Tensor, reference: Tensor, prototypes: Tensor, lattice: Tensor, scale: float) -> Tensor:
    """The logit rows of all lattice points of a view, y = U E, as their factor E (PLRC, equations 4.3 and 4.4).

    Args:
        cells: (n, L, C) unit cells of the view. reference: (n, L, C) unit cells of the reference view.
        prototypes: (K, C) unit rows; K is 0 in the pure form.
        lattice: U (G * G, L), see :func:`regionssl.regions.points.interpolation`.
        scale: of the affinities.

    Returns:
        E (n, L, G * G + K): affinities to the reference points, then cosines to the prototypes.
    """
    affinity = scale * (cells @ reference.transpose(1, 2)) @ lattice.T
    return torch.cat([affinity, cells @ prototypes.T], -1)


@dataclass(frozen=True)
class TeacherRows:
    """What the student's rows must match; no gradient.

    Attributes:
        pull: (n, L, D), the probabilities of all pairs' teacher rows, summed on the student's points i and carried to
            cells: ``U^T M p``.
        partners: (n, G * G), number of teacher points paired with each student point.
        row_sum: (D,) sum over all pairs of the teacher's rows before softmax.
    """

    pull: Tensor
    partners: Tensor
    row_sum: Tensor


def teacher_rows(
    factors: Tensor,
    boxes: tuple[Tensor, Tensor],
    lattice: Tensor,
    radius: float,
    temperature: float,
    centre: Tensor,
    limit: int = LOGITS_AT_ONCE,
) -> TeacherRows:
    """The teacher's side of the distillation: pairs first, then rows, for some images at a time (PLRC, 4.3).

    Args:
        factors: (n, L, D) of the teacher's view.
        boxes: (n, 4) each, the student's and the teacher's view in fractions of the image.
        centre: (D,) subtracted from the rows.
        limit: elements of the rows, or of the pairs, that exist at once; at least the pairs of an image do.
    """
    side = round(len(lattice) ** 0.5)
    carried, partners, reached = [], [], []
    for student, teacher in zip(*(box.split(max(1, limit // len(lattice) ** 2)) for box in boxes), strict=True):
        near = near_points(student, teacher, side, radius).to(factors.dtype)
        carried.append(lattice.T @ near)
        partners.append(near.sum(2))
        reached.append(near.sum(1))
    pairs, taught = torch.cat(carried), torch.cat(reached)
    pull = torch.zeros_like(factors)
    for images, points in point_blocks(taught > 0, factors.shape[2], limit):
        rows = (lattice[points] @ factors[images] - centre).div_(temperature).softmax(-1)
        pull[images] += pairs[images].take_along_dim(points[:, None], 2) @ rows
    row_sum = ((taught @ lattice)[:, None] @ factors).sum((0, 1))
    return TeacherRows(pull, torch.cat(partners), row_sum)


def point_blocks(wanted: Tensor, width: int, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of images and points that cover the wanted points of every image, each once.

    Images with about as many wanted points go together; where they differ, points that are not wanted fill up.

    Args:
        wanted: (n, P) bool.
        width: elements of a point's row. limit: of elements in a block; at least one row is.

    Yields:
        (b,) int64 images, all different, and (b, p) int64 points.
    """
    points = (~wanted).byte().argsort(stable=True, dim=1)
    numbers, images = wanted.sum(1).sort(descending=True)
    start, counts = 0, numbers.tolist()
    while start < len(counts) and counts[start]:
        most = counts[start]
        block = images[start : start + max(1, limit // (most * width))]
        for part in points[block, :most].split(max(1, limit // (len(block) * width)), 1):
            yield block, part
        start += len(block)


def distillation(
    factors: Tensor,
    pull: Tensor,
    partners: Tensor,
    lattice: Tensor,
    temperature: float,
    limit: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Cross-entropy of the student's rows against the teacher's, summed over the pairs of each image (PLRC, 4.5).

    Since every p sums to one, ``sum_pairs -p.log q = sum_i n_i log Z_i - (U^T M p).E / tau``.

    Args:
        factors: (n, L, D) of the student's view.
        pull, partners: of :class:`TeacherRows`, for the same images.
        limit: elements of the rows that exist at once.

    Returns:
        (n,).
    """
    partitions: Tensor = _LogPartition.apply(factors, lattice, partners, temperature, limit)
    return partitions - (pull * factors).sum((1, 2)) / temperature


class _LogPartition(torch.autograd.Function):
    """``sum_i n_i log sum_d exp((U E)_id / tau)`` (n,); keeps its gradient of E's size instead of the rows."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, lattice: Tensor, count: Tensor, temperature: float, limit: int) -> Tensor:
        total, gradient = factors.new_zeros(len(factors)), torch.zeros_like(factors)
        for images, points in point_blocks(count > 0, factors.shape[2], limit):
            reading, weight = lattice[points], count[images].gather(1, points)
            rows = (reading @ factors[images]).div_(temperature)
            partition = rows.logsumexp(-1)
            shares = rows.sub_(partition[..., None]).exp_()
            gradient[images] += (reading * weight[..., None]).mT @ shares / temperature
            total[images] += (weight * partition).sum(1)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        return upstream[0][:, None, None] * ctx.saved_tensors[0], None, None, None, None
