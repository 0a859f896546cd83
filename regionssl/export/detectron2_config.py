"""A protocol as a config of detectron2 (YAML), and the parts that detectron2 itself lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from regionssl.export.published import Published

PARTS = "regionssl_detectron2.py"
_LEVELS = ["p2", "p3", "p4", "p5"]
_STAGES = ["res2", "res3", "res4", "res5"]
_NORMED_HEADS = "Res5ROIHeadsWithNorm"

PARTS_TEXT = '''"""What some configs need beyond detectron2: import this module before the config is used.

Res5ROIHeadsWithNorm   Res5ROIHeads with one more norm behind the last stage.
jittered_squares       R2O's augmentations, for DatasetMapper(augmentations=...): the YAML cannot express them.
"""

import detectron2.data.transforms as T
from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY, Res5ROIHeads


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsWithNorm(Res5ROIHeads):
    @classmethod
    def _build_res5_block(cls, cfg):
        stage, channels = super()._build_res5_block(cfg)
        stage.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return stage, channels


def jittered_squares(side=1024, low=0.8, high=1.25):
    return [T.ResizeScale(low, high, side, side), T.FixedSizeCrop((side, side)), T.RandomFlip()]
'''


def norm_name(norm: str) -> str:
    """detectron2's name of a norm of our protocols."""
    return {"batch": "SyncBN", "group": "GN", "frozen": "FrozenBN", "none": ""}[norm]


def config_text(protocol: Published, weights: str, card: Mapping[str, Any]) -> str:
    """The YAML.

    Args:
        weights: name of the exported file.
        card: its JSON, whose ``settings`` say how the backbone must be built and fed.
    """
    lines = [
        f"# {protocol.name} for detectron2, written beside {weights} by regionssl.",
        f"# Settings: {protocol.source}.",
        "# MODEL.WEIGHTS is relative to the folder that training starts in.",
        *(f"# {note}" for note in remarks(protocol, card)),
    ]
    tree = config_tree(protocol, weights, card["settings"])
    return "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=110)


def remarks(protocol: Published, card: Mapping[str, Any]) -> list[str]:
    """What a user must know or do beyond the YAML."""
    settings, found = protocol.settings, []
    if needs_parts(protocol):
        found.append(f"Needs {PARTS}, which lies beside: import it before the config is used.")
    if settings.get("jitter"):
        low, high = settings["jitter"]
        found.append(
            "In place of the sizes of INPUT, training images go through "
            f"DatasetMapper(cfg, augmentations=jittered_squares({settings['max_size']}, {low}, {high}))."
        )
    pyramid = "width" in card
    if pyramid and protocol.c4:
        found.append("A C4 detector has no pyramid: the one in the file is passed over.")
    elif pyramid and settings.get("fpn_norm", "none") != "none" and not card.get("batch_norm"):
        found.append("The pyramid was trained without norm: its biases are passed over, its norms start fresh.")
    return found


def needs_parts(protocol: Published) -> bool:
    """Whether detectron2 lacks something that the protocol asks for."""
    return protocol.normed_head or protocol.settings["jitter"] is not None


def config_tree(protocol: Published, weights: str, needed: Mapping[str, Any]) -> dict[str, Any]:
    """The config as nested values.

    Args:
        needed: what the weights need, by dotted keys.
    """
    settings, data = protocol.settings, protocol.data
    tree: dict[str, Any] = {
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "WEIGHTS": weights,
            "MASK_ON": protocol.masks,
            "KEYPOINT_ON": protocol.task == "keypoints",
            **(c4_model(protocol) if protocol.c4 else fpn_model(protocol)),
        },
        "DATASETS": {"TRAIN": list(data.detectron2[0]), "TEST": [data.detectron2[1]]},
        "INPUT": {
            "MIN_SIZE_TRAIN": list(settings["train_sizes"]),
            "MAX_SIZE_TRAIN": settings["max_size"],
            "MIN_SIZE_TEST": settings["test_size"],
            "MAX_SIZE_TEST": settings["max_size"],
        },
        "SOLVER": {
            "IMS_PER_BATCH": settings["batch_size"],
            "BASE_LR": settings["lr"],
            "MOMENTUM": settings["momentum"],
            "WEIGHT_DECAY": settings["weight_decay"],
            "STEPS": protocol.drops,
            "MAX_ITER": settings["iterations"],
            "WARMUP_ITERS": settings["warmup"],
            "WARMUP_FACTOR": settings["warmup_start"],
        },
        "TEST": {"DETECTIONS_PER_IMAGE": settings["detections"]},
        "VERSION": 2,
    }
    if settings["precise_norm"]:
        tree["TEST"]["PRECISE_BN"] = {"ENABLED": True, "NUM_ITER": settings["precise_norm"]}
    for dotted, value in needed.items():
        if protocol.c4 and dotted.startswith("MODEL.FPN."):
            continue
        *sections, key = dotted.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return tree


