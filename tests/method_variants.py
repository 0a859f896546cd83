"""The method variants that the shared suites run, on a backbone small enough for tests."""

from __future__ import annotations

from typing import Any

from regionssl.backbones.encoder import EncoderConfig
from regionssl.build import About, RunConfig, make_method, parse_method
from regionssl.data.batch import Batch, coloured
from regionssl.data.images import ImageList
from regionssl.data.loader import Collate, Sample, ViewDataset
from regionssl.engine.optim import OptimiserConfig
from regionssl.engine.schedule import ScheduleConfig
from regionssl.methods.base import Method, World

SIZE = 64
_LEVELS = [
    {"map": "p4", "window": 32, "step": 8, "negatives": "all"},
    {"map": "p3", "window": 24, "step": 8, "negatives": "group"},
]
VARIANTS: dict[str, dict[str, Any]] = {
    "moco": {"name": "moco", "queue": 64, "momentum": 0.9, "group_size": 4},
    "byol": {"name": "byol", "hidden": 64, "momentum": 0.9, "joint_views": True},
    "byol_separate": {"name": "byol", "preset": "official_orl", "hidden": 64, "momentum": 0.9},
    "resim_fpn": {"name": "resim", "queue": 64, "momentum": 0.9, "group_size": 4, "fpn_width": 32, "levels": _LEVELS},
    "resim_c4": {
        "name": "resim",
        "queue": 64,
        "momentum": 0.9,
        "group_size": 4,
        "c4_width": 32,
        "levels": [_LEVELS[0] | {"map": "c4"}],
    },
    "scrl": {"name": "scrl", "hidden": 64, "momentum": 0.9, "boxes": {"boxes": 3, "min_size": 16}},
    "scrl_official": {
        "name": "scrl",
        "preset": "official",
        "hidden": 64,
        "momentum": 0.9,
        "boxes": {"boxes": 3, "min_size": 16},
    },
}


def config_of(variant: str, backbone: str = "test_resnet") -> RunConfig:
    """A run config of a variant, with views of 64 px."""
    plain = parse_method(VARIANTS[variant]).model_dump(mode="json")
    for view in plain["plan"]["views"]:
        view["size"] = SIZE
    return RunConfig(
        about=About(summary="test", data="scenes", source="none", score="none"),
        method=parse_method(plain),
        backbone=EncoderConfig(name=backbone),
        optimiser=OptimiserConfig(lr=0.05, reference_batch=None),
        schedule=ScheduleConfig(kind="constant"),
    )


def method_of(variant: str, world: World | None = None, backbone: str = "test_resnet") -> Method:
    return make_method(config_of(variant, backbone), world or World(), seed=0, init="random")


def batch_of(variant: str, images: ImageList, first: int = 0, count: int = 8, step: int = 0) -> Batch:
    """A coloured batch of consecutive images, as the trainer would make it."""
    plan = config_of(variant).method.plan
    dataset, collate = ViewDataset(images, plan, seed=0), Collate(plan, seed=0)
    batch = collate([dataset[Sample(i % len(images), 0, step)] for i in range(first, first + count)])
    return coloured(batch, plan)
