"""Detectors of torchvision's parts on a start.

Where torchvision and detectron2, in which the papers ran, differ (smooth L1 with beta 1/9 against L1, proposals of all
levels thinned together), torchvision's way is kept; it is the same for every start.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from regionssl import counted
from regionssl.config import Config
from regionssl.counted import Stream
from regionssl.errors import InputError
from regionssl.evaluation.detection.c4 import C4Heads, RegionStage, c4_trunk
from regionssl.evaluation.detection.norms import HeadNorm, norm_layer
from regionssl.evaluation.detection.samples import InputSettings, resized
from regionssl.evaluation.detection.trunks import C4Trunk, Trunk, TrunkSettings, pyramid
from regionssl.evaluation.start import Start

Kind = Literal["faster_rcnn_fpn", "faster_rcnn_c4", "mask_rcnn_fpn", "mask_rcnn_c4", "retinanet", "fcos"]

RATIOS = (0.5, 1.0, 2.0)
SIZES = (32, 64, 128, 256, 512)


class HeadSettings(Config):
    """What a detector does on its maps. The defaults are detectron2's, those of torchvision too.

    Attributes:
        anchor_scale: all sizes of anchors times this: 1 is 32 to 512 pixels of the resized image. Small images need
            smaller ones. The sizes that decide from which map a region is read grow with it.
        box_head: of R-CNNs with a pyramid, on 7 x 7: two linear layers, or four convolutions and one linear layer.
        box_head_norm: after those convolutions, after the last stage in C4 heads, and in the heads of RetinaNet; FCOS
            always has group norms there.
        mask_head_norm: after the four convolutions of the mask head, on 14 x 14.
        head_width: of the linear layers.
        mask_width: of the convolutions of the mask heads.
        rpn_train, rpn_test: proposals that are kept before (for each level) and after thinning out.
        regions: proposals of an image that the box head trains on; a quarter are positive where there are enough.
        least_score: detections below it are not given back.
        detections: of an image, at most.
    """

    anchor_scale: float = Field(1.0, gt=0)
    box_head: Literal["two_fc", "four_conv_one_fc"] = "two_fc"
    box_head_norm: HeadNorm = "none"
    mask_head_norm: HeadNorm = "none"
    head_width: int = Field(1024, ge=8)
    mask_width: int = Field(256, ge=8)
    rpn_train: tuple[int, int] = (2000, 1000)
    rpn_test: tuple[int, int] = (1000, 1000)
    regions: int = Field(512, ge=4)
    least_score: float = Field(0.05, ge=0, lt=1)
    detections: int = Field(100, ge=1)


class DetectorSettings(InputSettings, TrunkSettings, HeadSettings):
    """Everything that a detector is made by."""


class Inputs(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Normalises and stacks images; resizes them in evaluation mode alone, as training samples come resized.

    The image is reduced with antialiasing, as Pillow does it for training.
    """

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        if self.training:
            return image, target
        width, height = resized(image.shape[-1], image.shape[-2], self.min_size[0], self.max_size)
        small = nn.functional.interpolate(
            image[None], (height, width), mode="bilinear", align_corners=False, antialias=True
        )
        return small[0], target


def build(kind: Kind, start: Start, classes: int, settings: DetectorSettings, seed: int = 0) -> nn.Module:
    """A detector that torchvision would build, on a fresh copy of the start.

    New layers are drawn from ``seed``, the same for every start with a backbone of the same channels.

    Args:
        classes: without background; the detector's labels count from 1, and 0 is background or unused.

    Raises:
        InputError: the backbone does not fit the detector, or the run's pyramid is of another width.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(counted.integer(seed, Stream.WEIGHTS))
        if kind in ("retinanet", "fcos"):
            return _one_stage(kind, start, classes, settings, seed)
        masks = kind in ("mask_rcnn_fpn", "mask_rcnn_c4")
        if kind in ("faster_rcnn_c4", "mask_rcnn_c4"):
            c4, stage, channels = c4_trunk(start, settings, seed)
            heads = c4_heads(RegionStage(stage, channels, settings.box_head_norm), channels, classes, masks, settings)
            return rcnn(c4, heads, settings, start, sizes=(SIZES,))
        trunk = pyramid(start, settings, seed)
        return rcnn(trunk, fpn_heads(trunk, classes, masks, settings), settings, start)


def rcnn(
    trunk: Trunk | C4Trunk,
    heads: RoIHeads,
    settings: DetectorSettings,
    start: Start,
    sizes: tuple[tuple[float, ...], ...] | None = None,
) -> GeneralizedRCNN:
    """An R-CNN of a trunk and heads; region proposals on all of the trunk's maps.

    Args:
        sizes: of the anchors on each map, pixels at ``anchor_scale`` 1; by default one each from 32 on.
    """
    sizes = sizes or tuple((size,) for size in SIZES)
    anchors = _anchors(sizes, settings)
    before, after = zip(settings.rpn_train, settings.rpn_test, strict=True)
    proposals = RegionProposalNetwork(
        anchors,
        RPNHead(trunk.out_channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": before[0], "testing": before[1]},
        post_nms_top_n={"training": after[0], "testing": after[1]},
        nms_thresh=0.7,
    )
    return GeneralizedRCNN(trunk, proposals, heads, inputs(settings, start))


def inputs(settings: InputSettings, start: Start) -> Inputs:
    """The normalisation of the start's own mean and spread, and the sizes of scoring."""
    return Inputs(settings.test_size, settings.max_size, list(start.mean), list(start.std))


