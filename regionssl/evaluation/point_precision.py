"""COCO's average precision by the similarity of points: object keypoint similarity, or any other.

pycocotools matches detections to objects from the highest score on, at similarities of 0.5 to 0.95, at most 20
detections an image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from regionssl.evaluation.detection.coco_metrics import coco_tools, matches_of
from regionssl.evaluation.detection.matches import DetectionEvidence

_NAMES = ("ap", "ap50", "ap75", "apm", "apl")

COCO_KEYPOINTS = (
    "nose",
    *(
        f"{side}_{joint}"
        for joint in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        for side in ("left", "right")
    ),
)

Entry = dict[str, Any]
Similarities = Callable[[Sequence[Entry], Sequence[Entry]], np.ndarray]
"""Objects (G) and results (D) of one image and class -> (D, G) float64."""


def keypoint_scores(
    truth: Entry, results: list[Entry], sigmas: Sequence[float] | None
) -> tuple[dict[str, float], DetectionEvidence]:
    """Average precisions by object keypoint similarity.

    Args:
        truth: a COCO json with keypoints; objects without a labelled one are ignored, as pycocotools does.
        results: in COCO's format, with keypoints.
        sigmas: per-keypoint spreads, shares of the square root of an object's area; None for COCO's of its 17.

    Returns:
        As :func:`similarity_scores`.
    """
    return _scores(truth, results, sigmas, None)


def similarity_scores(
    truth: Entry, results: list[Entry], similarities: Similarities
) -> tuple[dict[str, float], DetectionEvidence]:
    """Average precisions by a similarity of one's own.

    Args:
        truth: a COCO json; objects whose ``num_keypoints`` is 0 are ignored, as are crowds.
        results: in COCO's format, with boxes.

    Returns:
        ``ap``, ``ap50``, ``ap75``, and of medium and large objects ``apm``, ``apl``, in 0..100, without those that have
        no value because there is no such object; and the evidence of ``ap``.
    """
    return _scores(truth, results, None, similarities)


def _scores(
    truth: Entry, results: list[Entry], sigmas: Sequence[float] | None, similarities: Similarities | None
) -> tuple[dict[str, float], DetectionEvidence]:
    kind_of_coco, kind_of_evaluation = coco_tools()
    with contextlib.redirect_stdout(io.StringIO()):
        known = kind_of_coco()
        known.dataset = truth
        known.createIndex()
        found = known.loadRes([dict(result) for result in results]) if results else kind_of_coco()
        evaluation = kind_of_evaluation(known, found, "keypoints")
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        if similarities is not None:
            evaluation.computeOks = _table(known, found, similarities, evaluation.params.maxDets[-1])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(_NAMES, evaluation.stats[:5], strict=True))
    scores = {name: 100 * float(value) for name, value in values.items() if value > -1}
    return scores, DetectionEvidence(matches_of(evaluation, len(truth["images"])))


def _table(known: Any, found: Any, similarities: Similarities, most: int) -> Callable[[int, int], Any]:
    """What takes the place of pycocotools' ``computeOks``: rows of the results by descending score."""

    def of(image: int, category: int) -> Any:
        objects, results = (
            one.loadAnns(one.getAnnIds(imgIds=[image], catIds=[category])) if one.anns else [] for one in (known, found)
        )
        results = sorted(results, key=lambda result: -result["score"])[:most]
        return similarities(objects, results) if objects and results else []

    return of
