"""Points of the regions of two views: which are drawn, what is read there, which are near each other (PLRC, 2.3-2.5).

Points are the centres of the cells of a square lattice over a view, numbered row * side + column.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regionssl.geometry import bin_centres, cell_neighbours


@dataclass(frozen=True)
class RegionPoints:
    """P points in each of S regions of each of two views; both views' first region is the same one.

    Attributes:
        cells: (N, 2, S, P) int64, lattice cells.
        regions: (N, 2, S) int64, labels.
        valid: (N,) bool, whether each view shows two regions or more, and both show a common one.
    """

    cells: Tensor
    regions: Tensor
    valid: Tensor

    def __getitem__(self, rows: slice) -> RegionPoints:
        return RegionPoints(self.cells[rows], self.regions[rows], self.valid[rows])


def draws_shape(regions: int, points: int) -> tuple[int]:
    """Shape of one image's uniform draws: the common region, each view's other regions, the points."""
    return (1 + 2 * (regions - 1) + 2 * regions * points,)


def draw_points(first: Tensor, second: Tensor, regions: int, points: int, uniform: Tensor) -> RegionPoints:
    """Draw regions and points for all images at once (PLRC, section 2.3).

    The first region of both views is drawn from those that both show; the others, with replacement and per view, from
    the rest. Points are drawn with replacement from the cells of their region.

    Args:
        first, second: (N, G, G) int64, labels on the lattices of the two views.
        regions, points: S and P.
        uniform: (N, *draws_shape) in [0, 1).
    """
    common_draw, other_draws, point_draws = uniform.split([1, 2 * (regions - 1), 2 * regions * points], 1)
    a, b = _Visible.of(first), _Visible.of(second)
    shared = a.first & b.shows(a.labels)
    common = a.pick(shared, common_draw)
    any_shared = shared.any(1, keepdim=True)
    cells, labels = [], []
    starts = (common, torch.where(any_shared, common, b.labels[:, :1]))
    for view, start, others, places in zip(
        (a, b), starts, other_draws.chunk(2, 1), point_draws.chunk(2, 1), strict=True
    ):
        chosen = torch.cat([start, view.pick(view.first & (view.labels != start), others)], 1)
        labels.append(chosen)
        cells.append(view.cells(chosen, places.unflatten(1, (regions, points))))
    valid = any_shared[:, 0] & (a.first.sum(1) >= 2) & (b.first.sum(1) >= 2)
    return RegionPoints(torch.stack(cells, 1), torch.stack(labels, 1), valid)


@dataclass(frozen=True)
class _Visible:
    """The labels of one view in ascending order.

    Attributes:
        labels: (N, M) int64, ascending. order: (N, M), the cell of each. first: (N, M) bool, the first of each label.
    """

    labels: Tensor
    order: Tensor
    first: Tensor

    @staticmethod
    def of(lattice: Tensor) -> _Visible:
        labels, order = lattice.flatten(1).sort(dim=1, stable=True)
        first = torch.ones_like(labels, dtype=torch.bool)
        first[:, 1:] = labels[:, 1:] != labels[:, :-1]
        return _Visible(labels, order, first)

    def shows(self, labels: Tensor) -> Tensor:
        """Whether each of ``labels`` (N, K) is among this view's."""
        place = torch.searchsorted(self.labels, labels).clamp(max=self.labels.shape[1] - 1)
        return self.labels.gather(1, place) == labels

    def pick(self, among: Tensor, uniform: Tensor) -> Tensor:
        """Labels (N, K) drawn from those marked by ``among`` (N, M); the smallest label where none is marked."""
        count = among.long().cumsum(1)
        place = torch.searchsorted(count, 1 + _floor(uniform, count[:, -1:]))
        return self.labels.gather(1, place)

    def cells(self, labels: Tensor, uniform: Tensor) -> Tensor:
        """Cells (N, K, P) drawn from those that bear each of ``labels`` (N, K)."""
        begin, end = (torch.searchsorted(self.labels, labels, right=right)[..., None] for right in (False, True))
        place = begin + _floor(uniform, end - begin)
        return self.order.gather(1, place.flatten(1)).view(uniform.shape)


def _floor(uniform: Tensor, count: Tensor) -> Tensor:
    """Integers in [0, count), or -1 where the count is 0."""
    return torch.minimum((uniform * count).long(), count - 1)


def interpolation(side: int, cells: int, like: Tensor) -> Tensor:
    """The matrix U (side * side, cells * cells) that reads a map at lattice points (PLRC, 2.2 and 4.3).

    Bilinear with half-pixel centres, constant beyond the centres of the border cells.

    Args:
        cells: side of the map. like: gives device and dtype.
    """
    low, high, share = cell_neighbours(cells, side, like.device)
    rows = torch.arange(side, device=like.device)
    axis = torch.zeros(side, cells, dtype=torch.float64, device=like.device)
    axis[rows, low] += 1 - share
    axis[rows, high] += share
    return torch.kron(axis, axis).to(like.dtype)


def read_points(cells: Tensor, points: Tensor, side: int) -> Tensor:
    """Bilinear reading of maps at lattice points (PLRC, equation 2.2).

    Args:
        cells: (N, L, C), the L cells of square maps, row by row.
        points: (N, ...) int64, cells of a lattice of ``side``.

    Returns:
        (N, ..., C).
    """
    weights = interpolation(side, round(cells.shape[1] ** 0.5), cells)[points.flatten(1)]
    return (weights @ cells).view(*points.shape, cells.shape[2])


def near_points(first: Tensor, second: Tensor, side: int, radius: float) -> Tensor:
    """Which lattice points of two views lie together in the image (PLRC, equation 2.4).

    Args:
        first, second: (N, 4) float64, the views in fractions of the image (:func:`geometry.centre_fractions`).
        radius: in diagonals of the larger view's lattice cells.

    Returns:
        (N, side * side, side * side) bool, points of the first view by points of the second.
    """
    (one, one_cell), (two, two_cell) = bin_centres(first, side), bin_centres(second, side)
    limit = radius * torch.maximum(one_cell.norm(dim=1), two_cell.norm(dim=1))
    across, down = ((one[..., :, None] - two[..., None, :]) ** 2).unbind(1)
    distance = (across[:, None, :, None, :] + down[:, :, None, :, None]).sqrt_()
    return (distance < limit.view(-1, 1, 1, 1, 1)).flatten(3, 4).flatten(1, 2)
