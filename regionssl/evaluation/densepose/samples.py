"""Training samples with dense pose."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.densepose.annotations import SIDE, DensePose, read_dense_pose
from regionssl.evaluation.densepose.surface import SurfaceTable
from regionssl.evaluation.detection.samples import InputSettings, Samples, Target
from regionssl.labels.sets import ObjectSet


def dense_poses(data: ObjectSet) -> tuple[tuple[DensePose | None, ...], ...]:
    """The dense pose of every object of every image; None for crowds and where nothing is annotated.

    Raises:
        InputError: an annotation cannot be used.
        TooFewLabels: there is none.
    """
    found = tuple(
        tuple(
            None if fields is None or crowd else read_dense_pose(fields, f"object {k + 1} of {name}")
            for k, (fields, crowd) in enumerate(zip(one.dense, one.crowd, strict=True))
        )
        if one.dense
        else (None,) * len(one.labels)
        for one, name in zip(data.objects, data.images.names, strict=True)
    )
    if all(pose is None or not len(pose.places) for one in found for pose in one):
        raise TooFewLabels(
            f"none of the {len(data)} images has an object with dense pose; give a COCO json with dp_x, dp_y, dp_I, "
            "dp_U, dp_V and dp_masks"
        )
    return found


class DenseSamples:
    """A set's images for training, with what the branch learns from in the targets.

    Targets are those of :class:`Samples` and, for N objects with at most P points: ``dense_known`` (N,) bool,
    ``dense_body`` (N, 256, 256) uint8, ``dense_places`` (N, P, 2) float32, ``dense_part`` (N, P) int64 and ``dense_uv``
    (N, P, 2) float32. They are in shares of the boxes, so they move with them; a mirror exchanges left and right.

    Args:
        surface: needed where samples are mirrored.
    """

    def __init__(self, data: ObjectSet, settings: InputSettings, surface: SurfaceTable | None, seed: int = 0) -> None:
        self.samples, self.surface = Samples(data, settings, seed), surface
        self.poses = dense_poses(data)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, i: int) -> str:
        """Of the image, for messages."""
        return self.samples.name(i)

    def draw(self, i: int, epoch: int) -> tuple[Tensor, Target]:
        """Sample ``i`` as it is seen in an epoch."""
        image, target = self.samples.draw(i, epoch)
        poses = self.poses[int(target["position"])]
        chosen = [poses[row] for row in target["rows"].tolist()]
        if bool(target["flip"]):
            chosen = [pose and self._mirrored(pose) for pose in chosen]
        return image, target | dense_target(chosen)

    def _mirrored(self, pose: DensePose) -> DensePose:
        if self.surface is None:
            raise InputError("mirrored dense pose needs a surface with mirror; set surface, or flip: 0")
        return mirrored(pose, self.surface)


def mirrored(pose: DensePose, surface: SurfaceTable) -> DensePose:
    """The dense pose of a person in the mirrored image."""
    places = np.stack([1 - pose.places[:, 0], pose.places[:, 1]], 1)
    return DensePose(places, surface.mirror(pose.points), pose.masks, not pose.mirrored)


def dense_target(poses: list[DensePose | None]) -> Target:
    """Dense poses of the N objects of an image as tensors (:class:`DenseSamples`)."""
    most = max((len(pose.places) for pose in poses if pose is not None), default=0)
    known = np.array([pose is not None for pose in poses], bool)
    body = np.zeros((len(poses), SIDE, SIDE), np.uint8)
    part = np.zeros((len(poses), most), np.int64)
    places, uv = np.zeros((2, len(poses), most, 2), np.float32)
    for row, pose in enumerate(poses):
        if pose is None:
            continue
        count = len(pose.places)
        body[row], places[row, :count], part[row, :count] = pose.body(), pose.places, pose.points.part
        uv[row, :count] = np.stack([pose.points.u, pose.points.v], 1)
    arrays = {"known": known, "body": body, "places": places, "part": part, "uv": uv}
    return {f"dense_{name}": torch.from_numpy(values) for name, values in arrays.items()}
