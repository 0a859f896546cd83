"""Generated pictures of bodies on which the keypoints, parts and charts of every pixel are known.

A body is a plane of 0.6 m x 1.8 m in two columns and three rows of parts. Its picture is symmetric, as a person's is:
colours tell the row, the distance from the middle and the height within the row; left and right are told by place.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regionssl.data.images import find_images
from regionssl.evaluation.densepose.surface import SurfacePoints
from regionssl.labels.sets import Objects, ObjectSet

ROWS, COLUMNS = 3, 2
CELL = np.array([0.3, 0.6])  # metres
COLOURS = np.array([[230, 70, 60], [60, 200, 80], [70, 90, 230]])
NAMES = ("left_head", "right_head", "left_hand", "right_hand", "left_foot", "right_foot")
FLIPS = ((0, 1), (2, 3), (4, 5))


def surface_at(shares: np.ndarray) -> SurfacePoints:
    """What a body shows at places (..., 2) in shares of its box."""
    across, down = shares[..., 0] * COLUMNS, shares[..., 1] * ROWS
    column, row = np.minimum(across.astype(int), COLUMNS - 1), np.minimum(down.astype(int), ROWS - 1)
    return SurfacePoints((row * COLUMNS + column + 1).astype(np.int64), across - column, down - row)


def metres(points: SurfacePoints) -> np.ndarray:
    """Places (..., 2) in the plane."""
    row, column = np.divmod(points.part - 1, COLUMNS)
    return np.stack([column + points.u, row + points.v], -1) * CELL


class Plane:
    """The surface with its distances as they are."""

    def distances(self, first: SurfacePoints, second: SurfacePoints) -> np.ndarray:
        apart = np.linalg.norm(metres(first) - metres(second), axis=-1)
        return np.where((first.part == 0) | (second.part == 0), np.inf, apart)


def write_plane(path: Path, side: int = 6) -> None:
    """The surface as a file: ``side`` x ``side`` vertices on each chart, and the mirror that exchanges the columns."""
    ticks = (np.arange(side) + 0.5) / side
    part, v, u = (grid.ravel() for grid in np.meshgrid(np.arange(1, 7), ticks, ticks, indexing="ij"))
    places = metres(SurfacePoints(part, u, v))
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    reflected = places * [-1, 1] + [COLUMNS * CELL[0], 0]
    mirror = np.linalg.norm(reflected[:, None] - places, axis=-1).argmin(1)
    np.savez(path, part=part, u=u, v=v, distances=apart[np.triu_indices(len(part), 1)], mirror=mirror)


def paint(image: np.ndarray, box: np.ndarray) -> None:
    """Draw a body into a picture (H, W, 3) uint8."""
    x0, y0, x1, y1 = box.astype(int)
    y, x = np.mgrid[y0:y1, x0:x1]
    shares = np.stack([(x + 0.5 - x0) / (x1 - x0), (y + 0.5 - y0) / (y1 - y0)], -1)
    shown = surface_at(shares)
    outwards = np.abs(shares[..., 0] - 0.5) * 2
    shade = 0.45 + 0.3 * outwards + 0.25 * shown.v
    image[y0:y1, x0:x1] = COLOURS[(shown.part - 1) // COLUMNS] * shade[..., None]


def dense_fields(rng: np.random.Generator, count: int = 40) -> dict[str, Any]:
    """``dp_*`` fields of one body, uncompressed run lengths."""
    shares = rng.integers(0, 256, (count, 2)) / 255
    shown = surface_at(shares)
    y, x = np.mgrid[:256, :256]
    parts = surface_at(np.stack([x + 0.5, y + 0.5], -1) / 256).part
    masks: list[Any] = []
    for number in range(1, 15):
        flat = np.concatenate([[False], (parts + 1 == number).ravel(order="F")])
        starts = np.flatnonzero(flat[1:] != flat[:-1])
        runs = np.diff(np.concatenate([[0], starts, [256 * 256]])).tolist()
        masks.append({"size": [256, 256], "counts": runs} if len(starts) else [])
    return {
        "dp_x": (shares[:, 0] * 255).tolist(),
        "dp_y": (shares[:, 1] * 255).tolist(),
        "dp_I": shown.part.tolist(),
        "dp_U": shown.u.tolist(),
        "dp_V": shown.v.tolist(),
        "dp_masks": masks,
    }


def body_set(folder: Path, count: int, size: int = 96, seed: int = 0) -> ObjectSet:
    """Pictures with one body each, in ``folder/images``."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    objects = []
    for index in range(count):
        image = rng.integers(0, 90, (size, size, 3)).astype(np.uint8)
        width, height = rng.integers([size // 3, size // 2], [size // 2, 5 * size // 6])
        left, top = (rng.integers(0, size - extent + 1) for extent in (width, height))
        box = np.array([left, top, left + width, top + height], np.float64)
        paint(image, box)
        Image.fromarray(image).save(folder / "images" / f"{index:03d}.png")
        centres = np.array([[(column + 0.5) / COLUMNS, (row + 0.5) / ROWS] for row in range(3) for column in range(2)])
        places = box[:2] + centres * (box[2:] - box[:2])
        objects.append(
            Objects(
                boxes=box[None],
                labels=np.zeros(1, np.int64),
                crowd=np.zeros(1, bool),
                area=np.array([float(width * height)]),
                keypoints=np.concatenate([places, np.full((6, 1), 2.0)], 1)[None],
                dense=(dense_fields(rng),),
            )
        )
    return ObjectSet(
        images=find_images(folder / "images"),
        sizes=np.full((count, 2), size, np.int64),
        objects=tuple(objects),
        classes=("person",),
        keypoint_names=NAMES,
        keypoint_flips=FLIPS,
    )
