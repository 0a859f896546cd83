"""COCO's segmentations, polygons or run lengths, as masks."""

from __future__ import annotations

from typing import Any

import numpy as np

from regionssl import run_lengths
from regionssl.errors import InputError

_LEAST_NUMBERS = 6  # of a polygon: three corners


def checked_segmentation(found: Any, width: int, height: int, what: str) -> Any:
    """A segmentation that :func:`decode` takes: polygons without those that have no area, or run lengths; or None.

    Args:
        found: the value in the file.
        width, height: of the upright image.
        what: the annotation, for messages.

    Raises:
        InputError: run lengths for an image of another size, or that do not add up to their size.
    """
    if isinstance(found, dict):
        return _checked_runs(found, width, height, what)
    if not isinstance(found, list):
        return None
    return [polygon for polygon in found if _is_polygon(polygon)] or None


def _is_polygon(polygon: Any) -> bool:
    if not isinstance(polygon, list) or len(polygon) < _LEAST_NUMBERS or len(polygon) % 2:
        return False
    return all(map(is_number, polygon))


def is_number(value: Any, largest: float = 1e6) -> bool:
    """Whether a value of a json is a finite number of at most this size; no coordinate of an image is larger."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= largest


def _checked_runs(found: dict[str, Any], width: int, height: int, what: str) -> dict[str, Any]:
    size, counts = found.get("size"), found.get("counts")
    if size != [height, width]:
        raise InputError(
            f"the mask of {what} has the size {size}, and its upright image is {height} x {width} (height x width); "
            "masks must have the size of their image"
        )
    try:
        run_lengths.decode(run_lengths.unpack(counts or ()), width, height)
    except (TypeError, ValueError) as error:
        raise InputError(f"the mask of {what} has broken run lengths: {error}; write the mask again") from error
    return {"size": [height, width], "counts": counts}


def decode(segmentation: Any, width: int, height: int) -> np.ndarray:
    """(height, width) bool of a segmentation from :func:`checked_segmentation`; polygons filled as pycocotools does.

    Raises:
        InputError: polygons, and pycocotools is not installed.
    """
    if not isinstance(segmentation, dict):
        return _filled(segmentation, width, height)
    return run_lengths.decode(run_lengths.unpack(segmentation["counts"]), width, height)


def _filled(polygons: list[list[float]], width: int, height: int) -> np.ndarray:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError("polygons need pycocotools: pip install 'regionssl[evaluation]'") from error
    return mask.decode(mask.merge(mask.frPyObjects(polygons, height, width))).astype(bool)
