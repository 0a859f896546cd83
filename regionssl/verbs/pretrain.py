"""``regionssl pretrain``: from images to weights."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from rich.console import Console

from regionssl.backbones.norm import sync_batch_norm
from regionssl.build import RunConfig, load_config, make_method, trainable
from regionssl.config import differences, to_plain
from regionssl.data.images import ImageList, ScanReport, find_images, scan
from regionssl.engine.checkpoint import list_checkpoints, load_checkpoint, write_json, write_text
from regionssl.engine.choices import Resolved, choose_device, resolve
from regionssl.engine.distributed import current_world
from regionssl.engine.optim import make_optimiser
from regionssl.engine.train import Trainer, run
from regionssl.errors import InputError
from regionssl.verbs.cost import explain_cost
from regionssl.verbs.run_folder import CONFIG, FACTS, facts, write_weights

DEFAULT_RECIPE = "resim_fpn_small"

# Settings that may change between a run and its continuation: they do not touch the result.
_FREE = {"workers", "keep", "log_every", "save_every"}


@dataclass(frozen=True)
class Job:
    """A run that is ready to start: settled settings, data and place."""

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

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to go on."""
        config = to_plain(self.config)
        training = {key: value for key, value in config["training"].items() if key not in _FREE}
        kept = {key: value for key, value in config.items() if key != "about"}
        return {
            "config": {**kept, "training": training},
            "init": self.init,
            "data": {"images": self.images.fingerprint},
        }


