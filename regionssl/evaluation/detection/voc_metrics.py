"""PASCAL VOC's average precision as detectron2 reports it: at overlaps 0.5 to 0.95, with 11 recalls or all of them.

Boxes are rectangles between edges, so VOC's inclusive pixels need no added one: the overlaps are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from regionssl import geometry
from regionssl.evaluation.detection.matches import THRESHOLDS, Curve, DetectionEvidence, Matches
from regionssl.evaluation.detection.predictions import Detections
from regionssl.labels.sets import Objects, ObjectSet


def voc_scores(
    data: ObjectSet, found: Sequence[Detections], curve: Curve = "voc07"
) -> tuple[dict[str, float], DetectionEvidence]:
    """``ap`` (mean over overlaps), ``ap50`` and ``ap75`` in 0..100, means over the classes that occur.

    Difficult objects neither count nor hurt.

    Args:
        found: detections of each image of ``data``.
    """
    evidence = DetectionEvidence(match(data.objects, found, len(data.classes)), curve)
    table = evidence.precisions(np.arange(len(data)))
    known = table[:, ~np.isnan(table[0])]
    return {"ap": float(known.mean()), "ap50": float(known[0].mean()), "ap75": float(known[5].mean())}, evidence


def match(truth: Sequence[Objects], found: Sequence[Detections], classes: int) -> Matches:
    """VOC's matching: a detection goes to the object that it overlaps most, and hits if it is the first there."""
    objects = np.zeros((len(truth), classes), np.int64)
    image, hits, ignores = [], [], []
    for position, (known, one) in enumerate(zip(truth, found, strict=True)):
        objects[position] = np.bincount(known.labels[~known.crowd], minlength=classes)
        hit = np.zeros((len(THRESHOLDS), len(one.scores)), bool)
        ignored = hit.copy()
        for label in np.unique(one.labels):
            rows = np.flatnonzero(one.labels == label)
            rows = rows[np.argsort(-one.scores[rows], kind="stable")]
            mine = known.labels == label
            hit[:, rows], ignored[:, rows] = _match_class(known.boxes[mine], known.crowd[mine], one.boxes[rows])
        image.append(np.full(len(one.scores), position))
        hits.append(hit)
        ignores.append(ignored)
    labels = np.concatenate([one.labels for one in found])
    scores = np.concatenate([one.scores for one in found]).astype(np.float64)
    return Matches(np.concatenate(image), labels, scores, np.concatenate(hits, 1), np.concatenate(ignores, 1), objects)


def _match_class(objects: np.ndarray, difficult: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hits and ignored (T, n) of boxes (n, 4), from the highest score on."""
    hit = np.zeros((len(THRESHOLDS), len(boxes)), bool)
    ignored = hit.copy()
    if not len(objects):
        return hit, ignored
    pairs = torch.from_numpy(boxes.astype(np.float64))[:, None], torch.from_numpy(objects)[None]
    overlap = geometry.iou(*pairs).numpy()
    best, size = overlap.argmax(1), overlap.max(1)
    for t, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(objects), bool)
        for row in np.flatnonzero(size > threshold):
            if difficult[best[row]]:
                ignored[t, row] = True
            elif not taken[best[row]]:
                taken[best[row]] = hit[t, row] = True
    return hit, ignored
