"""The micro-batch of a run on GPUs: the largest whose step fits, found once by trying."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import replace

import torch
from lightning_fabric import Fabric
from rich.console import Console

from regionssl.data.patches import PatchSource
from regionssl.engine.memory import largest_part
from regionssl.engine.precision import precision_plugin
from regionssl.errors import InputError
from regionssl.methods.base import World
from regionssl.verbs.job import Job, build_trainer

_STEPS = 2  # the second holds the optimiser's memory too


class _OneOf(World):
    """The first of several processes, for its share of the batch; it meets no other."""

    def __init__(self, processes: int) -> None:
        self.rank, self.size = 0, processes


def fit_to_memory(
    job: Job,
    in_parts: Callable[[int], Job],
    patches: PatchSource | None,
    console: Console,
    trial: Callable[[Job], float],
) -> Job:
    """The job, in parts as large as fit if its steps do not fit whole.

    Args:
        in_parts: the job with micro-batches of so many images.
        patches: stand for those of a method that cuts patches.
        trial: runs a step of a job and returns the share of the GPU's memory that it took: :func:`take_step`.

    Raises:
        InputError: not even the smallest part fits.
    """
    share = job.config.training.batch_size // (job.devices * job.nodes)
    together = getattr(job.config.method, "group_size", None) or 1
    try:
        part = largest_part(lambda size: trial(replace(in_parts(size), patches=patches)), share, together)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"a step with {together} image(s) at a time does not fit the GPU's memory; use a smaller --size, backbone "
            "or method.group_size, or free the GPU"
        ) from error
    if part == share:
        return job
    console.print(
        f"micro-batches of {part} images: the {share} of a process do not fit the GPU at once", highlight=False
    )
    return in_parts(part)


def take_step(job: Job) -> float:
    """Run steps of a job in this process alone, keep nothing, and return the share of the GPU's memory that they took.

    Raises:
        torch.OutOfMemoryError: they do not fit.
    """
    training = job.config.training
    alone = replace(job, config=job.config.model_copy(update={"training": training.model_copy(update={"workers": 0})}))
    local = int(os.environ.get("LOCAL_RANK", 0))
    devices = [local] if job.device.type == "cuda" else 1
    fabric = Fabric(
        accelerator=job.device.type, devices=devices, plugins=precision_plugin(training.precision, job.device.type)
    )
    trainer = build_trainer(alone, fabric)
    try:
        world = _OneOf(job.devices * job.nodes)
        (batch,) = replace(trainer, world=world).loader(1)
        for _ in range(_STEPS):
            trainer.train_step(batch)
        trainer.settle()
        return _memory_share(fabric.device)
    finally:
        del trainer
        gc.collect()
        if fabric.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(fabric.device)


def _memory_share(device: torch.device) -> float:
    if device.type != "cuda":
        return 0.0
    return torch.cuda.max_memory_reserved(device) / torch.cuda.get_device_properties(device).total_memory
