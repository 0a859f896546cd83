"""Runs that are watched: healthy ones, and ones with a fault put in, on a backbone small enough for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from regionssl.data.images import find_images, scan
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.engine import train
from regionssl.engine.health import HealthMonitor
from regionssl.engine.log import Meter
from regionssl.engine.run import record_of
from regionssl.engine.train import Trainer
from regionssl.methods.momentum import moving_average
from regionssl.methods.queue import KeyQueue
from regionssl.verbs.job import build_trainer, launch, make_job

from method_variants import config_of, made_up_patches

MAIN_VARIANTS = ("moco", "byol", "resim_fpn", "scrl", "plrc_R", "r2o_clean", "orl")
"""One variant of each method."""


def trainer_of(
    variant: str, scenes: Path, seed: int = 0, steps: int = 200, every: int = 2, slow: bool = False
) -> Trainer:
    """A run of a variant that is healthy at 8 images a step, on the CPU, ready to start.

    Args:
        slow: with a target that follows slowly, whatever the method.
    """
    config = config_of(variant)
    # the regressing methods learn within 100 steps from a target that follows fast; the contrasting ones from slow keys
    peak, momentum = (0.02, 0.99) if slow or hasattr(config.method, "queue") else (0.05, 0.9)
    update = {"batch_size": 8, "steps": steps, "seed": seed, "precision": "fp32", "workers": 0, "log_every": every}
    config = config.model_copy(
        update={
            "training": config.training.model_copy(update=update),
            "optimiser": config.optimiser.model_copy(update={"lr": peak}),
            "method": config.method.model_copy(update={"momentum": momentum}),
        }
    )
    images, scanned = scan(find_images(scenes))
    job = make_job(config, images, scanned, scenes, torch.device("cpu"))
    if config.method.plan.wants_patches:
        job = replace(job, patches=made_up_patches(len(images)))
    return build_trainer(job, launch(job))


def watch(trainer: Trainer, until: str | None = None) -> tuple[HealthMonitor, list[dict[str, Any]]]:
    """Train to the end, or until the lamp has a level; the monitor, and the records that the log would get."""
    meter, monitor, records = Meter(), HealthMonitor(), []
    for batch in trainer.loader(trainer.total_steps):
        terms = trainer.train_step(batch)
        if trainer.logged(trainer.step):
            records.append(record_of(trainer, terms, meter, 0.0))
            monitor.observe(records[-1])
            if monitor.lamp.level == until:
                break
    return monitor, records


def slow_network(trainer: Trainer) -> tuple[nn.Module, nn.Module]:
    (pair,) = trainer.method.slow_pairs()
    return pair


def no_predictor(trainer: Trainer, _: pytest.MonkeyPatch) -> None:
    online: Any = trainer.method.online
    if isinstance(online.predictor, nn.ModuleDict):
        online.predictor = nn.ModuleDict({kind: nn.Identity() for kind in online.predictor})
    else:
        online.predictor = nn.Identity()


def momentum_0(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    method: Any = trainer.method
    enqueue = getattr(method, "queue", None)

    def after_step(progress: Any) -> None:
        moving_average(*slow_network(trainer), 0)
        if enqueue is not None:
            enqueue.enqueue(method._fresh_keys)

    patch.setattr(method, "after_step", after_step)


def dead_target(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    method: Any = trainer.method
    enqueue = getattr(method, "queue", None)
    patch.setattr(method, "after_step", lambda progress: enqueue and enqueue.enqueue(method._fresh_keys))


def rate_times_100(trainer: Trainer, _: pytest.MonkeyPatch) -> None:
    trainer.peak_lr *= 100


def views_not_normalised(_: Trainer, patch: pytest.MonkeyPatch) -> None:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    coloured = train.coloured

    def not_normalised(batch: Any, plan: Any) -> Any:
        batch = coloured(batch, plan)
        return replace(batch, views=[view * std + mean for view in batch.views])

    patch.setattr(train, "coloured", not_normalised)


def queue_beyond_the_data(trainer: Trainer, _: pytest.MonkeyPatch) -> None:
    method: Any = trainer.method
    method.queue = KeyQueue(2 * len(trainer.images), method.queue.keys.shape[1])


def of_another_image(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    """The second view is of the image before, while crops and regions are still those of the image itself."""
    coloured = train.coloured

    def mixed(batch: Any, plan: Any) -> Any:
        batch = coloured(batch, plan)
        views = [view if place % 2 == 0 else view.roll(1, 0) for place, view in enumerate(batch.views)]
        return replace(batch, views=views)

    patch.setattr(train, "coloured", mixed)


def windows_elsewhere(trainer: Trainer, patch: pytest.MonkeyPatch) -> None:
    """The windows in view 2 are where those of the image before are."""
    method: Any = trainer.method
    windows = method.windows

    def others(level: Any, batch: Any) -> Any:
        grid, second, valid = windows(level, batch)
        return grid, second.roll(1, 0), valid

    patch.setattr(method, "windows", others)
