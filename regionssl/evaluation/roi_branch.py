"""RoI heads whose detections carry more than a box: torchvision's box stage, then one branch on features of its own.

The branch sees the positive proposals in training and the detections in testing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

Features = Mapping[str, Tensor]
Sizes = list[tuple[int, int]]
Targets = list[dict[str, Tensor]]


class Branch(nn.Module):
    """What the second stage does beyond boxes. Boxes and targets are in the frame of the resized images."""

    @abstractmethod
    def losses(
        self, features: Features, sizes: Sizes, proposals: list[Tensor], matched: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """Losses by name; ``matched`` (P,) int64 are the objects that the positive proposals (P, 4) stand for."""

    @abstractmethod
    def predict(self, features: Features, sizes: Sizes, boxes: list[Tensor]) -> list[dict[str, Tensor]]:
        """What belongs to the detections (D, 4) of each image, by name, D rows each."""


class BranchedRoIHeads(nn.Module):
    """RoI heads of torchvision's interface: a box stage and a :class:`Branch`.

    Args:
        boxes: torchvision's heads without masks and keypoints.
        beta: where the smooth-L1 loss of boxes turns linear.
    """

    def __init__(self, boxes: RoIHeads, branch: Branch, beta: float) -> None:
        super().__init__()
        self.boxes, self.branch, self.beta = boxes, branch, beta

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: Sizes,
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's: detections in evaluation mode, losses in training mode."""
        if not self.training:
            return self._detect(features, proposals, image_shapes), {}
        assert targets is not None
        proposals, matched, labels, regression = self.boxes.select_training_samples(proposals, targets)
        scores, offsets = self._predict(features, proposals, image_shapes)
        losses = box_losses(scores, offsets, torch.cat(labels), torch.cat(regression), self.beta)
        positive = [one > 0 for one in labels]
        proposals = [boxes[chosen] for boxes, chosen in zip(proposals, positive, strict=True)]
        matched = [rows[chosen] for rows, chosen in zip(matched, positive, strict=True)]
        return [], losses | self.branch.losses(features, image_shapes, proposals, matched, targets)

    def _predict(self, features: Features, proposals: list[Tensor], sizes: Sizes) -> tuple[Tensor, Tensor]:
        pooled = self.boxes.box_head(self.boxes.box_roi_pool(features, proposals, sizes))
        scores, offsets = self.boxes.box_predictor(pooled)
        return scores.float(), offsets.float()

    def _detect(self, features: Features, proposals: list[Tensor], sizes: Sizes) -> list[dict[str, Tensor]]:
        scores, offsets = self._predict(features, proposals, sizes)
        boxes, confidences, labels = self.boxes.postprocess_detections(scores, offsets, proposals, sizes)
        further = self.branch.predict(features, sizes, boxes)
        return [
            {"boxes": box, "labels": label, "scores": confidence, **more}
            for box, label, confidence, more in zip(boxes, labels, confidences, further, strict=True)
        ]


def box_losses(scores: Tensor, offsets: Tensor, labels: Tensor, regression: Tensor, beta: float) -> dict[str, Tensor]:
    """Losses of the box stage: cross-entropy, and smooth L1 of the true class's offsets summed over all proposals.

    Args:
        scores: (P, C + 1), background first; offsets: (P, 4 * (C + 1)).
        labels: (P,) int64; regression: (P, 4) true offsets.
    """
    positive = torch.where(labels > 0)[0]
    own = offsets.view(len(labels), -1, 4)[positive, labels[positive]]
    box = F.smooth_l1_loss(own, regression[positive], beta=beta, reduction="sum") / max(labels.numel(), 1)
    return {"loss_classifier": F.cross_entropy(scores, labels), "loss_box_reg": box}
