"""R-CNNs on c4 alone, whose head is the last stage of the ResNet (ReSim 6.2, PLRC 6.2; MoCo's protocol)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss

from regionssl.backbones.encoder import pool
from regionssl.errors import InputError
from regionssl.evaluation.detection.norms import HeadNorm, is_resnet, norm_layer
from regionssl.evaluation.detection.trunks import C4Trunk, TrunkSettings, prepared, settle
from regionssl.evaluation.start import Start


def c4_trunk(start: Start, settings: TrunkSettings, seed: int) -> tuple[C4Trunk, nn.Module, int]:
    """The backbone up to c4, its last stage as a head of regions, and the channels of that.

    Raises:
        InputError: the backbone is not a ResNet.
    """
    whole = start.encoder(("c4", "c5"), seed)
    if not is_resnet(whole.body):
        raise InputError(
            f"C4 detectors apply the last stage of a ResNet to regions, and {whole.name} is none; use a detector with "
            "a pyramid, such as faster_rcnn_fpn"
        )
    settle(whole, start, settings)
    return C4Trunk(prepared(start, ("c4",), settings, seed)), whole.body.layer4, whole.channels["c5"]


class RegionStage(nn.Sequential):
    """The last stage on maps of regions, (R, C, 14, 14) -> (R, D, 7, 7), and a norm after it (none for "none")."""

    def __init__(self, stage: nn.Module, channels: int, norm: HeadNorm) -> None:
        layer = norm_layer(norm)
        super().__init__(stage, nn.Identity() if layer is None else layer(channels))


class C4Heads(RoIHeads):  # type: ignore[misc]
    """RoI heads whose box and mask branch share one pass of the last stage.

    ``box_head`` is a :class:`RegionStage`; the boxes are predicted from the mean of its map, the masks from the map
    itself: a transposed convolution to 14 x 14, then one for each class.
    """

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        maps = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, regression = self.box_predictor(pool(maps))
        boxes, scores, labels = self.postprocess_detections(logits, regression, proposals, image_shapes)
        results = [
            {"boxes": box, "labels": label, "scores": score}
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
        if self.mask_predictor is not None:
            kept = self.box_head(self.box_roi_pool(features, boxes, image_shapes))
            for result, masks in zip(results, maskrcnn_inference(self.mask_predictor(kept), labels), strict=True):
                result["masks"] = masks
        return results, {}

    def _losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]], targets: Any
    ) -> dict[str, Tensor]:
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        maps = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, regression = self.box_predictor(pool(maps))
        classes, boxes = fastrcnn_loss(logits, regression, labels, regression_targets)
        losses = {"loss_classifier": classes, "loss_box_reg": boxes}
        if self.mask_predictor is not None:
            positive = [torch.where(label > 0)[0] for label in labels]
            masks = self.mask_predictor(maps[torch.cat(labels) > 0])
            losses["loss_mask"] = maskrcnn_loss(
                masks,
                [box[chosen] for box, chosen in zip(proposals, positive, strict=True)],
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                [index[chosen] for index, chosen in zip(matched, positive, strict=True)],
            )
        return losses
