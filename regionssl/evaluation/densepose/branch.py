"""The dense-pose branch of a two-stage detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from regionssl import geometry
from regionssl.evaluation.densepose.head import DenseOutput, DensePoseHead
from regionssl.evaluation.densepose.losses import RegionTargets, dense_pose_losses, region_targets
from regionssl.evaluation.roi_branch import Branch, Features, Sizes, Targets


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses of the body, the parts and the charts."""

    body: float
    part: float
    uv: float


class DensePoseBranch(Branch):
    """Head, losses and read-out.

    Args:
        pool: RoI features of the pyramid, 14 x 14.
        coarse: 2 or 15 classes of the body.
        overlap: least IoU of a proposal with its person to train the branch.
    """

    def __init__(
        self, pool: MultiScaleRoIAlign, head: DensePoseHead, coarse: int, overlap: float, weights: LossWeights
    ) -> None:
        super().__init__()
        self.pool, self.head = pool, head
        self.coarse, self.overlap, self.weights = coarse, overlap, weights

    def losses(
        self,
        features: Features,
        sizes: Sizes,
        proposals: list[Tensor],
        matched: list[Tensor],
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Losses over the proposals whose person has dense pose and overlaps enough.

        Args:
            targets: with ``dense_known`` (N,) bool and what :func:`region_targets` reads.
        """
        chosen = []
        for boxes, persons, target in zip(proposals, matched, targets, strict=True):
            close = geometry.iou(boxes, target["boxes"][persons]) >= self.overlap
            chosen.append(torch.where(close & target["dense_known"][persons])[0])
        regions = [boxes[rows] for boxes, rows in zip(proposals, chosen, strict=True)]
        output = self._output(features, sizes, regions)
        side = output.part.shape[-1]
        wanted = [
            region_targets(boxes, persons[rows], target["boxes"], target, side, self.coarse)
            for boxes, persons, rows, target in zip(regions, matched, chosen, targets, strict=True)
        ]
        weights = self.weights
        return dense_pose_losses(output, _joined(wanted), weights.body, weights.part, weights.uv)

    def predict(self, features: Features, sizes: Sizes, boxes: list[Tensor]) -> list[dict[str, Tensor]]:
        """``dense_part``, ``dense_u`` and ``dense_v`` of each image's detections (:meth:`DenseOutput.read_out`)."""
        read = self._output(features, sizes, boxes).read_out()
        split = {name: values.split([len(one) for one in boxes]) for name, values in read.items()}
        return [{name: values[i] for name, values in split.items()} for i in range(len(boxes))]

    def _output(self, features: Features, sizes: Sizes, boxes: list[Tensor]) -> DenseOutput:
        return self.head(self.pool(features, boxes, sizes))


def _joined(parts: Sequence[RegionTargets]) -> RegionTargets:
    """Targets of all images; points are filled up to the largest number."""
    most = max(one.part.shape[1] for one in parts)

    def fill(values: Tensor) -> Tensor:
        return torch.cat([values, values.new_zeros(len(values), most - values.shape[1], *values.shape[2:])], 1)

    return RegionTargets(
        torch.cat([one.body for one in parts]),
        torch.cat([fill(one.grid) for one in parts]),
        torch.cat([fill(one.part) for one in parts]),
        torch.cat([fill(one.uv) for one in parts]),
    )