def proposals(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How many proposals are kept, in training and in the test."""
    (before_train, train), (before_test, test) = settings["rpn_train"], settings["rpn_test"]
    return {
        "PRE_NMS_TOPK_TRAIN": before_train,
        "POST_NMS_TOPK_TRAIN": train,
        "PRE_NMS_TOPK_TEST": before_test,
        "POST_NMS_TOPK_TEST": test,
    }


def c4_model(protocol: Published) -> dict[str, Any]:
    """A detector on res4 whose head is the last stage."""
    settings = protocol.settings
    norm = norm_name(settings["norm"])
    return {
        "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": settings["freeze_at"]},
        "RESNETS": {"NORM": norm, "OUT_FEATURES": ["res4"]},
        "ANCHOR_GENERATOR": {"SIZES": [[32, 64, 128, 256, 512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
        "RPN": {"IN_FEATURES": ["res4"], **proposals(settings)},
        "ROI_HEADS": {
            "NAME": _NORMED_HEADS if protocol.normed_head else "Res5ROIHeads",
            "IN_FEATURES": ["res4"],
            "NUM_CLASSES": protocol.data.classes,
            "BATCH_SIZE_PER_IMAGE": settings["regions"],
        },
        "ROI_BOX_HEAD": {"POOLER_RESOLUTION": 14},
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "POOLER_RESOLUTION": 14},
    }


def fpn_model(protocol: Published) -> dict[str, Any]:
    """A detector on a pyramid."""
    settings = protocol.settings
    convolutions = settings["box_head"] == "four_conv_one_fc"
    model: dict[str, Any] = {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": settings["freeze_at"]},
        "RESNETS": {"NORM": norm_name(settings["norm"]), "OUT_FEATURES": [*_STAGES]},
        "FPN": {"IN_FEATURES": [*_STAGES], "NORM": norm_name(settings["fpn_norm"])},
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]},
        "RPN": {"IN_FEATURES": [*_LEVELS, "p6"], **proposals(settings)},
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": [*_LEVELS],
            "NUM_CLASSES": protocol.data.classes,
            "BATCH_SIZE_PER_IMAGE": settings["regions"],
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_CONV": 4 if convolutions else 0,
            "NUM_FC": 1 if convolutions else 2,
            "FC_DIM": settings["head_width"],
            "NORM": norm_name(settings["box_head_norm"]),
            "POOLER_RESOLUTION": 7,
        },
    }
    if protocol.masks:
        model["ROI_MASK_HEAD"] = {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 4,
            "CONV_DIM": settings["mask_width"],
            "NORM": norm_name(settings["mask_head_norm"]),
            "POOLER_RESOLUTION": 14,
        }
    if protocol.task == "keypoints":
        model["ROI_BOX_HEAD"]["SMOOTH_L1_BETA"] = settings["box_beta"]
        model["ROI_KEYPOINT_HEAD"] = {
            "NAME": "KRCNNConvDeconvUpsampleHead",
            "CONV_DIMS": [settings["width"]] * settings["convs"],
            "NUM_KEYPOINTS": 17,
            "POOLER_RESOLUTION": 14,
        }
    return model
