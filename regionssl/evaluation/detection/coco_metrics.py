"""COCO's average precision through pycocotools."""

from __future__ import annotations

import contextlib
import io
from types import ModuleType
from typing import Any, Literal

import numpy as np

from regionssl.errors import InputError
from regionssl.evaluation.detection.matches import THRESHOLDS, DetectionEvidence, Matches

_NAMES = ("ap", "ap50", "ap75", "aps", "apm", "apl")


def coco_tools() -> tuple[Any, Any]:
    """pycocotools' ``COCO`` and ``COCOeval``.

    Raises:
        InputError: they are not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise InputError("detection needs pycocotools: pip install 'regionssl[evaluation]'") from error
    return COCO, COCOeval


def mask_tools() -> ModuleType:
    """pycocotools' ``mask``.

    Raises:
        InputError: they are not installed.
    """
    coco_tools()
    from pycocotools import mask

    return mask


def coco_scores(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: Literal["bbox", "segm"]
) -> tuple[dict[str, float], DetectionEvidence]:
    """Average precisions of results in COCO's format.

    Args:
        truth: from :func:`regionssl.labels.coco.coco`, with masks for "segm".

    Returns:
        ``ap``, ``ap50``, ``ap75``, and by size ``aps``, ``apm``, ``apl``, in 0..100, without those that have no value
        because there is no such object; and the evidence of ``ap``.
    """
    kind_of_coco, kind_of_evaluation = coco_tools()
    with contextlib.redirect_stdout(io.StringIO()):
        known = kind_of_coco()
        known.dataset = truth
        known.createIndex()
        found = known.loadRes([_alone(result, kind) for result in results]) if results else kind_of_coco()
        evaluation = kind_of_evaluation(known, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(_NAMES, evaluation.stats[:6], strict=True))
    scores = {name: 100 * float(value) for name, value in values.items() if value > -1}
    return scores, DetectionEvidence(matches_of(evaluation, len(truth["images"])))


def _alone(result: dict[str, Any], kind: str) -> dict[str, Any]:
    """A result without its other shape: beside a box, pycocotools would take the box's area for the mask's."""
    return {key: value for key, value in result.items() if key != ("bbox" if kind == "segm" else "segmentation")}


def matches_of(evaluation: Any, images: int) -> Matches:
    """What pycocotools matched, objects of all sizes."""
    classes = len(evaluation.params.catIds)
    objects = np.zeros((images, classes), np.int64)
    parts: list[tuple[np.ndarray, ...]] = []
    areas = len(evaluation.params.areaRng)
    for label in range(classes):
        start = label * areas * images  # by class, size class (all sizes first) and image
        for position, one in enumerate(evaluation.evalImgs[start : start + images]):
            if one is None:
                continue
            objects[position, label] = np.count_nonzero(~np.asarray(one["gtIgnore"], bool))
            scores = np.asarray(one["dtScores"], np.float64)
            ignored = np.asarray(one["dtIgnore"], bool)
            hit = (np.asarray(one["dtMatches"]) > 0) & ~ignored
            parts.append((np.full(len(scores), position), np.full(len(scores), label), scores, hit, ignored))
    if not parts:
        nothing, none = np.zeros(0), np.zeros((len(THRESHOLDS), 0), bool)
        return Matches(nothing.astype(np.int64), nothing.astype(np.int64), nothing, none, none, objects)
    image, label_of, score, hits, ignores = (np.concatenate(part, -1) for part in zip(*parts, strict=True))
    return Matches(image, label_of, score, hits, ignores, objects)
