"""Distillation of the affinities between points (PLRC, section 4.3): the head, the rows, and the loss over pairs.

The logit row of each of the G x G lattice points of a view is an interpolation of those of the L cells of its map, so
everything here is kept as the factor E (L, D) of the rows y = U E; rows exist for one image at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regionssl.methods.losses import unit
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
    factors: Tensor, boxes: tuple[Tensor, Tensor], lattice: Tensor, radius: float, temperature: float, centre: Tensor
) -> TeacherRows:
    """The teacher's side of the distillation, image by image: pairs times rows would not fit in memory (PLRC, 4.3).

    Args:
        factors: (n, L, D) of the teacher's view.
        boxes: (n, 4) each, the student's and the teacher's view in fractions of the image.
        centre: (D,) subtracted from the rows.
    """
    side = round(len(lattice) ** 0.5)
    pulls, partners, row_sum = [], [], torch.zeros_like(centre)
    for factor, student, teacher in zip(factors, boxes[0].split(1), boxes[1].split(1), strict=True):
        near = near_points(student, teacher, side, radius)[0]
        paired = near.any(0).nonzero().flatten()
        rows = (lattice[paired] @ factor - centre).div_(temperature).softmax(-1)
        pulls.append(lattice.T @ near[:, paired].to(rows.dtype) @ rows)
        partners.append(near.sum(1).to(rows.dtype))
        row_sum += near.sum(0).to(rows.dtype) @ lattice @ factor
    return TeacherRows(torch.stack(pulls), torch.stack(partners), row_sum)


def distillation(factors: Tensor, pull: Tensor, partners: Tensor, lattice: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the student's rows against the teacher's, summed over all pairs of some images (PLRC, 4.5).

    Since every p sums to one, ``sum_pairs -p.log q = sum_i n_i log Z_i - (U^T M p).E / tau``.

    Args:
        factors: (n, L, D) of the student's view.
        pull, partners: of :class:`TeacherRows`, for the same images.
    """
    total = -(pull * factors).sum() / temperature
    for factor, count in zip(factors, partners, strict=True):
        total = total + _LogPartition.apply(factor, lattice, count, temperature)
    return total


class _LogPartition(torch.autograd.Function):
    """``sum_i n_i log sum_d exp((U E)_id / tau)``; keeps its gradient of E's size instead of the rows."""

    @staticmethod
    def forward(ctx: Any, factor: Tensor, lattice: Tensor, count: Tensor, temperature: float) -> Tensor:
        paired = count.nonzero().flatten()
        lattice, count = lattice[paired], count[paired]
        rows = (lattice @ factor).div_(temperature)
        partition = rows.logsumexp(-1)
        shares = rows.sub_(partition[:, None]).exp_()
        ctx.save_for_backward((lattice * count[:, None]).T @ shares / temperature)
        return (count * partition).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None, None
