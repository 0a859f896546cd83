"""The detector of a protocol in mmdetection's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regionssl.export.published import Published


def norm_config(norm: str) -> dict[str, Any] | None:
    """``norm_cfg`` of a norm of our protocols."""
    known = {"batch": {"type": "SyncBN", "requires_grad": True}, "frozen": {"type": "BN", "requires_grad": False}}
    return None if norm == "none" else known.get(norm, {"type": "GN", "num_groups": 32, "requires_grad": True})


def model(protocol: Published, weights: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """The detector; its backbone, and its neck where the file has one, start from the file."""
    settings, needed = protocol.settings, card["settings"]
    preprocessor = {
        "type": "DetDataPreprocessor",
        **needed["data_preprocessor"],
        "pad_mask": protocol.masks,
        "pad_size_divisor": 32,
    }
    if settings.get("jitter"):
        square = (settings["max_size"], settings["max_size"])
        preprocessor["batch_augments"] = [{"type": "BatchFixedSizePad", "size": square, "pad_mask": protocol.masks}]
    backbone = {
        **needed["backbone"],
        "num_stages": 3 if protocol.c4 else 4,
        "out_indices": (2,) if protocol.c4 else (0, 1, 2, 3),
        "frozen_stages": settings["freeze_at"] - 1,
        "norm_cfg": norm_config(settings["norm"]),
        "norm_eval": False,
        "init_cfg": pretrained(weights, "backbone."),
    }
    if protocol.c4:
        backbone |= {"strides": (1, 2, 2), "dilations": (1, 1, 1)}
    return {
        "type": "MaskRCNN" if protocol.masks else "FasterRCNN",
        "data_preprocessor": preprocessor,
        "backbone": backbone,
        **({} if protocol.c4 else {"neck": neck(protocol, weights, card)}),
        "rpn_head": rpn_head(protocol, channels_of(card)[2] if protocol.c4 else card.get("width", 256)),
        "roi_head": c4_head(protocol, weights, card) if protocol.c4 else fpn_head(protocol, card.get("width", 256)),
        **assignments(protocol),
    }


def pretrained(weights: str, prefix: str) -> dict[str, Any]:
    """``init_cfg`` that takes the file's tensors below a prefix."""
    return {"type": "Pretrained", "checkpoint": weights, "prefix": prefix}


