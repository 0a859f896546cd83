"""Keypoints: Keypoint R-CNN with a feature pyramid, trained from a start, scored by object keypoint similarity."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator
from torch import Tensor

from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.detection.coco_metrics import coco_scores, coco_tools
from regionssl.evaluation.detection.detection import write_classes, write_losses, write_predictions
from regionssl.evaluation.detection.detectors import DetectorSettings
from regionssl.evaluation.detection.predictions import outputs
from regionssl.evaluation.detection.samples import Samples
from regionssl.evaluation.detection.training import TrainingSettings, fit
from regionssl.evaluation.keypoint_branch import KeypointBranch
from regionssl.evaluation.keypoint_pictures import draw_keypoints
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.person_detector import build_with_branch
from regionssl.evaluation.point_precision import COCO_KEYPOINTS, keypoint_scores
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.start import Start
from regionssl.labels.coco import coco
from regionssl.labels.sets import ObjectSet, Split

_SIGMA = 0.05


class KeypointTask(DetectorSettings, TrainingSettings):
    """Keypoints of persons or of other objects. The defaults are COCO's 1x schedule with SCRL 6.2's settings.

    Attributes:
        rpn_train: 1500 proposals are kept in training (SCRL 6.2).
        detections: of an image; COCO counts 20.
        box_beta: where the smooth-L1 loss of boxes turns linear (SCRL 6.2). That of proposals keeps torchvision's 1/9.
        convs, width: of the keypoint head, number and channels of its convolutions.
        sigmas: spread of each keypoint in the similarity, in shares of the square root of an object's area. None means
            COCO's where the keypoints are COCO's 17, by name; 0.05 for each of others.
        offset: what is added to the labels' coordinates to get places: COCO's name a pixel, whose centre is half a
            pixel further.
        pictures: how many validation images to draw.
    """

    task: ClassVar[str] = "keypoints"
    rpn_train: tuple[int, int] = (2000, 1500)
    detections: int = Field(20, ge=1)
    box_beta: float = Field(0.5, gt=0)
    convs: int = Field(8, ge=1)
    width: int = Field(512, ge=8)
    sigmas: tuple[float, ...] | None = None
    offset: float = 0.5
    pictures: int = Field(8, ge=0)

    @field_validator("sigmas")
    @classmethod
    def _positive(cls, sigmas: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if sigmas is not None and not all(0 < sigma < 1 for sigma in sigmas):
            raise ValueError("sigmas must lie between 0 and 1, such as 0.05")
        return sigmas

    def run(self, start: Start, data: Split[ObjectSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train on ``data.train``, score on ``data.val``; the primary metric is ``keypoint_ap``, ``box_ap`` beside.

        Images without a labelled keypoint do not train.

        Raises:
            InputError: labels without keypoints, sigmas for another number of them, a backbone that does not fit,
                unreadable images, or a loss that is not finite.
        """
        began = time.perf_counter()
        coco_tools()
        for name, one in (("training", data.train), ("validation", data.val)):
            _check(one, name)
        sigmas = self.similarity_spreads(data.val.keypoint_names)
        samples = Samples(trainable(data.train, self.offset), self, seed, keypoints=True)
        count = len(data.train.keypoint_names)
        model = build_with_branch(
            start,
            len(data.train.classes),
            self,
            self.box_beta,
            lambda pool, channels: KeypointBranch(pool, channels, self.convs, self.width, count),
            seed,
        )
        saved = SavedTraining(out, self, start, data.train, seed, device)
        losses = fit(model, samples, self, seed, device, saved)
        results = [
            result
            for position, output in enumerate(outputs(model, data.val, device, self.precision))
            for result in keypoint_results(output, position, self.offset)
        ]
        return self._outcome(data.val, results, sigmas, losses, out, began - saved.earlier)

    def similarity_spreads(self, names: tuple[str, ...]) -> tuple[float, ...] | None:
        """The sigmas for these keypoints; None for COCO's own. Says on the standard error when it makes them up.

        Raises:
            InputError: ``sigmas`` are for another number of keypoints.
        """
        if self.sigmas is not None:
            if len(self.sigmas) != len(names):
                raise InputError(
                    f"sigmas has {len(self.sigmas)} values, and the labels have {len(names)} keypoints "
                    f"({', '.join(names)}); give one for each, in this order"
                )
            return self.sigmas
        if names == COCO_KEYPOINTS:
            return None
        print(
            f"keypoints: not COCO's 17, so the similarity takes sigma {_SIGMA} for each of {len(names)}; set sigmas to "
            "change this",
            file=sys.stderr,
        )
        return (_SIGMA,) * len(names)

    def _outcome(
        self,
        val: ObjectSet,
        results: list[dict[str, Any]],
        sigmas: tuple[float, ...] | None,
        losses: list[float],
        out: Path,
        began: float,
    ) -> Outcome:
        truth = coco(val)
        scores, evidence = keypoint_scores(truth, [_without(result, "bbox") for result in results], sigmas)
        boxes, _ = coco_scores(truth, [_without(result, "keypoints") for result in results], "bbox")
        metrics = {f"keypoint_{name}": value for name, value in scores.items()}
        metrics |= {f"box_{name}": value for name, value in boxes.items()}
        out.mkdir(parents=True, exist_ok=True)
        table = evidence.precisions(np.arange(len(val)))
        artefacts = {
            "predictions": write_predictions(out / "predictions.json", results, val),
            "per_class": write_classes(out / "per_class.csv", table, evidence, val),
            "losses": write_losses(out / "losses.csv", losses),
        }
        if self.pictures:
            artefacts["pictures"] = draw_keypoints(out / "pictures", val, results, self.pictures)
        per_class = dict(zip(val.classes, table.mean(0).tolist(), strict=True))
        return Outcome("keypoint_ap", metrics, per_class, evidence, artefacts, time.perf_counter() - began)


def trainable(data: ObjectSet, offset: float) -> ObjectSet:
    """The images with a labelled keypoint, and keypoints as places."""
    chosen = [i for i, one in enumerate(data.objects) if _labelled(one.keypoints, one.crowd)]
    subset = data.subset(chosen)
    objects = []
    for one in subset.objects:
        assert one.keypoints is not None
        objects.append(replace(one, keypoints=one.keypoints + np.array([offset, offset, 0])))
    return replace(subset, objects=tuple(objects))


def keypoint_results(output: dict[str, Tensor], position: int, offset: float) -> list[dict[str, Any]]:
    """Detections of the image at ``position`` in COCO's result format, from the highest score on, with boxes too."""
    order = output["scores"].argsort(descending=True, stable=True)
    boxes, labels, scores, points = (
        output[key][order].double().cpu().numpy() for key in ("boxes", "labels", "scores", "keypoints")
    )
    points[..., :2] -= offset
    return [
        {
            "image_id": position + 1,
            "category_id": int(label),
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "keypoints": point.ravel().tolist(),
            "score": float(score),
        }
        for box, label, score, point in zip(boxes, labels, scores, points, strict=True)
    ]


def _labelled(keypoints: np.ndarray | None, crowd: np.ndarray) -> bool:
    return keypoints is not None and bool((keypoints[~crowd][..., 2] > 0).any())


def _check(data: ObjectSet, name: str) -> None:
    if not data.keypoint_names or not any(_labelled(one.keypoints, one.crowd) for one in data.objects):
        raise TooFewLabels(
            f"none of the {len(data)} {name} images has an object with labelled keypoints; give a COCO json whose "
            "category names keypoints and whose annotations have them"
        )


def _without(result: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != key}
