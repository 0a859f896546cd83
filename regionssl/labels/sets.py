"""Labelled images as every evaluation takes them.

Positions run over the images of a set. Boxes and masks are in the frame of the upright image, in pixels, edges not
centres. Classes count from 0 and have no gaps; ``classes[i]`` is a class's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

import numpy as np
from PIL import Image

from regionssl.data.decode import UnreadableImage
from regionssl.data.image_list import ImageList
from regionssl.errors import InputError
from regionssl.labels.masks import decode


class LabelledSet(Protocol):
    """What splitting and leakage checks need of any labelled set."""

    @property
    def images(self) -> ImageList: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

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
        masks: of each object, COCO's segmentation (polygons or run lengths); empty where the set has none. In a set
            with masks every object has one.
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
        keypoint_skeleton: pairs of keypoints that a line joins in pictures.
        category_ids: the ids that the labels' file gives the classes; empty where it gives none.
    """

    images: ImageList
    sizes: np.ndarray
    objects: tuple[Objects, ...]
    classes: tuple[str, ...]
    keypoint_names: tuple[str, ...] = ()
    keypoint_flips: tuple[tuple[int, int], ...] = ()
    findings: tuple[str, ...] = ()
    keypoint_skeleton: tuple[tuple[int, int], ...] = ()
    category_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_masks(self) -> bool:
        return any(one.masks for one in self.objects)

    def mask(self, i: int, k: int) -> np.ndarray:
        """(H, W) bool mask of object ``k`` of image ``i``, in a set with masks.

        Raises:
            InputError: it is made of polygons, and pycocotools is not installed.
        """
        width, height = self.sizes[i].tolist()
        return decode(self.objects[i].masks[k], width, height)

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
        grey: stored values are shares of foreground, 255 all; the two classes are the pixels up to a half and above.
    """

    images: ImageList
    maps: ImageList
    classes: tuple[str, ...]
    values: np.ndarray
    findings: tuple[str, ...] = ()
    grey: bool = False
    _counts: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    def labels(self, i: int) -> np.ndarray:
        """(H, W) int64 classes of image ``i``; -1 where nothing is labelled.

        Raises:
            InputError: a value without a class, or as :meth:`stored`.
        """
        stored = self.stored(i)
        found = self.values[stored]
        if (found < -1).any():
            self._refuse(i, np.bincount(stored.ravel(), minlength=len(self.values)))
        return found

    def stored(self, i: int) -> np.ndarray:
        """(H, W) uint8 values of the map of image ``i``, without its palette unless it is grey.

        Raises:
            InputError: not a map of single 8-bit values, or a damaged file.
        """
        return _stored_values(self.maps, i, self.grey)

    def _refuse(self, i: int, histogram: np.ndarray) -> NoReturn:
        strange = np.flatnonzero((histogram > 0) & (self.values < -1)).tolist()
        raise InputError(
            f"{self.maps.names[i]} holds the values {strange[:5]}, which no class has; name them in classes.json, or "
            "ignore them there"
        )

    def subset(self, positions: Sequence[int]) -> MapSet:
        chosen = np.asarray(positions, np.int64)
        counts = {key: rows[chosen] for key, rows in self._counts.items()}
        return replace(self, images=self.images.subset(chosen), maps=self.maps.subset(chosen), _counts=counts)

    def class_counts(self) -> np.ndarray:
        if "counts" not in self._counts:
            with ThreadPoolExecutor(8) as pool:
                rows = list(pool.map(self._count, range(len(self))))
            self._counts["counts"] = np.array(rows, np.int64).reshape(len(self), len(self.classes))
        return self._counts["counts"]

    def _count(self, i: int) -> np.ndarray:
        histogram = np.bincount(self.stored(i).ravel(), minlength=len(self.values))
        if (histogram[self.values < -1] > 0).any():
            self._refuse(i, histogram)
        labelled = self.values >= 0
        return np.bincount(self.values[labelled], histogram[labelled], len(self.classes)).astype(np.int64)


def _stored_values(maps: ImageList, i: int, grey: bool) -> np.ndarray:
    try:
        with maps.open(i) as file, Image.open(file) as picture:
            if grey and picture.mode in ("1", "P", "LA", "RGB", "RGBA"):
                picture = picture.convert("L")
            mode, stored = picture.mode, np.asarray(picture)
    except (UnreadableImage, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"the label map {maps.names[i]} of {maps.root} cannot be read: {error}") from error
    if mode not in ("L", "P", "1"):
        raise InputError(
            f"{maps.names[i]} is a picture of mode {mode}; label maps have one value of at most 8 bits a pixel, so "
            "save class ids as greyscale or palette PNGs"
        )
    return stored.astype(np.uint8)


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
    """Labels to train on and labels to score on, with the same classes; one set where nothing is trained."""

    train: S
    val: S
