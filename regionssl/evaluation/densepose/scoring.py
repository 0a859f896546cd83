"""Average precision of dense poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regionssl.evaluation.densepose.annotations import DensePose
from regionssl.evaluation.densepose.similarity import DenseMaps, Similarity
from regionssl.evaluation.detection.coco_metrics import mask_tools
from regionssl.evaluation.detection.matches import DetectionEvidence
from regionssl.evaluation.point_precision import Entry, similarity_scores

UNLABELLED_OVERLAP = 0.5
"""A detection that overlaps a person without annotated points, or lies in a crowd, by as much is ignored."""


@dataclass(frozen=True)
class DenseDetections:
    """Of one image, from the highest score on.

    Attributes:
        boxes: (D, 4) float64, x0 y0 x1 y1, frame of the upright image.
        scores: (D,) float64.
        labels: (D,) int64, from 0.
        maps: of each detection.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    maps: DenseMaps


def results(found: Sequence[DenseDetections]) -> list[Entry]:
    """Boxes in COCO's result format, with the place of each among the image's detections as ``row``."""
    return [
        {
            "image_id": position + 1,
            "category_id": int(one.labels[row]) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(one.scores[row]),
            "row": row,
        }
        for position, one in enumerate(found)
        for row, (x0, y0, x1, y1) in enumerate(one.boxes.tolist())
    ]


def dense_scores(
    truth: Entry,
    poses: Sequence[Sequence[DensePose | None]],
    found: Sequence[DenseDetections],
    similarity: Similarity,
) -> tuple[dict[str, float], DetectionEvidence]:
    """Average precisions by a similarity of points, such as GPS.

    A person counts where points are annotated. Detections of others, and within crowds, count neither way: those that
    no counting person takes and that overlap one of these boxes by half (of the union; of the detection for crowds).

    Args:
        truth: a COCO json of the images, objects in the order of ``poses``.

    Returns:
        As :func:`regionssl.evaluation.point_precision.similarity_scores`.
    """
    flat = [pose for image in poses for pose in image]
    annotations = [
        {**annotation, "pose": row, "num_keypoints": 0 if pose is None else len(pose.places)}
        for row, (annotation, pose) in enumerate(zip(truth["annotations"], flat, strict=True))
    ]

    def similarities(objects: Sequence[Entry], detected: Sequence[Entry]) -> np.ndarray:
        table = _overlaps(objects, detected)
        one = found[detected[0]["image_id"] - 1]
        rows = np.array([entry["row"] for entry in detected])
        maps = DenseMaps(one.maps.part[rows], one.maps.u[rows], one.maps.v[rows])
        for column, entry in enumerate(objects):
            pose = flat[entry["pose"]]
            if pose is not None and entry["num_keypoints"] and not entry["iscrowd"]:
                corner, extent = np.split(np.array(entry["bbox"]), 2)
                table[:, column] = similarity(maps.at(one.boxes[rows], corner + pose.places * extent), pose.points)
        return table

    return similarity_scores({**truth, "annotations": annotations}, results(found), similarities)


def _overlaps(objects: Sequence[Entry], detected: Sequence[Entry]) -> np.ndarray:
    """(D, G): 1 where a detection overlaps an object by half, else 0."""
    boxes: list[Any] = [np.array([entry["bbox"] for entry in entries], np.float64) for entries in (detected, objects)]
    share = mask_tools().iou(*boxes, [entry["iscrowd"] for entry in objects])
    return (np.asarray(share) >= UNLABELLED_OVERLAP).astype(np.float64)
