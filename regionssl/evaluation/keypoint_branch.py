"""The keypoint branch of torchvision's Keypoint R-CNN."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import keypointrcnn_inference, keypointrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from regionssl.evaluation.roi_branch import Branch, Features, Sizes, Targets


class KeypointBranch(Branch):
    """3x3 convolutions on 14 x 14, a deconvolution and an enlargement to heatmaps of 56 x 56, one for each keypoint.

    Args:
        pool: RoI features of the pyramid, 14 x 14, of ``channels``.
        convs, width: number and channels of the convolutions.
    """

    def __init__(self, pool: MultiScaleRoIAlign, channels: int, convs: int, width: int, keypoints: int) -> None:
        super().__init__()
        self.pool = pool
        self.heatmaps = nn.Sequential(
            KeypointRCNNHeads(channels, [width] * convs), KeypointRCNNPredictor(width, keypoints)
        )

    def losses(
        self, features: Features, sizes: Sizes, proposals: list[Tensor], matched: list[Tensor], targets: Targets
    ) -> dict[str, Tensor]:
        """Cross-entropy over the cells of a heatmap, of the keypoints ``targets`` show inside the proposals."""
        heatmaps = self._drawn(features, proposals, sizes)
        keypoints = [target["keypoints"] for target in targets]
        return {"loss_keypoint": keypointrcnn_loss(heatmaps, proposals, keypoints, matched)}

    def predict(self, features: Features, sizes: Sizes, boxes: list[Tensor]) -> list[dict[str, Tensor]]:
        """``keypoints`` (D, K, 3), x y 1, and ``keypoints_scores`` (D, K) of each image's detections."""
        heatmaps = self._drawn(features, boxes, sizes)
        points, scores = keypointrcnn_inference(heatmaps, boxes)
        return [{"keypoints": a, "keypoints_scores": b} for a, b in zip(points, scores, strict=True)]

    def _drawn(self, features: Features, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """Heatmaps (D, K, h, w), channels first in memory: torchvision's loss looks at them as rows."""
        return self.heatmaps(self.pool(features, boxes, sizes)).float().contiguous()
