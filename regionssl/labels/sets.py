"""Labelled images as every evaluation takes them.

Positions run over the images of a set. Boxes and masks are in the frame of the upright image, in pixels, edges not
centres. Classes count from 0 and have no gaps; ``classes[i]`` is a class's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from PIL import Image

from regionssl.data.image_list import ImageList
from regionssl.errors import InputError


class LabelledSet(Protocol):
    """What splitting and leakage checks need of any labelled set."""

    images: ImageList
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def subset(self, positions: Sequence[int]) -> Self:
        """The images at these positions, in this order."""

    def class_counts(self) -> np.ndarray:
        """(N, C) int64: how often each class occurs in each image (objects, pixels, or 0 and 1)."""


@dataclass(frozen=True)
class Objects:
    """The labelled objects of one image.

    Attributes:
        boxes: (n, 4) float64, x0 y0 x1 y1.
        labels: (n,) int64.
        crowd: (n,) bool, regions that neither train nor count (COCO's crowds, VOC's difficult objects).
        area: (n,) float64, what COCO's size classes go by.
        masks: of each object, COCO's segmentation (polygons or run lengths); empty where the set has none.
        keypoints: (n, K, 3) float64, x y visibility (0, 1, 2), or None.
        dense: of each object COCO's ``dp_*`` fields or None; empty where the set has none.
    """

    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    masks: tuple[Any, ...] = ()
    keypoints: np.ndarray | None = None
    dense: tuple[dict[str, Any] | None, ...] = ()


@dataclass(frozen=True)
class ObjectSet:
    """Images with objects.

    Attributes:
        sizes: (N, 2) int64, width and height of the upright images.
        objects: of each image.
        keypoint_names, keypoint_flips: names of the keypoints and pairs that change places in a mirror.
        findings: sentences on what was counted, fixed or dropped while reading.
    """

    images: ImageList
    sizes: np.ndarray
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]
    keypoint_names: tuple[str, ...] = ()
    keypoint_flips: tuple[tuple[int, int], ...] = ()
    findings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_masks(self) -> bool:
        return any(one.masks for one in self.objects)

    def subset(self, positions: Sequence[int]) -> ObjectSet:
        chosen = np.asarray(positions, np.int64)
        objects = tuple(self.objects[i] for i in chosen)
        return replace(self, images=self.images.subset(chosen), sizes=self.sizes[chosen], objects=objects)

    def class_counts(self) -> np.ndarray:
        counts = [np.bincount(one.labels[~one.crowd], minlength=len(self.classes)) for one in self.objects]
        return np.array(counts, np.int64).reshape(len(self), len(self.classes))


@dataclass(frozen=True)
class MapSet:
    """Images with a class-id map each.

    Attributes:
        maps: label PNGs by position, the same order as ``images``.
        values: (256,) int64, class of each stored value; -1 for values that are ignored. Values without a class
            raise when they are met.
        findings: as in :class:`ObjectSet`.
    """

    images: ImageList
    maps: ImageList
    classes: tuple[str, ...]
    values: np.ndarray
    findings: tuple[str, ...] = ()
    _counts: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    def labels(self, i: int) -> np.ndarray:
        """(H, W) int64 classes of image ``i``; -1 where nothing is labelled.

        Raises:
            InputError: a value without a class, or not a map of single values.
        """
        with self.maps.open(i) as file, Image.open(file) as picture:
            if picture.mode not in ("L", "P", "1"):
                raise InputError(
                    f"{self.maps.names[i]} is a picture of mode {picture.mode}; label maps have one 8-bit value a pixel"
                )
            stored = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
        found = self.values[stored]
        if (found < -1).any():
            strange = sorted(set(np.unique(stored[found < -1]).tolist()))
            raise InputError(
                f"{self.maps.names[i]} holds the values {strange[:5]}, which no class has; name or ignore them"
            )
        return found

    def subset(self, positions: Sequence[int]) -> MapSet:
        chosen = np.asarray(positions, np.int64)
        return replace(self, images=self.images.subset(chosen), maps=self.maps.subset(chosen), _counts={})

    def class_counts(self) -> np.ndarray:
        if "counts" not in self._counts:
            rows = [
                np.bincount(self.labels(i).ravel() + 1, minlength=len(self.classes) + 1)[1:] for i in range(len(self))
            ]
            self._counts["counts"] = np.array(rows, np.int64).reshape(len(self), len(self.classes))
        return self._counts["counts"]


@dataclass(frozen=True)
class ClassSet:
    """Images with classes.

    Attributes:
        truth: (N, C) int8: 1 present, 0 absent, -1 unsure (VOC's difficult; not counted in tests). With one class an
            image, each row has a single 1.
        findings: as in :class:`ObjectSet`.
    """

    images: ImageList
    truth: np.ndarray
    classes: tuple[str, ...]
    findings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def exclusive(self) -> bool:
        """Whether every image has exactly one class."""
        return bool(((self.truth == 1).sum(1) == 1).all() and (self.truth >= 0).all())

    def subset(self, positions: Sequence[int]) -> ClassSet:
        chosen = np.asarray(positions, np.int64)
        return replace(self, images=self.images.subset(chosen), truth=self.truth[chosen])

    def class_counts(self) -> np.ndarray:
        return (self.truth == 1).astype(np.int64)


S = TypeVar("S", ObjectSet, MapSet, ClassSet)


@dataclass(frozen=True)
class Split(Generic[S]):
    """Labels to train on and labels to score on, with the same classes."""

    train: S
    val: S
