"""The method variants that the shared suites run, on a backbone small enough for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from regionssl.backbones.encoder import EncoderConfig
from regionssl.build import About, RunConfig, make_method, make_regions, parse_method
from regionssl.data.batch import Batch, coloured
from regionssl.data.images import ImageList
from regionssl.data.samples import Collate, Sample, ViewDataset
from regionssl.engine.optim import OptimiserConfig
from regionssl.engine.schedule import ScheduleConfig
from regionssl.methods.base import Method, World

SIZE = 64
_LEVELS = [
    {"map": "p4", "window": 32, "step": 8, "negatives": "all"},
    {"map": "p3", "window": 24, "step": 8, "negatives": "group"},
]
_PLRC = {
    "name": "plrc",
    "queue": 64,
    "momentum": 0.9,
    "group_size": 4,
    "hidden": 64,
    "cell_dim": 32,
    "lattice": 8,
    "points": 4,
    "plan": {
        "views": [{"regions": 16}, {"regions": 16}, {}],
        "overlaps": [{"views": [0, 2]}, {"views": [1, None]}],
    },
}
_R2O = {
    "name": "r2o",
    "hidden": 64,
    "momentum": 0.9,
    "cluster_group": 4,
    "source": {"kind": "slic", "size": 64, "segments": 12},
    "curriculum": {"kind": "constant", "clusters": [6]},
}
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
    "plrc_R": _PLRC | {"preset": "R", "prototypes": 64},
    "plrc_P": _PLRC | {"preset": "P", "slots": 4},
    "orl": {"name": "orl", "hidden": 64, "momentum": 0.9},
    "r2o_official": _R2O | {"preset": "official"},
    "r2o_clean": _R2O | {"preset": "clean"},
}


def config_of(variant: str, backbone: str = "test_resnet") -> RunConfig:
    """A run config of a variant, with views of 64 px; patches are of 32 px."""
    plain = parse_method(VARIANTS[variant]).model_dump(mode="json")
    for view in plain["plan"]["views"]:
        view["size"] = SIZE // 2 if view["crop"] == "patch" else SIZE
    return RunConfig(
        about=About(summary="test", data="scenes", source="none", score="none"),
        method=parse_method(plain),
        backbone=EncoderConfig(name=backbone),
        optimiser=OptimiserConfig(lr=0.05, reference_batch=None),
        schedule=ScheduleConfig(kind="constant"),
    )


def method_of(variant: str, world: World | None = None, backbone: str = "test_resnet") -> Method:
    return make_method(config_of(variant, backbone), world or World(), seed=0, init="random")


@dataclass
class MadeUpPatches:
    """Correspondences for N images of 96 px, none of them meant: boxes, neighbours and pairs from a generator."""

    boxes: list[np.ndarray]
    neighbours: np.ndarray
    pairs: list[list[np.ndarray]]


def made_up_patches(images: int, neighbours: int = 3, size: int = 96) -> MadeUpPatches:
    rng = np.random.default_rng(0)

    def rows(count: int) -> np.ndarray:
        sides = rng.integers(32, 65, (count, 2))
        return np.concatenate([rng.integers(0, size - sides + 1), sides], 1).astype(np.int32)

    return MadeUpPatches(
        boxes=[rows(1 + i % 5) for i in range(images)],
        neighbours=(np.arange(images)[:, None] + 1 + np.arange(neighbours)) % images,
        pairs=[[np.concatenate([rows(2), rows(2)], 1) for _ in range(neighbours)] for _ in range(images)],
    )


def batch_of(variant: str, images: ImageList, first: int = 0, count: int = 8, step: int = 0) -> Batch:
    """A coloured batch of consecutive images, as the trainer would make it."""
    plan = config_of(variant).method.plan
    patches = made_up_patches(len(images)) if plan.wants_patches else None
    regions = make_regions(config_of(variant).method, images.names)
    dataset = ViewDataset(images, plan, seed=0, patches=patches, regions=regions)
    collate = Collate(plan, seed=0)
    batch = collate([dataset[Sample(i % len(images), 0, step)] for i in range(first, first + count)])
    return coloured(batch, plan)
