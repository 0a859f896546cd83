"""A run that is ready to start, and how it is started, trained and gone on with."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from rich.console import Console

from regionssl.backbones.norm import sync_batch_norm
from regionssl.build import RunConfig, make_method, make_regions, trainable
from regionssl.config import differences, to_plain
from regionssl.data.images import ImageList, ScanReport
from regionssl.data.patches import PatchSource
from regionssl.engine.checkpoint import list_checkpoints, load_identity, write_json, write_text
from regionssl.engine.choices import Resolved, resolve
from regionssl.engine.distributed import current_world, process_rank
from regionssl.engine.heartbeat import watched
from regionssl.engine.memory import keep_freed_memory
from regionssl.engine.optim import make_optimiser
from regionssl.engine.precision import precision_plugin
from regionssl.engine.run import run
from regionssl.engine.train import NonFiniteLoss, Trainer
from regionssl.errors import InputError
from regionssl.methods.base import MethodConfig
from regionssl.verbs.kept_regions import keep_regions
from regionssl.verbs.run_folder import CONFIG, FACTS, facts, note_health, write_weights

# Settings that may change between a run and its continuation: they touch the result at most by rounding.
_FREE = {"workers", "keep", "log_every", "save_every", "micro_batch", "report"}


@dataclass(frozen=True)
class Job:
    """A run that is ready to start: settled settings, data and place.

    Attributes:
        init: weights that the backbone starts from.
        patches: correspondences between the images, if some views are patches; ``correspondences`` identifies them.
        regions: the method's config with the place where its regions are kept; not part of what the run is.
    """

    config: RunConfig
    resolved: Resolved
    images: ImageList
    scanned: ScanReport
    image_root: Path | None
    init: str
    out: Path
    device: torch.device
    devices: int
    nodes: int
    patches: PatchSource | None = None
    correspondences: str | None = None
    regions: MethodConfig | None = None

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on."""
        config = to_plain(self.config)
        training = {key: value for key, value in config["training"].items() if key not in _FREE}
        kept = {key: value for key, value in config.items() if key != "about"}
        patches = {"correspondences": self.correspondences} if self.correspondences else {}
        return {
            "config": {**kept, "training": training},
            "init": self.init,
            "data": {"images": self.images.fingerprint, **patches},
        }


def make_job(
    config: RunConfig,
    images: ImageList,
    scanned: ScanReport,
    out: Path,
    device: torch.device,
    devices: int = 1,
    nodes: int = 1,
    init: str = "random",
    image_root: Path | None = None,
) -> Job:
    """A job whose settings fit its images and this machine.

    Raises:
        InputError: the batch does not fit the data or the processes.
    """
    resolved = resolve(
        config.training, config.method, config.optimiser, config.schedule, len(images), device, devices, nodes
    )
    config = config.model_copy(
        update={"training": resolved.training, "method": resolved.method, "schedule": resolved.schedule}
    )
    return Job(config, resolved, images, scanned, image_root, init, out, device, devices, nodes)


def launch(job: Job) -> Fabric:
    """Start the processes of the run (this one included)."""
    processes = job.devices * job.nodes
    keep_freed_memory(job.device)
    fabric = Fabric(
        accelerator=job.device.type,
        devices=job.devices,
        num_nodes=job.nodes,
        strategy=DDPStrategy(broadcast_buffers=False) if processes > 1 else "auto",
        plugins=precision_plugin(job.config.training.precision, job.device.type),
    )
    fabric.launch()
    return fabric


def build_trainer(job: Job, fabric: Fabric, fresh: bool = True) -> Trainer:
    """Make the method and everything around it.

    Args:
        fresh: whether the weights are those to start from; otherwise a checkpoint will replace them.
    """
    config, training, world = job.config, job.config.training, current_world()
    method = make_method(config, world, training.seed, job.init if fresh else "random")
    if method.synchronised and world.size > 1:
        sync_batch_norm(method, world, job.device)
    if training.channels_last:
        method.to(memory_format=torch.channels_last)
    if training.compile:
        for child in method.children():
            child.compile()
    optimiser = make_optimiser(config.optimiser, trainable(method), training.batch_size)
    module, wrapped = fabric.setup(method, optimiser)
    resolved = job.resolved
    return Trainer(
        config=training,
        plan=config.method.plan,
        schedule=config.schedule,
        peak_lr=resolved.peak_lr,
        images=job.images,
        epochs=resolved.epochs,
        total_steps=resolved.total_steps,
        method=method,
        module=module,
        optimiser=wrapped,
        fabric=fabric,
        world=world,
        regions=make_regions(job.regions or config.method, job.images.names, job.images),
        patches=job.patches,
    )


