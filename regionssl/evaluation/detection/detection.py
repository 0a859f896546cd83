"""Object detection and instance segmentation: a detector trained from a start, scored as COCO or VOC do."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from regionssl.errors import InputError
from regionssl.evaluation.detection.coco_metrics import coco_scores, coco_tools
from regionssl.evaluation.detection.detectors import DetectorSettings, Kind, build
from regionssl.evaluation.detection.matches import DetectionEvidence
from regionssl.evaluation.detection.pictures import draw_pictures
from regionssl.evaluation.detection.predictions import Detections, coco_results, detect
from regionssl.evaluation.detection.samples import Samples
from regionssl.evaluation.detection.training import TrainingSettings, fit
from regionssl.evaluation.detection.voc_metrics import voc_scores
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.start import Start
from regionssl.labels.coco import coco
from regionssl.labels.sets import ObjectSet, Split


class _Settings(DetectorSettings, TrainingSettings):
    """What both tasks have in common.

    Attributes:
        pictures: how many validation images to draw.
    """

    pictures: int = Field(8, ge=0)


class DetectionTask(_Settings):
    """Boxes.

    Attributes:
        detector: of torchvision's parts. C4 ones need a ResNet.
        metric: "coco" is COCO's average precision; "voc07" and "voc12" are VOC's, at 11 recalls and at all of them.
    """

    task: ClassVar[str] = "detection"
    detector: Literal["faster_rcnn_fpn", "faster_rcnn_c4", "retinanet", "fcos"] = "faster_rcnn_fpn"
    metric: Literal["coco", "voc07", "voc12"] = "coco"

    def run(self, start: Start, data: Split[ObjectSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train on ``data.train``, score on ``data.val``; the primary metric is ``box_ap``.

        Raises:
            InputError: labels without objects, a backbone that does not fit, unreadable images, or a loss that is not
                finite.
        """
        began = time.perf_counter()
        coco_tools()
        saved = SavedTraining(out, self, start, data.train, seed, device)
        found, losses = _trained(self, self.detector, start, data, False, saved, seed, device)
        began -= saved.earlier
        if self.metric == "coco":
            scores, evidence = coco_scores(coco(data.val), coco_results(found), "bbox")
        else:
            scores, evidence = voc_scores(data.val, found, self.metric)
        metrics = {f"box_{name}": value for name, value in scores.items()}
        return _outcome("box_ap", metrics, evidence, found, losses, data.val, out, self.pictures, began)


class InstanceTask(_Settings):
    """Masks, and their boxes.

    Attributes:
        detector: of torchvision's parts. The C4 one needs a ResNet.
    """

    task: ClassVar[str] = "instance_segmentation"
    detector: Literal["mask_rcnn_fpn", "mask_rcnn_c4"] = "mask_rcnn_fpn"

    def run(self, start: Start, data: Split[ObjectSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train on ``data.train``, score on ``data.val``. The primary metric is ``mask_ap``; ``box_ap`` is beside.

        Raises:
            InputError: as :meth:`DetectionTask.run`, or objects without masks.
        """
        began = time.perf_counter()
        coco_tools()
        _check_masks(data)
        saved = SavedTraining(out, self, start, data.train, seed, device)
        found, losses = _trained(self, self.detector, start, data, True, saved, seed, device)
        began -= saved.earlier
        truth, results = coco(data.val), coco_results(found)
        masks, evidence = coco_scores(truth, results, "segm")
        boxes, _ = coco_scores(truth, results, "bbox")
        metrics = {f"mask_{name}": value for name, value in masks.items()}
        metrics |= {f"box_{name}": value for name, value in boxes.items()}
        return _outcome("mask_ap", metrics, evidence, found, losses, data.val, out, self.pictures, began)


def _trained(
    settings: _Settings,
    kind: Kind,
    start: Start,
    data: Split[ObjectSet],
    masks: bool,
    saved: SavedTraining,
    seed: int,
    device: str,
) -> tuple[list[Detections], list[float]]:
    """Detections on the validation images of a detector trained on the others, and the loss of every iteration."""
    if not any((~one.crowd).any() for one in data.val.objects):
        raise InputError(f"none of the {len(data.val)} validation images has an object; there is nothing to score")
    samples = Samples(data.train, settings, seed, masks)
    model = build(kind, start, len(data.train.classes), settings, seed)
    losses = fit(model, samples, settings, seed, device, saved)
    with torch.random.fork_rng(devices=[]):
        return detect(model, data.val, device, settings.precision), losses


def _check_masks(data: Split[ObjectSet]) -> None:
    for name, one in (("training", data.train), ("validation", data.val)):
        lacking = sum(len(objects.masks) < len(objects.boxes) for objects in one.objects)
        if lacking:
            raise InputError(
                f"instance segmentation needs masks, and in {lacking} of the {len(one)} {name} images objects have "
                "boxes alone; give labels with masks, or use the task detection"
            )


def _outcome(
    primary: str,
    metrics: dict[str, float],
    evidence: DetectionEvidence,
    found: Sequence[Detections],
    losses: Sequence[float],
    val: ObjectSet,
    out: Path,
    pictures: int,
    began: float,
) -> Outcome:
    out.mkdir(parents=True, exist_ok=True)
    table = evidence.precisions(np.arange(len(val)))
    per_class = dict(zip(val.classes, table.mean(0).tolist(), strict=True))
    artefacts = {
        "predictions": write_predictions(out / "predictions.json", coco_results(list(found)), val),
        "per_class": write_classes(out / "per_class.csv", table, evidence, val),
        "losses": write_losses(out / "losses.csv", losses),
    }
    if pictures:
        artefacts["pictures"] = draw_pictures(out / "pictures", val, found, pictures)
    return Outcome(primary, metrics, per_class, evidence, artefacts, time.perf_counter() - began)


def write_predictions(path: Path, results: Sequence[dict[str, Any]], val: ObjectSet) -> Path:
    """COCO results; each also names its image and class, since the ids count positions."""
    named = [
        result
        | {"file_name": val.images.names[result["image_id"] - 1], "category": val.classes[result["category_id"] - 1]}
        for result in results
    ]
    path.write_text(json.dumps(named))
    return path


def write_classes(path: Path, table: np.ndarray, evidence: DetectionEvidence, val: ObjectSet) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "objects", "ap", "ap50", "ap75"])
        counts = evidence.matches.objects.sum(0)
        for name, count, column in zip(val.classes, counts, table.T, strict=True):
            values = (column.mean(), column[0], column[5])
            writer.writerow([name, count, *("" if np.isnan(value) else f"{value:.3f}" for value in values)])
    return path


def write_losses(path: Path, losses: Sequence[float]) -> Path:
    rows = [f"{iteration},{loss:.6g}" for iteration, loss in enumerate(losses)]
    path.write_text("\n".join(["iteration,loss", *rows, ""]))
    return path
