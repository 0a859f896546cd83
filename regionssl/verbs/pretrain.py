"""``regionssl pretrain``: from images to weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml
from rich.console import Console

from regionssl.build import load_config
from regionssl.config import to_plain
from regionssl.data.images import find_images, scan
from regionssl.engine.checkpoint import list_checkpoints, load_identity
from regionssl.engine.choices import choose_device
from regionssl.engine.distributed import process_rank
from regionssl.engine.train import NonFiniteLoss
from regionssl.errors import InputError
from regionssl.methods.orl import OrlConfig
from regionssl.verbs.claim import claimed
from regionssl.verbs.cost import explain_cost
from regionssl.verbs.fit import fit_to_memory, take_step
from regionssl.verbs.job import Job, build_trainer, launch, make_job, train
from regionssl.verbs.report import leave_report
from regionssl.verbs.run_folder import CONFIG
from regionssl.verbs.stages import Given, explain_stages, given_stages, run_stages, stand_in

DEFAULT_RECIPE = "resim_fpn_small"


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
    correspondences: Annotated[Path | None, typer.Option(help="for ORL: file of stage 2, instead of making it")] = None,
) -> Path:
    """Pre-train a backbone on unlabelled images.

    ORL has three stages, the first two in OUT/stage1 and OUT/stage2; with --init, its given network takes the place of
    stage 1, and stage 3 starts from random weights as it always does.

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
    console = Console(quiet=process_rank() != 0)
    place = choose_device(device)
    if devices < 1 or nodes < 1:
        raise InputError(f"--devices and --nodes count from 1, got {devices} and {nodes}")
    if place.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    source = recipe or (str(out / CONFIG) if resume and (out / CONFIG).is_file() else DEFAULT_RECIPE)
    config = load_config(source, {key: value for key, value in settings.items() if value is not None}, set, size)
    check_folder(out, resume, dry_run)
    with claimed(out, not dry_run):
        images, scanned = scan(find_images(data, image_root))
        console.print("\n".join(scanned.lines()), highlight=False, markup=False)
        given: Given | None = None
        if isinstance(config.method, OrlConfig):
            given, init = given_stages(out, init, correspondences, resume), "random"
        elif correspondences is not None:
            raise InputError(f"--correspondences goes with orl, and this is {config.method.name}; leave it out")
        init = init or (_recorded_init(out) if resume else "random")

        def in_parts(micro_batch: int | None) -> Job:
            training = config.training.model_copy(update={"micro_batch": micro_batch})
            parted = config.model_copy(update={"training": training})
            return make_job(parted, images, scanned, out, place, devices, nodes, init, image_root)

        job = in_parts(config.training.micro_batch)
        if place.type == "cuda" and config.training.micro_batch is None:
            job = fit_to_memory(job, in_parts, None if given is None else stand_in(len(images)), console, take_step)
        announce(job, console, source)
        if dry_run:
            console.print(yaml.safe_dump(to_plain(job.config), sort_keys=False), highlight=False, markup=False)
            if given is None:
                explain_cost(build_trainer(job, launch(job)), console)
            else:
                explain_stages(job, given, console)
            return out
        again = _resume_command(data, out, devices, device)
        if given is not None:
            job = run_stages(job, given, resume, console, again)
        try:
            train(job, resume, console, again)
        except NonFiniteLoss:
            report_on(job, console)
            raise
        report_on(job, console)
        return out


def report_on(job: Job, console: Console) -> None:
    """Leave the page of a run that has ended, if it is wanted."""
    if job.config.training.report and process_rank() == 0:
        leave_report(job.out, console)


def check_folder(out: Path, resume: bool, dry_run: bool) -> None:
    """Refuse to write over a run.

    Raises:
        InputError: ``out`` holds a run and resume is off, or it cannot be made.
    """
    if not resume and not dry_run and process_rank() == 0 and (out / CONFIG).exists():
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


def _recorded_init(out: Path) -> str:
    checkpoints = list_checkpoints(out / "checkpoints")
    return str(load_identity(checkpoints[-1][1])[1]["init"]) if checkpoints else "random"


def _resume_command(data: Path, out: Path, devices: int, device: str) -> str:
    extra = (f" --devices {devices}" if devices > 1 else "") + (f" --device {device}" if device != "auto" else "")
    return f"regionssl pretrain {data} --out {out}{extra} --resume"