def train(job: Job, resume: bool, console: Console, again: str) -> None:
    """Run the job to its end or to a stop signal, and leave config, log, checkpoints and weights in its folder."""
    identity = job.identity()
    state = checked_state(job.out, identity) if resume else None
    passes = job.resolved.total_steps / job.resolved.epochs.steps_per_epoch
    job = replace(job, regions=keep_regions(job.config.method, job.images, passes, job.out, process_rank(), console))
    fabric = launch(job)
    trainer = build_trainer(job, fabric, fresh=state is None)
    failed: dict[int, str] = {}
    if state is not None:
        trainer.load_state(state)
        failed = dict.fromkeys(state["identity"]["failed"], "unreadable before the run was resumed")
        console.print(f"going on from step {trainer.step} of {trainer.total_steps}")
    elif job.init != "random":
        console.print("\n".join(trainer.method.started_from), highlight=False, markup=False, soft_wrap=True)
    first = trainer.world.rank == 0
    if first:
        write_text(job.out / CONFIG, yaml.safe_dump(to_plain(job.config), sort_keys=False))
        write_json(job.out / FACTS, facts(job.resolved.choices, job.scanned, job.images, job.image_root, job.init))

    def save_weights() -> None:
        if first:
            write_weights(job.out, trainer.method, job.config, job.images, job.init, trainer.step)

    try:
        with watched(trainer.world, partial(give_up, again=again)):
            done, stopped_by = run(trainer, job.out, identity, failed, save_weights)
    except torch.OutOfMemoryError as error:
        share = job.config.training.micro_batch or job.config.training.batch_size // trainer.world.size
        raise InputError(
            f"the memory of {trainer.fabric.device} was not enough at step {trainer.step}, for {share} images at a "
            f"time; the last checkpoint is unharmed. Go on in smaller parts with:\n"
            f"  {again} --set training.micro_batch={max(1, share // 2)}"
        ) from error
    except NonFiniteLoss:
        if first:
            note_health(job.out)
        raise
    if first:
        console.print(str(note_health(job.out)), highlight=False, markup=False, soft_wrap=True)
    if not done:
        console.print(
            f"stopped at step {trainer.step} of {trainer.total_steps}; go on with:\n  {again}", soft_wrap=True
        )
        sys.exit(128 + (stopped_by or signal.SIGTERM))
    console.print(f"done: {job.out} holds weights.safetensors, log.jsonl and the checkpoints", soft_wrap=True)


def give_up(sentence: str, again: str) -> None:
    """End this process at once, though its main thread waits for one that has gone."""
    print(
        f"regionssl: {sentence}; the last checkpoint is unharmed. Go on with:\n  {again}", file=sys.stderr, flush=True
    )
    os._exit(2)


def checked_state(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The latest checkpoint, if it is of the same run.

    Raises:
        InputError: its configuration or image list differs; the differences are shown.
    """
    checkpoints = list_checkpoints(out / "checkpoints")
    if not checkpoints:
        return None
    state, begun = load_identity(checkpoints[-1][1])
    refuse_changes(out, {key: value for key, value in begun.items() if key != "failed"}, identity)
    return state


def refuse_changes(out: Path, begun: dict[str, Any], now: dict[str, Any]) -> None:
    """See that a run goes on as it was begun.

    Raises:
        InputError: something differs; the differences are shown.
    """
    changed = differences(begun, now)
    if changed:
        raise InputError(
            f"--resume: the run in {out} was made with other settings or images:\n  "
            + "\n  ".join(changed)
            + "\nuse the same ones, or start a new run with another --out"
        )