def fpn_heads(trunk: Trunk, classes: int, masks: bool, settings: HeadSettings) -> RoIHeads:
    """Box heads, and with ``masks`` mask heads, on p2 to p5."""
    width = trunk.out_channels
    heads = RoIHeads(
        roi_align(7, settings),
        _box_head(width, settings),
        FastRCNNPredictor(settings.head_width, classes + 1),
        **_matching(settings),
    )
    if masks:
        heads.mask_roi_pool = roi_align(14, settings)
        channels = settings.mask_width
        heads.mask_head = MaskRCNNHeads(width, (channels,) * 4, 1, norm_layer(settings.mask_head_norm))
        heads.mask_predictor = MaskRCNNPredictor(channels, channels, classes + 1)
    return heads


def roi_align(size: int, settings: HeadSettings) -> MultiScaleRoIAlign:
    """Regions of p2 to p5 on ``size`` x ``size`` cells; those of 224 pixels at ``anchor_scale`` 1 are read from p4."""
    levels = ["p2", "p3", "p4", "p5"]
    return MultiScaleRoIAlign(levels, size, sampling_ratio=2, canonical_scale=round(224 * settings.anchor_scale))


def _box_head(width: int, settings: HeadSettings) -> nn.Module:
    if settings.box_head == "two_fc":
        return TwoMLPHead(width * 7 * 7, settings.head_width)
    norm = norm_layer(settings.box_head_norm)
    return FastRCNNConvFCHead((width, 7, 7), [256] * 4, [settings.head_width], norm)


def _matching(settings: HeadSettings) -> dict[str, Any]:
    return {
        "fg_iou_thresh": 0.5,
        "bg_iou_thresh": 0.5,
        "batch_size_per_image": settings.regions,
        "positive_fraction": 0.25,
        "bbox_reg_weights": None,
        "score_thresh": settings.least_score,
        "nms_thresh": 0.5,
        "detections_per_img": settings.detections,
    }


def c4_heads(stage: RegionStage, channels: int, classes: int, masks: bool, settings: HeadSettings) -> C4Heads:
    """Box heads, and with ``masks`` mask heads, on c4."""
    pooling = MultiScaleRoIAlign(["c4"], 14, sampling_ratio=2)
    heads = C4Heads(pooling, stage, FastRCNNPredictor(channels, classes + 1), **_matching(settings))
    if masks:
        heads.mask_predictor = MaskRCNNPredictor(channels, settings.mask_width, classes + 1)
    return heads


def _one_stage(kind: Kind, start: Start, classes: int, settings: DetectorSettings, seed: int) -> RetinaNet | FCOS:
    trunk = pyramid(start, settings, seed, one_stage=True)
    common: dict[str, Any] = {"score_thresh": settings.least_score, "detections_per_img": settings.detections}
    model: RetinaNet | FCOS
    if kind == "fcos" and (settings.fpn_width % 32 or settings.fpn_width == 32):
        raise InputError(
            f"FCOS norms its heads in 32 groups of at least two channels; set fpn_width to 64, 96, 128, ..., not "
            f"{settings.fpn_width}"
        )
    if kind == "fcos":
        anchors = _anchors(tuple((size / 4,) for size in SIZES), settings, ratios=(1.0,))
        model = FCOS(trunk, classes + 1, anchor_generator=anchors, **common)
    else:
        anchors = _anchors(tuple((size, size * 2 ** (1 / 3), size * 2 ** (2 / 3)) for size in SIZES), settings)
        count = anchors.num_anchors_per_location()[0]
        head = RetinaNetHead(trunk.out_channels, count, classes + 1, norm_layer(settings.box_head_norm))
        model = RetinaNet(trunk, classes + 1, anchor_generator=anchors, head=head, **common)
    model.transform = inputs(settings, start)
    return model


def _anchors(
    sizes: tuple[tuple[float, ...], ...], settings: HeadSettings, ratios: tuple[float, ...] = RATIOS
) -> AnchorGenerator:
    scaled = tuple(tuple(size * settings.anchor_scale for size in level) for level in sizes)
    return AnchorGenerator(scaled, (ratios,) * len(sizes))
