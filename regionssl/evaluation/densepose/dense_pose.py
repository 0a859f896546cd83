"""Dense pose: a detector with a dense-pose head, trained from a start, scored by geodesic point similarity."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor, nn

from regionssl.errors import InputError
from regionssl.evaluation.densepose.annotations import DensePose
from regionssl.evaluation.densepose.branch import DensePoseBranch, LossWeights
from regionssl.evaluation.densepose.head import DensePoseHead
from regionssl.evaluation.densepose.pictures import draw_dense_poses
from regionssl.evaluation.densepose.samples import DenseSamples, dense_poses
from regionssl.evaluation.densepose.scoring import DenseDetections, dense_scores, results
from regionssl.evaluation.densepose.similarity import DenseMaps, Similarity, geodesic_point_similarity, uv_similarity
from regionssl.evaluation.densepose.surface import FORMAT, SurfaceTable, load_surface
from regionssl.evaluation.detection.coco_metrics import coco_scores, coco_tools
from regionssl.evaluation.detection.detection import write_classes, write_losses
from regionssl.evaluation.detection.detectors import DetectorSettings
from regionssl.evaluation.detection.matches import DetectionEvidence
from regionssl.evaluation.detection.predictions import outputs
from regionssl.evaluation.detection.training import TrainingSettings, fit
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.person_detector import build_with_branch
from regionssl.evaluation.saved import SavedTraining
from regionssl.evaluation.start import Start
from regionssl.labels.coco import coco
from regionssl.labels.sets import ObjectSet, Split


class DensePoseTask(DetectorSettings, TrainingSettings):
    """Dense pose of persons.

    ReSim reports this task and publishes no settings (ReSim 6.4): the defaults are detectron2's schedule ``s1x`` and
    losses with a plain head, a convention and not the paper's protocol.

    Attributes:
        detections: of an image; COCO's scoring of points counts 20.
        surface: file with the distances along the body (:mod:`regionssl.evaluation.densepose.surface`). The score "gps"
            needs it, and mirrored training images (``flip``) its array mirror.
        score: "gps" is the published metric; "uv_similarity" needs no surface and compares with nothing published.
        box_beta: where the smooth-L1 loss of boxes turns linear.
        convs, width: of the dense-pose head, number and channels of its convolutions.
        coarse: classes of the body mask: 2, body or not, or 15, with its coarse parts.
        overlap: least IoU of a proposal with its person to train the dense-pose head.
        body_weight, part_weight, uv_weight: of the losses; that of u and v is a sum over points, the others are means.
        pictures: how many validation images to draw.
    """

    task: ClassVar[str] = "dense_pose"
    detections: int = Field(20, ge=1)
    surface: Path | None = None
    score: Literal["gps", "uv_similarity"] = "gps"
    box_beta: float = Field(1 / 9, gt=0)
    convs: int = Field(8, ge=1)
    width: int = Field(512, ge=8)
    coarse: Literal[2, 15] = 2
    overlap: float = Field(0.7, ge=0.5, le=1)
    body_weight: float = Field(5.0, ge=0)
    part_weight: float = Field(1.0, ge=0)
    uv_weight: float = Field(0.01, ge=0)
    pictures: int = Field(8, ge=0)

    @model_validator(mode="after")
    def _whole_boxes(self) -> DensePoseTask:
        if self.jitter is not None:
            raise ValueError("dense pose lies in shares of whole boxes, so images are not cut: leave jitter out")
        return self

    def run(self, start: Start, data: Split[ObjectSet], out: Path, seed: int = 0, device: str = "cpu") -> Outcome:
        """Train on ``data.train``, score on ``data.val``; the primary metric is ``gps_ap`` or ``uv_similarity_ap``.

        Raises:
            InputError: no surface where one is needed, labels without dense pose, a backbone that does not fit,
                unreadable images, or a loss that is not finite.
        """
        began = time.perf_counter()
        coco_tools()
        surface = load_surface(self.surface) if self.surface else None
        similarity = self.similarity(surface)
        poses = dense_poses(data.val)
        samples = DenseSamples(data.train, self, self._mirrors(surface), seed)
        if surface is not None:
            _check_parts(surface, [*poses, *samples.poses])
        model = self._detector(start, len(data.train.classes), seed)
        saved = SavedTraining(out, self, start, data.train, seed, device)
        losses = fit(model, samples, self, seed, device, saved)
        found = [detections(output) for output in outputs(model, data.val, device, self.precision)]
        scores, evidence = dense_scores(coco(data.val), poses, found, similarity)
        metrics = {f"{self.score}_{name}": value for name, value in scores.items()}
        boxes, _ = coco_scores(coco(data.val), results(found), "bbox")
        metrics |= {f"box_{name}": value for name, value in boxes.items()}
        table = evidence.precisions(np.arange(len(data.val)))
        per_class = dict(zip(data.val.classes, table.mean(0).tolist(), strict=True))
        artefacts = self._write(out, found, data.val, table, evidence, losses)
        seconds = saved.earlier + time.perf_counter() - began
        return Outcome(f"{self.score}_ap", metrics, per_class, evidence, artefacts, seconds)

    def similarity(self, surface: SurfaceTable | None) -> Similarity:
        """What poses are compared by. Says on the standard error when it is not the published metric.

        Raises:
            InputError: GPS without a surface.
        """
        if self.score == "uv_similarity":
            print(
                "dense pose: uv_similarity is not GPS and compares with no published number; GPS needs score=gps and "
                "a surface file",
                file=sys.stderr,
            )
            return uv_similarity
        if surface is None:
            raise InputError(
                "GPS needs distances along the body's surface, which no package may ship: set surface to a file that "
                f"holds them ({FORMAT}), or set score=uv_similarity, which compares with no published number"
            )
        return geodesic_point_similarity(surface)

    def _mirrors(self, surface: SurfaceTable | None) -> SurfaceTable | None:
        if self.flip and (surface is None or surface.reflection is None):
            raise InputError(
                "mirrored training images need a surface file with the array mirror, which tells the points of the "
                "body's other side; set surface to one, or set flip=0"
            )
        return surface

    def _detector(self, start: Start, classes: int, seed: int) -> nn.Module:
        weights = LossWeights(self.body_weight, self.part_weight, self.uv_weight)
        return build_with_branch(
            start,
            classes,
            self,
            self.box_beta,
            lambda pool, channels: DensePoseBranch(
                pool, DensePoseHead(channels, self.convs, self.width, self.coarse), self.coarse, self.overlap, weights
            ),
            seed,
        )

    def _write(
        self,
        out: Path,
        found: Sequence[DenseDetections],
        val: ObjectSet,
        table: np.ndarray,
        evidence: DetectionEvidence,
        losses: Sequence[float],
    ) -> dict[str, Path]:
        out.mkdir(parents=True, exist_ok=True)
        artefacts = {
            "predictions": write_predictions(out / "predictions.npz", found, val),
            "per_class": write_classes(out / "per_class.csv", table, evidence, val),
            "losses": write_losses(out / "losses.csv", losses),
        }
        if self.pictures:
            artefacts["pictures"] = draw_dense_poses(out / "pictures", val, found, self.pictures)
        return artefacts


def _check_parts(surface: SurfaceTable, poses: Sequence[Sequence[DensePose | None]]) -> None:
    annotated = {
        int(part) for image in poses for pose in image if pose is not None for part in np.unique(pose.points.part)
    }
    missing = sorted(annotated - set(surface.part.tolist()))
    if missing:
        raise InputError(
            f"points of the parts {missing} are annotated, and the surface file has no vertex of them; give one with "
            "every part"
        )


def detections(output: dict[str, Tensor]) -> DenseDetections:
    """A detector's output for an image, from the highest score on."""
    order = output["scores"].argsort(descending=True, stable=True)
    one = {key: values[order].cpu().numpy() for key, values in output.items()}
    maps = DenseMaps(one["dense_part"], one["dense_u"], one["dense_v"])
    return DenseDetections(one["boxes"].astype(np.float64), one["scores"].astype(np.float64), one["labels"] - 1, maps)


def write_predictions(path: Path, found: Sequence[DenseDetections], val: ObjectSet) -> Path:
    """All detections in an .npz: ``image`` (D,) positions in ``names``, ``box`` (D, 4), ``score`` and ``label`` (D,),
    ``part``, ``u`` and ``v`` (D, 56, 56) uint8."""
    np.savez_compressed(
        path,
        names=np.array(list(val.images.names)),
        classes=np.array(val.classes),
        image=np.repeat(np.arange(len(found)), [len(one.scores) for one in found]),
        box=np.concatenate([one.boxes for one in found]),
        score=np.concatenate([one.scores for one in found]),
        label=np.concatenate([one.labels for one in found]),
        part=np.concatenate([one.maps.part for one in found]),
        u=np.concatenate([one.maps.u for one in found]),
        v=np.concatenate([one.maps.v for one in found]),
    )
    return path
