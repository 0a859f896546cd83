"""What COCO's dense-pose annotations say of one person.

``dp_x``, ``dp_y``: places of the annotated points, 0 to 255 from edge to edge of the person's box; ``dp_I``: their
parts, 1 to 24; ``dp_U``, ``dp_V``: their places on the charts; ``dp_masks``: run lengths of 14 body parts on a grid of
256 x 256 over the box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from regionssl.errors import InputError
from regionssl.evaluation.densepose.surface import PARTS, SurfacePoints
from regionssl.labels.masks import checked_segmentation, decode

SIDE = 256
COARSE_PARTS = 14
COARSE_FLIPS = np.array([0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14], np.uint8)
"""What each part of ``dp_masks`` (1 torso, then pairs of hands, feet, thighs, calves, upper and lower arms, 14 head) is
in a mirror."""

_FIELDS = ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V")


@dataclass(frozen=True)
class DensePose:
    """The dense pose of one person, in a frame that moves with the box.

    Attributes:
        places: (P, 2) float64, x and y of the points in shares of the box.
        points: (P,) what they show.
        masks: of the 14 coarse parts, run lengths on a grid of 256 x 256 over the box, or nothing where it is not seen.
        mirrored: whether the masks show the person's mirror image.
    """

    places: np.ndarray
    points: SurfacePoints
    masks: tuple[dict[str, Any] | None, ...]
    mirrored: bool = False

    def body(self) -> np.ndarray:
        """(256, 256) uint8 over the box: 0 or the number of the coarse part, where masks overlap the last one's."""
        body = np.zeros((SIDE, SIDE), np.uint8)
        for number, mask in enumerate(self.masks, 1):
            if mask is not None:
                body[decode(mask, SIDE, SIDE)] = number
        return COARSE_FLIPS[body[:, ::-1]] if self.mirrored else body


def read_dense_pose(fields: Mapping[str, Any], where: str) -> DensePose:
    """The dense pose in a COCO annotation's ``dp_*`` fields.

    Args:
        where: which annotation, for messages.

    Raises:
        InputError: a field is missing, of another length than the others or out of range.
    """
    missing = [name for name in (*_FIELDS, "dp_masks") if name not in fields]
    if missing:
        raise InputError(f"{where} has dense pose without {', '.join(missing)}")
    try:
        x, y, part, u, v = (np.asarray(fields[name], np.float64).reshape(-1) for name in _FIELDS)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {', '.join(_FIELDS)} must be lists of numbers ({error})") from error
    if len({len(x), len(y), len(part), len(u), len(v)}) != 1:
        raise InputError(f"{where}: {', '.join(_FIELDS)} must be equally long")
    kept = part > 0  # a point that shows no part says nothing about the surface
    x, y, part, u, v = x[kept], y[kept], part[kept], u[kept], v[kept]
    whole = bool((part == np.round(part)).all() and (part <= PARTS).all())
    if not whole or not _between(u, 1) or not _between(v, 1) or not _between(np.stack([x, y]), SIDE - 1):
        raise InputError(
            f"{where}: dp_I must be whole and at most {PARTS}, dp_U and dp_V in 0..1, dp_x and dp_y in 0..{SIDE - 1}"
        )
    places = np.stack([x, y], 1) / (SIDE - 1)
    return DensePose(places, SurfacePoints(part.astype(np.int64), u, v), _masks(fields["dp_masks"], where))


def _between(values: np.ndarray, top: float) -> bool:
    return bool(((values >= 0) & (values <= top)).all())  # false for nan


def _masks(masks: Any, where: str) -> tuple[dict[str, Any] | None, ...]:
    if not isinstance(masks, list) or len(masks) not in (0, COARSE_PARTS):
        raise InputError(f"{where}: dp_masks must be a list of {COARSE_PARTS} run lengths, one for each part")
    checked: list[dict[str, Any] | None] = []
    for number, mask in enumerate(masks, 1):
        if mask and (not isinstance(mask, dict) or mask.get("size") != [SIDE, SIDE]):
            raise InputError(f"{where}: part {number} of dp_masks must be run lengths of {SIDE} x {SIDE}")
        checked.append(checked_segmentation(mask, SIDE, SIDE, f"part {number} of {where}") if mask else None)
    return tuple(checked)