def channels_of(card: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Of c2 to c5."""
    wide = card["settings"]["backbone"]["depth"] >= 50
    return (256, 512, 1024, 2048) if wide else (64, 128, 256, 512)


def neck(protocol: Published, weights: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """The pyramid; five levels, the last pooled."""
    start: list[dict[str, Any]] = [{"type": "Xavier", "layer": "Conv2d", "distribution": "uniform"}]
    if "width" in card:
        start.append(pretrained(weights, "neck."))
    return {
        "type": "FPN",
        "in_channels": list(channels_of(card)),
        "out_channels": card.get("width", 256),
        "num_outs": 5,
        "norm_cfg": norm_config(protocol.settings["fpn_norm"]),
        "init_cfg": start,
    }


def coder(deviations: list[float]) -> dict[str, Any]:
    """How boxes are coded."""
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": deviations}


def rpn_head(protocol: Published, channels: int) -> dict[str, Any]:
    """Proposals; anchors of 32 to 512 pixels."""
    anchors: dict[str, Any] = {"type": "AnchorGenerator", "ratios": [0.5, 1.0, 2.0]}
    c4, pyramid = {"scales": [2, 4, 8, 16, 32], "strides": [16]}, {"scales": [8], "strides": [4, 8, 16, 32, 64]}
    return {
        "type": "RPNHead",
        "in_channels": channels,
        "feat_channels": channels,
        "anchor_generator": anchors | (c4 if protocol.c4 else pyramid),
        "bbox_coder": coder([1.0] * 4),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }


def box_head(protocol: Published) -> dict[str, Any]:
    """What all box heads have in common."""
    return {
        "num_classes": protocol.data.classes,
        "bbox_coder": coder([0.1, 0.1, 0.2, 0.2]),
        "reg_class_agnostic": False,
        "roi_feat_size": 7,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }


def extractor(size: int, channels: int, strides: list[int]) -> dict[str, Any]:
    """RoIAlign of regions."""
    align = {"type": "RoIAlign", "output_size": size, "sampling_ratio": 0}
    return {
        "type": "SingleRoIExtractor",
        "roi_layer": align,
        "out_channels": channels,
        "featmap_strides": strides,
    }


def c4_head(protocol: Published, weights: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """Regions of c4 through the last stage, which starts from the file too."""
    settings, (*_, c4, c5) = protocol.settings, channels_of(card)
    head: dict[str, Any] = {
        "type": "StandardRoIHead",
        "shared_head": {
            "type": "NormedResLayer" if protocol.normed_head else "ResLayer",
            "depth": card["settings"]["backbone"]["depth"],
            "stage": 3,
            "stride": 2,
            "dilation": 1,
            "style": "pytorch",
            "norm_cfg": norm_config(settings["norm"]),
            "norm_eval": False,
            "init_cfg": pretrained(weights, "backbone."),
        },
        "bbox_roi_extractor": extractor(14, c4, [16]),
        "bbox_head": {"type": "BBoxHead", "with_avg_pool": True, "in_channels": c5, **box_head(protocol)},
    }
    if protocol.masks:
        head |= {"mask_roi_extractor": None, "mask_head": mask_head(protocol, c5, 0, None)}
    return head


def fpn_head(protocol: Published, width: int) -> dict[str, Any]:
    """Regions of the pyramid, 7 x 7 for boxes and 14 x 14 for masks."""
    settings, strides = protocol.settings, [4, 8, 16, 32]
    convolutions = settings["box_head"] == "four_conv_one_fc"
    norm = {"norm_cfg": norm_config(settings["box_head_norm"]), "conv_out_channels": 256} if convolutions else {}
    head: dict[str, Any] = {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": extractor(7, width, strides),
        "bbox_head": {
            "type": "Shared4Conv1FCBBoxHead" if convolutions else "Shared2FCBBoxHead",
            "in_channels": width,
            "fc_out_channels": settings["head_width"],
            **norm,
            **box_head(protocol),
        },
    }
    if protocol.masks:
        head["mask_roi_extractor"] = extractor(14, width, strides)
        head["mask_head"] = mask_head(protocol, width, 4, norm_config(settings["mask_head_norm"]))
    return head


def mask_head(protocol: Published, channels: int, convolutions: int, norm: dict[str, Any] | None) -> dict[str, Any]:
    """Convolutions, one that doubles the side, and one for each class."""
    return {
        "type": "FCNMaskHead",
        "num_convs": convolutions,
        "in_channels": channels,
        "conv_out_channels": protocol.settings["mask_width"],
        "num_classes": protocol.data.classes,
        "norm_cfg": norm,
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
    }


def assigner(positive: float, negative: float, low_quality: bool) -> dict[str, Any]:
    """Which boxes count as objects, by overlap."""
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": negative,
        "match_low_quality": low_quality,
        "ignore_iof_thr": -1,
    }


def sampler(count: int, share: float, with_truth: bool) -> dict[str, Any]:
    """How many boxes of an image train."""
    return {
        "type": "RandomSampler",
        "num": count,
        "pos_fraction": share,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": with_truth,
    }


def assignments(protocol: Published) -> dict[str, Any]:
    """``train_cfg`` and ``test_cfg`` of the detector."""
    settings, thinned = protocol.settings, {"type": "nms", "iou_threshold": 0.7}
    (before_train, train), (before_test, test) = settings["rpn_train"], settings["rpn_test"]
    mask = {"mask_size": 14 if protocol.c4 else 28} if protocol.masks else {}
    return {
        "train_cfg": {
            "rpn": {
                "assigner": assigner(0.7, 0.3, True),
                "sampler": sampler(256, 0.5, False),
                "allowed_border": -1,
                "pos_weight": -1,
                "debug": False,
            },
            "rpn_proposal": {"nms_pre": before_train, "max_per_img": train, "nms": thinned, "min_bbox_size": 0},
            "rcnn": {
                "assigner": assigner(0.5, 0.5, False),
                "sampler": sampler(settings["regions"], 0.25, True),
                **mask,
                "pos_weight": -1,
                "debug": False,
            },
        },
        "test_cfg": {
            "rpn": {"nms_pre": before_test, "max_per_img": test, "nms": thinned, "min_bbox_size": 0},
            "rcnn": {
                "score_thr": settings["least_score"],
                "nms": {"type": "nms", "iou_threshold": 0.5},
                "max_per_img": settings["detections"],
                **({"mask_thr_binary": 0.5} if protocol.masks else {}),
            },
        },
    }
