"""A trainer as ``pretrain`` builds it, for benchmarks that call its steps themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from regionssl.build import RunConfig, load_config
from regionssl.data.images import find_images, scan
from regionssl.data.patches import PatchSource
from regionssl.engine.choices import choose_device
from regionssl.engine.train import Trainer
from regionssl.verbs.job import build_trainer, launch, make_job


def trainer_of(
    config: RunConfig, pictures: Path, device: str = "cpu", patches: PatchSource | None = None, processes: int = 1
) -> Trainer:
    """The trainer of a recipe with what it leaves open settled.

    Args:
        pictures: folder of images.
        patches: correspondences, for a method that cuts patches.
        processes: for which the settings are made; this one alone runs.
    """
    images, scanned = scan(find_images(pictures))
    job = make_job(config, images, scanned, pictures, choose_device(device), devices=processes)
    job = replace(job, patches=patches)
    return build_trainer(job, launch(replace(job, devices=1)))


def trainer_of_case(pictures: Path, case: dict[str, Any], device: str, settings: dict[str, Any]) -> Trainer:
    """The trainer of a recipe at its defaults, with the case's backbone, batch and size, and steps without end."""
    given = {"backbone.name": case["backbone"], "training.batch_size": case["batch"], "training.steps": 10**6}
    return trainer_of(load_config(case["recipe"], given | settings, size=case["size"]), pictures, device)
