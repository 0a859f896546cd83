"""Average precision from matches of detections to objects: the evidence that can be drawn anew for a bootstrap."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import numpy as np

from regionssl.errors import InputError

Curve = Literal["coco", "voc07", "voc12"]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of overlap, at which detections are matched."""

_RECALLS = np.linspace(0.0, 1.0, 101)
_RECALLS_07 = np.linspace(0.0, 1.0, 11)


@dataclass(frozen=True)
class Matches:
    """Detections of N images and C classes, matched to objects at T thresholds. D detections, the order is free.

    Attributes:
        image: (D,) int64.
        label: (D,) int64.
        score: (D,) float64.
        hit: (T, D) bool, matched to an object that counts.
        ignored: (T, D) bool, counts neither as a hit nor as a miss.
        objects: (N, C) int64, objects that count.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class DetectionEvidence:
    """Matches from which average precision is computed on any drawn sample of images.

    Attributes:
        curve: how precision is averaged over recall: "coco" at 101 recalls, "voc07" at 11, "voc12" the area.
    """

    matches: Matches
    curve: Curve = "coco"

    def __len__(self) -> int:
        return len(self.matches.objects)

    @cached_property
    def _by_class(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each class, from the highest score on: images (d,), hits and misses (T, d)."""
        found = self.matches
        parts = []
        for label in range(found.objects.shape[1]):
            rows = np.flatnonzero(found.label == label)
            rows = rows[np.lexsort((found.image[rows], -found.score[rows]))]
            misses = ~found.hit[:, rows] & ~found.ignored[:, rows]
            parts.append((found.image[rows], found.hit[:, rows] & ~found.ignored[:, rows], misses))
        return parts

    def precisions(self, rows: np.ndarray) -> np.ndarray:
        """Average precisions (T, C) in 0..100 over the images ``rows``; nan for classes without an object there.

        An image that occurs several times counts as often. Equal scores count in the order of the images; where one
        image holds several, the copies of each come together.
        """
        weights = np.bincount(rows, minlength=len(self)).astype(np.float64)
        objects = weights @ self.matches.objects
        result = np.full((len(self.matches.hit), len(objects)), np.nan)
        for label, (image, hits, misses) in enumerate(self._by_class):
            if objects[label] > 0:
                weight = weights[image]
                drawn = weight > 0
                hit = np.cumsum(hits[:, drawn] * weight[drawn], 1)
                miss = np.cumsum(misses[:, drawn] * weight[drawn], 1)
                result[:, label] = 100 * average_precision(hit, miss, objects[label], self.curve)
        return result

    def metric(self, rows: np.ndarray) -> float:
        """Mean average precision over thresholds and classes; nan if there is no object."""
        found = self.precisions(rows)
        known = ~np.isnan(found[0])
        return float(found[:, known].mean()) if known.any() else float("nan")

    def save(self, path: Path) -> None:
        parts = {name: getattr(self.matches, name) for name in Matches.__dataclass_fields__}
        np.savez_compressed(path, kind="detection", curve=self.curve, **parts)

    @classmethod
    def load(cls, path: Path) -> DetectionEvidence:
        """What :meth:`save` wrote.

        Raises:
            InputError: it is evidence of another kind.
        """
        with np.load(path, allow_pickle=False) as file:
            if str(file["kind"]) != "detection":
                raise InputError(f"{path} holds evidence of the kind {file['kind']}, not of a detection")
            matches = Matches(**{name: file[name] for name in Matches.__dataclass_fields__})
            return cls(matches, cast(Curve, str(file["curve"])))


def average_precision(hits: np.ndarray, misses: np.ndarray, objects: float, curve: Curve) -> np.ndarray:
    """Average precision (T,) in 0..1 from counts (T, d) of hits and misses down to each score.

    Args:
        objects: how many there are to find, above 0.
    """
    if hits.shape[1] == 0:
        return np.zeros(len(hits))
    recall = hits / objects
    precision = hits / (hits + misses + np.spacing(1))  # pycocotools' guard against nothing but ignored ones
    best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    if curve == "voc12":
        steps = np.diff(recall, axis=1, prepend=0)
        return np.asarray((steps * best).sum(1))
    marks = _RECALLS if curve == "coco" else _RECALLS_07
    padded = np.concatenate([best, np.zeros((len(best), 1))], 1)
    return np.array([values[np.searchsorted(one, marks)].mean() for values, one in zip(padded, recall, strict=True)])