def pretrain(
    data: Annotated[Path, typer.Argument(help="folder, list, COCO json, zip or tar of images")],
    out: Annotated[Path, typer.Option(help="run folder")],
    recipe: Annotated[str | None, typer.Option(help=f"recipe name or file [default: {DEFAULT_RECIPE}]")] = None,
    backbone: Annotated[str | None, typer.Option(help="timm name, such as resnet50 or convnext_tiny")] = None,
    init: Annotated[str | None, typer.Option(help="random, imagenet or a file of weights [default: random]")] = None,
    epochs: Annotated[float | None, typer.Option(help="passes over the images")] = None,
    steps: Annotated[int | None, typer.Option(help="optimiser steps, instead of epochs")] = None,
    batch_size: Annotated[int | None, typer.Option(help="images per step over all processes")] = None,
    size: Annotated[int | None, typer.Option(help="side of the views, pixels")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    devices: Annotated[int, typer.Option(help="processes (GPUs) per node")] = 1,
    nodes: Annotated[int, typer.Option(help="nodes, with torchrun or SLURM")] = 1,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16")] = None,
    workers: Annotated[int | None, typer.Option(help="loader processes per training process")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything random")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="key.sub=value, any setting of the recipe")] = None,
    save_every: Annotated[int | None, typer.Option(help="steps between checkpoints")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where the run in OUT stopped")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="explain settings, choices, cost; train nothing")] = False,
    image_root: Annotated[Path | None, typer.Option(help="where the images of a COCO json lie")] = None,
) -> Path:
    """Pre-train a backbone on unlabelled images.

    Returns:
        The run folder, with config, log, checkpoints and weights.

    Raises:
        InputError: something given cannot be used; nothing is lost.
    """
    data, out = Path(data), Path(out)
    settings = {
        "backbone.name": backbone,
        "training.epochs": epochs,
        "training.steps": steps,
        "training.batch_size": batch_size,
        "training.precision": precision,
        "training.workers": workers,
        "training.seed": seed,
        "training.save_every": save_every,
    }
    console = Console(quiet=_rank() != 0)
    place = choose_device(device)
    if devices < 1 or nodes < 1:
        raise InputError(f"--devices and --nodes count from 1, got {devices} and {nodes}")
    if place.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    source = recipe or (str(out / CONFIG) if resume and (out / CONFIG).is_file() else DEFAULT_RECIPE)
    config = load_config(source, {key: value for key, value in settings.items() if value is not None}, set, size)
    check_folder(out, resume, dry_run)
    images, scanned = scan(find_images(data, image_root))
    console.print("\n".join(scanned.lines()), highlight=False, markup=False)
    resolved = resolve(
        config.training, config.method, config.optimiser, config.schedule, len(images), place, devices, nodes
    )
    config = config.model_copy(
        update={"training": resolved.training, "method": resolved.method, "schedule": resolved.schedule}
    )
    init = init or (_recorded_init(out) if resume else "random")
    job = Job(config, resolved, images, scanned, image_root, init, out, place, devices, nodes)
    announce(job, console, source)
    if dry_run:
        console.print(yaml.safe_dump(to_plain(config), sort_keys=False), highlight=False, markup=False)
        explain_cost(build_trainer(job, launch(job)), console)
        return out
    train(job, resume, console, _resume_command(data, out, devices, device))
    return out


def check_folder(out: Path, resume: bool, dry_run: bool) -> None:
    """Refuse to write over a run.

    Raises:
        InputError: ``out`` holds a run and resume is off, or it cannot be made.
    """
    if not resume and not dry_run and _rank() == 0 and (out / CONFIG).exists():
        raise InputError(f"{out} already holds a run; add --resume to go on with it, or choose another --out")
    if resume and not (out / CONFIG).exists():
        raise InputError(f"--resume: {out} holds no run; leave --resume out to start one")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; give the name of a folder")
    if dry_run:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the run folder {out}: {error.strerror}") from error


def announce(job: Job, console: Console, source: str) -> None:
    """Print what will be done and every automatic choice."""
    method, training = job.config.method, job.config.training
    console.print(
        f"{method.name} ({source}), {job.config.backbone.name} from {job.init} weights, {len(job.images)} images, "
        f"views of {method.plan.views[0].size} px, batch {training.batch_size}, {job.resolved.total_steps} steps, "
        f"{job.device.type}, {job.devices * job.nodes} process(es)",
        highlight=False,
        soft_wrap=True,
    )
    for choice in job.resolved.choices:
        console.print(f"  {choice}", highlight=False, soft_wrap=True, markup=False)


def launch(job: Job) -> Fabric:
    """Start the processes of the run (this one included)."""
    processes = job.devices * job.nodes
    precision = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[job.config.training.precision]
    fabric = Fabric(
        accelerator=job.device.type,
        devices=job.devices,
        num_nodes=job.nodes,
        strategy=DDPStrategy(broadcast_buffers=False) if processes > 1 else "auto",
        precision=precision,
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
    )


def train(job: Job, resume: bool, console: Console, again: str) -> None:
    """Run the job to its end or to a stop signal, and leave config, log, checkpoints and weights in its folder."""
    identity = job.identity()
    state = _checked_state(job.out, identity) if resume else None
    fabric = launch(job)
    trainer = build_trainer(job, fabric, fresh=state is None)
    failed: dict[int, str] = {}
    if state is not None:
        trainer.load_state(state)
        failed = dict.fromkeys(state["identity"]["failed"], "unreadable before the run was resumed")
        console.print(f"going on from step {trainer.step} of {trainer.total_steps}")
    first = trainer.world.rank == 0
    if first:
        write_text(job.out / CONFIG, yaml.safe_dump(to_plain(job.config), sort_keys=False))
        write_json(job.out / FACTS, facts(job.resolved.choices, job.scanned, job.images, job.image_root, job.init))

    def save_weights() -> None:
        if first:
            write_weights(job.out, trainer.method, job.config, job.images, job.init, trainer.step)

    done, stopped_by = run(trainer, job.out, identity, failed, save_weights)
    if not done:
        console.print(
            f"stopped at step {trainer.step} of {trainer.total_steps}; go on with:\n  {again}", soft_wrap=True
        )
        sys.exit(128 + (stopped_by or signal.SIGTERM))
    console.print(f"done: {job.out} holds weights.safetensors, log.jsonl and the checkpoints", soft_wrap=True)


def _checked_state(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The latest checkpoint, if it is of the same run.

    Raises:
        InputError: its configuration or image list differs; the differences are shown.
    """
    checkpoints = list_checkpoints(out / "checkpoints")
    if not checkpoints:
        return None
    state = load_checkpoint(checkpoints[-1][1])
    stored = {key: value for key, value in state["identity"].items() if key != "failed"}
    changed = differences(stored, identity)
    if changed:
        raise InputError(
            f"--resume: the run in {out} was made with other settings or images:\n  "
            + "\n  ".join(changed)
            + "\nuse the same ones, or start a new run with another --out"
        )
    return state


def _recorded_init(out: Path) -> str:
    checkpoints = list_checkpoints(out / "checkpoints")
    return str(load_checkpoint(checkpoints[-1][1])["identity"]["init"]) if checkpoints else "random"


def _resume_command(data: Path, out: Path, devices: int, device: str) -> str:
    extra = (f" --devices {devices}" if devices > 1 else "") + (f" --device {device}" if device != "auto" else "")
    return f"regionssl pretrain {data} --out {out}{extra} --resume"


def _rank() -> int:
    """The global rank that a launcher has given this process, before torch.distributed is up."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", 0))))
