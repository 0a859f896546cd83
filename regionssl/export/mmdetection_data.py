"""Images, augmentations and metrics of a protocol in mmdetection's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regionssl.export.published import CITYSCAPES, VOC, Published

_META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


def data_settings(protocol: Published, gpus: int) -> dict[str, Any]:
    """Loaders and evaluators; data lie in ``data/`` as mmdetection expects them."""
    train = {
        "batch_size": max(protocol.settings["batch_size"] // gpus, 1),
        "num_workers": 4,
        "persistent_workers": True,
        "sampler": {"type": "InfiniteSampler", "shuffle": True},
        "batch_sampler": {"type": "AspectRatioBatchSampler"},
        "dataset": training_set(protocol),
    }
    val = {
        "batch_size": 1,
        "num_workers": 2,
        "persistent_workers": True,
        "drop_last": False,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": validation_set(protocol),
    }
    evaluator = metric(protocol)
    return {
        "train_dataloader": train,
        "val_dataloader": val,
        "test_dataloader": val,
        "val_evaluator": evaluator,
        "test_evaluator": evaluator,
    }


def labels(protocol: Published) -> dict[str, Any]:
    """The step that loads boxes, and masks where they are needed."""
    return {"type": "LoadAnnotations", "with_bbox": True, **({"with_mask": True} if protocol.masks else {})}


def train_steps(protocol: Published) -> list[dict[str, Any]]:
    """A training image from file to batch."""
    settings, side = protocol.settings, protocol.settings["max_size"]
    if settings.get("jitter"):
        square = (side, side)
        resize: list[dict[str, Any]] = [
            {"type": "RandomResize", "scale": square, "ratio_range": tuple(settings["jitter"]), "keep_ratio": True},
            {
                "type": "RandomCrop",
                "crop_type": "absolute",
                "crop_size": square,
                "recompute_bbox": True,
                "allow_negative_crop": True,
            },
            {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-2, 1e-2)},
        ]
    else:
        scales = [(side, short) for short in settings["train_sizes"]]
        resize = [{"type": "RandomChoiceResize", "scales": scales, "keep_ratio": True}]
    flip = {"type": "RandomFlip", "prob": settings["flip"]}
    return [{"type": "LoadImageFromFile"}, labels(protocol), *resize, flip, {"type": "PackDetInputs"}]


def test_steps(settings: Mapping[str, Any], load: dict[str, Any]) -> list[dict[str, Any]]:
    """A test image from file to batch."""
    return [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (settings["max_size"], settings["test_size"]), "keep_ratio": True},
        load,
        {"type": "PackDetInputs", "meta_keys": _META},
    ]


def place(protocol: Published, part: str) -> dict[str, Any]:
    """Where the images and labels of a part ("train" or "val") lie; of VOC "2007 trainval" and the like."""
    if protocol.data == VOC:
        year, split = part.split()
        return {
            "type": "VOCDataset",
            "data_root": "data/VOCdevkit/",
            "ann_file": f"VOC{year}/ImageSets/Main/{split}.txt",
            "data_prefix": {"sub_data_root": f"VOC{year}/"},
        }
    if protocol.data == CITYSCAPES:
        return {
            "type": "CityscapesDataset",
            "data_root": "data/cityscapes/",
            "ann_file": f"annotations/instancesonly_filtered_gtFine_{part}.json",
            "data_prefix": {"img": f"leftImg8bit/{part}/"},
        }
    return {
        "type": "CocoDataset",
        "data_root": "data/coco/",
        "ann_file": f"annotations/instances_{part}2017.json",
        "data_prefix": {"img": f"{part}2017/"},
    }


def training_set(protocol: Published) -> dict[str, Any]:
    """Images with objects."""
    rest = {"filter_cfg": {"filter_empty_gt": True}, "pipeline": train_steps(protocol)}
    if protocol.data != VOC:
        return place(protocol, "train") | rest
    parts = [place(protocol, part) | rest for part in ("2007 trainval", "2012 trainval")]
    return {"type": "ConcatDataset", "ignore_keys": ["dataset_type"], "datasets": parts}


def validation_set(protocol: Published) -> dict[str, Any]:
    """All images of the test."""
    part = "2007 test" if protocol.data == VOC else "val"
    return place(protocol, part) | {"test_mode": True, "pipeline": test_steps(protocol.settings, labels(protocol))}


def metric(protocol: Published) -> dict[str, Any]:
    """COCO's or VOC's; VOC at 11 recalls and at the overlaps of COCO's mean."""
    if protocol.data == VOC:
        overlaps = [round(0.5 + 0.05 * step, 2) for step in range(10)]
        return {"type": "VOCMetric", "metric": "mAP", "eval_mode": "11points", "iou_thrs": overlaps}
    where = place(protocol, "val")
    kinds = ["bbox", "segm"] if protocol.masks else ["bbox"]
    return {"type": "CocoMetric", "ann_file": where["data_root"] + where["ann_file"], "metric": kinds}
