"""Objects that a person has labelled: a COCO json, or label maps, as boxes and masks by position in the image list."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw

from regionssl import geometry, run_lengths
from regionssl.errors import InputError
from regionssl.regions.sources import Labels

_FARTHEST = 1e9  # pixels


class Objects(Protocol):
    """Labelled objects of images. K may be 0."""

    def boxes(self, position: int, width: int, height: int) -> np.ndarray:
        """(K, 4) int32, left, top, width and height in whole image pixels."""

    def masks(self, position: int, width: int, height: int) -> np.ndarray:
        """(K, height, width) bool."""


@dataclass(frozen=True)
class CocoObjects:
    """Objects of a COCO json; crowds are left out. Its coordinates count as those of the upright image.

    Attributes:
        annotations: of each image, those with a box.
    """

    annotations: tuple[tuple[dict[str, Any], ...], ...]

    def boxes(self, position: int, width: int, height: int) -> np.ndarray:
        rows = np.array([one["bbox"] for one in self.annotations[position]], np.float64).reshape(-1, 4)
        limit = np.array([width, height])
        low = np.clip(np.floor(rows[:, :2]), 0, limit - 1)
        high = np.clip(np.ceil(rows[:, :2] + rows[:, 2:]), low + 1, limit)
        return np.concatenate([low, high - low], 1).astype(np.int32)

    def masks(self, position: int, width: int, height: int) -> np.ndarray:
        masks = [_mask(one["segmentation"], width, height) for one in self.annotations[position] if _has_mask(one)]
        return np.array(masks, bool).reshape(-1, height, width)


@dataclass(frozen=True)
class LabelledObjects:
    """The labels of label maps, each an object; 0 is background, and 255 is not looked at."""

    labels: Labels

    def boxes(self, position: int, width: int, height: int) -> np.ndarray:
        boxes = []
        for mask in self.masks(position, width, height):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]])
        return np.array(boxes, np.int32).reshape(-1, 4)

    def masks(self, position: int, width: int, height: int) -> np.ndarray:
        labels = at_size(self.labels(Image.new("RGB", (width, height)), position), width, height)
        present = np.setdiff1d(np.unique(labels), [0, 255])
        return labels == present[:, None, None]


def at_size(labels: np.ndarray, width: int, height: int) -> np.ndarray:
    """A label map (h, w) read at the pixel centres of an image that it covers: (height, width)."""
    row = geometry.nearest(np.arange(height), height, labels.shape[0])
    column = geometry.nearest(np.arange(width), width, labels.shape[1])
    return labels[np.ix_(row, column)]


def read_objects(file: Path, names: Sequence[str]) -> CocoObjects:
    """The objects of a COCO json for images with these names: equal to its file names, or else to their last parts.

    Raises:
        InputError: it is not a COCO json with boxes, or knows none of the images.
    """
    try:
        content = json.loads(file.read_bytes())
        known = {image["id"]: str(image["file_name"]) for image in content["images"]}
        by_name: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for one in content["annotations"]:
            if not one.get("iscrowd") and one.get("bbox"):
                if not _is_box(one["bbox"]):
                    raise ValueError(f"a bbox has four finite numbers, and one is {one['bbox']!r:.200}")
                by_name[known[one["image_id"]]].append(one)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is not a COCO json with images and annotations: {error!r}") from error
    full = _file_names(set(known.values()))
    chosen = [full.get(name, full.get(PurePosixPath(name).name)) for name in names]
    if not any(name is not None for name in chosen):
        raise InputError(f"{file} knows none of the images, such as {names[0]!r}; give the json of these images")
    return CocoObjects(tuple(tuple(by_name[name]) if name is not None else () for name in chosen))


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(x) in (int, float) and abs(x) < _FARTHEST for x in box)


def _file_names(names: set[str]) -> dict[str, str]:
    """File names by themselves, and by their last part where it is unique."""
    last = Counter(PurePosixPath(name).name for name in names)
    short = {PurePosixPath(name).name: name for name in names if last[PurePosixPath(name).name] == 1}
    return short | {name: name for name in names}


def _has_mask(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get("segmentation"))


def _mask(segmentation: Any, width: int, height: int) -> np.ndarray:
    """(height, width) bool from polygons or run lengths."""
    if isinstance(segmentation, dict):
        try:
            if segmentation["size"] == [height, width]:
                return run_lengths.decode(run_lengths.unpack(segmentation["counts"]), width, height)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"the run lengths of a COCO mask are broken: {error}") from error
        raise InputError(
            f"a COCO mask of {segmentation['size']} pixels (height, width) came for one of {height} x {width}; masks "
            "must have the size of their upright image"
        )
    canvas = Image.new("1", (width, height))
    try:
        for polygon in segmentation:
            if len(polygon) >= 6:
                ImageDraw.Draw(canvas).polygon([float(number) for number in polygon], fill=1)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the polygons of a COCO mask are broken: {error}") from error
    return np.array(canvas, bool)
