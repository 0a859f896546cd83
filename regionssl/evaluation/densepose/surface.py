"""The body's surface: 24 charts with coordinates (u, v), and how far two of its points lie apart along it.

The distances belong to a body model whose licence does not let them be shipped, so they come from the user's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zipfile import BadZipFile

import numpy as np

from regionssl.errors import InputError

PARTS = 24

FORMAT = (
    "an .npz with part (n,) from 1 to 24, u and v (n,) in 0..1, and distances in metres, (m, m) or the upper triangle "
    "(m * (m - 1) / 2,) row by row; vertex (n,) tells the rows of distances where n and m differ, and mirror (m,) the "
    "vertex on the other side of the body"
)


@dataclass(frozen=True)
class SurfacePoints:
    """Points of the surface, arrays of one shape.

    Attributes:
        part: int64 1 to 24, or 0 for a point that is not on the body.
        u, v: float64 in 0..1, place on the part's chart.
    """

    part: np.ndarray
    u: np.ndarray
    v: np.ndarray


class Surface(Protocol):
    """Distances along a surface."""

    def distances(self, first: SurfacePoints, second: SurfacePoints) -> np.ndarray:
        """Geodesic distances in metres, float64, of points that broadcast; infinite where one is not on the surface."""


@dataclass(frozen=True)
class SurfaceTable:
    """A surface as vertices and the distances between them; a point stands for the vertex nearest on its chart.

    Attributes:
        part, u, v: (n,) of chart vertices. A vertex on a seam lies on several charts.
        vertex: (n,) int64, their rows in ``separation``.
        separation: (m, m) float32, metres.
        reflection: (m,) int64, the vertex on the other side of the body; None where the file does not tell.
    """

    part: np.ndarray
    u: np.ndarray
    v: np.ndarray
    vertex: np.ndarray
    separation: np.ndarray
    reflection: np.ndarray | None = None

    def distances(self, first: SurfacePoints, second: SurfacePoints) -> np.ndarray:
        """As :meth:`Surface.distances`."""
        one, other = np.broadcast_arrays(self._rows(self._nearest(first)), self._rows(self._nearest(second)))
        return np.where((one < 0) | (other < 0), np.inf, self.separation[one, other]).astype(np.float64)

    def mirror(self, points: SurfacePoints) -> SurfacePoints:
        """The points on the other side of the body, each at a vertex.

        Raises:
            InputError: the file has no ``mirror``.
        """
        if self.reflection is None:
            raise InputError(
                "the surface file has no array mirror, so dense pose cannot be flipped; add it or flip: false"
            )
        order = np.argsort(self.vertex, kind="stable")
        charted = order[np.searchsorted(self.vertex[order], self.reflection)]  # a chart vertex of each mirrored one
        place = self._nearest(points)
        found = charted[self._rows(place)]
        on = place >= 0
        return SurfacePoints(
            np.where(on, self.part[found], 0), np.where(on, self.u[found], 0.0), np.where(on, self.v[found], 0.0)
        )

    def _nearest(self, points: SurfacePoints) -> np.ndarray:
        """Chart vertices of points; -1 where there is no body, or a part that has no vertex."""
        found = np.full(points.part.shape, -1, np.int64)
        for part in np.intersect1d(points.part, self.part):
            chosen, own = points.part == part, np.flatnonzero(self.part == part)
            across = points.u[chosen][:, None] - self.u[own]
            along = points.v[chosen][:, None] - self.v[own]
            found[chosen] = own[(across**2 + along**2).argmin(1)]
        return found

    def _rows(self, nearest: np.ndarray) -> np.ndarray:
        return np.where(nearest < 0, -1, self.vertex[nearest])


def load_surface(path: Path) -> SurfaceTable:
    """Read a surface from a file of the :data:`FORMAT`.

    Raises:
        InputError: it is missing, not such a file, or its arrays do not go together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise InputError(f"cannot read the surface {path}: {error}; it must be {FORMAT}") from error
    except TypeError as error:  # a single array has no names
        raise InputError(f"{path} holds a single array; a surface must be {FORMAT}") from error
    missing = sorted({"part", "u", "v", "distances"} - set(arrays))
    if missing:
        raise InputError(f"the surface {path} lacks {', '.join(missing)}; it must be {FORMAT}")
    part, separation = arrays["part"].astype(np.int64), _square(arrays["distances"], path)
    vertex = arrays.get("vertex", np.arange(len(part))).astype(np.int64)
    reflection = arrays["mirror"].astype(np.int64) if "mirror" in arrays else None
    table = SurfaceTable(part, arrays["u"].astype(float), arrays["v"].astype(float), vertex, separation, reflection)
    _check(table, path)
    return table


def _square(distances: np.ndarray, path: Path) -> np.ndarray:
    """Distances as a square table."""
    if distances.ndim == 2 and distances.shape[0] == distances.shape[1]:
        return distances.astype(np.float32)
    count = round((1 + np.sqrt(1 + 8 * distances.size)) / 2)
    if distances.ndim != 1 or count * (count - 1) // 2 != distances.size:
        raise InputError(
            f"{path}: distances have the shape {distances.shape}; they must be square or an upper triangle"
        )
    square = np.zeros((count, count), np.float32)
    rows, columns = np.triu_indices(count, 1)
    square[rows, columns] = square[columns, rows] = distances
    return square


def _check(table: SurfaceTable, path: Path) -> None:
    count, vertices = len(table.part), len(table.separation)
    if {len(table.u), len(table.v), len(table.vertex)} != {count} or (
        table.reflection is not None and len(table.reflection) != vertices
    ):
        raise InputError(
            f"{path}: part, u, v and vertex must be equally long, and mirror as long as distances are wide"
        )
    if set(np.unique(table.part).tolist()) - set(range(1, PARTS + 1)):
        raise InputError(f"{path}: parts run from 1 to {PARTS}, found {table.part.min()} to {table.part.max()}")
    rows = table.vertex if table.reflection is None else np.concatenate([table.vertex, table.reflection])
    if count == 0 or rows.min() < 0 or rows.max() >= vertices or len(np.unique(table.vertex)) != vertices:
        raise InputError(
            f"{path}: vertex and mirror must name rows of distances (0 to {vertices - 1}), vertex every one of them"
        )
    if not np.isfinite(table.separation).all() or (table.separation < 0).any():
        raise InputError(f"{path}: distances must be finite and not negative")
