"""``regionssl doctor``: what would go wrong on this machine and with these images, and what mends it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from regionssl.build import RunConfig, load_config, make_method
from regionssl.data.images import default_cache, find_images
from regionssl.data.scan import examine
from regionssl.doctor.accelerator import check_builds, check_gpus, read_accelerator
from regionssl.doctor.copies import alike, check_copies, equal_files
from regionssl.doctor.finding import LEVELS, Finding
from regionssl.doctor.images import check_damage, check_scan, check_speed, largest_image
from regionssl.doctor.launch import check_launch
from regionssl.doctor.libraries import check_optional, check_required, requirements
from regionssl.doctor.looking import look_at
from regionssl.doctor.needs import Needs, check_amount, check_sizes
from regionssl.doctor.oddities import check_oddities
from regionssl.doctor.processor import check_memory, check_processor, read_processor
from regionssl.doctor.storage import check_cache, check_disk, check_open_files, check_shared_memory, read_storage
from regionssl.engine.checkpoint import write_json
from regionssl.engine.choices import choose_device, choose_workers
from regionssl.errors import InputError
from regionssl.methods.base import World
from regionssl.verbs.pretrain import DEFAULT_RECIPE

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "red"}
_NAMED = 3
_MOMENTS = {"sgd": 1, "lars": 1, "adamw": 2}


def diagnose(
    data: Annotated[Path | None, typer.Argument(help="folder, list, COCO json, zip or tar of images")] = None,
    out: Annotated[Path, typer.Option(help="run folder to be, whose disk is tried")] = Path("runs"),
    recipe: Annotated[str, typer.Option(help="recipe name or file that a run would take")] = DEFAULT_RECIPE,
    batch_size: Annotated[int | None, typer.Option(help="images per step over all processes")] = None,
    size: Annotated[int | None, typer.Option(help="side of the views, pixels")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    devices: Annotated[int, typer.Option(help="processes (GPUs) on this machine")] = 1,
    workers: Annotated[int | None, typer.Option(help="loader processes per training process")] = None,
    look: Annotated[int, typer.Option(help="images to decode and compare, at most and within a minute")] = 1000,
    json: Annotated[Path | None, typer.Option(help="file for all findings, with all names")] = None,
    image_root: Annotated[Path | None, typer.Option(help="where the images of a COCO json lie")] = None,
) -> list[Finding]:
    """Check this machine, and images if given, for what a run would stumble over; exit code 1 if it would fail.

    Returns:
        All findings, in the order in which they are printed.

    Raises:
        InputError: something given is not there or not known.
    """
    console = Console()
    if devices < 1 or look < 2:
        raise InputError(f"--devices counts from 1 and --look from 2, got {devices} and {look}")
    settings = {"training.batch_size": batch_size, "training.workers": workers}
    config = load_config(recipe, {key: value for key, value in settings.items() if value is not None}, None, size)
    place = choose_device(device)
    needs = needs_of(config, choose_workers(config.training, place, devices).value, devices)
    findings = check_machine(needs, Path(out), place.type == "cpu")
    show(findings, "this machine", console)
    if data is not None:
        of_data = check_data(Path(data), image_root, config, needs, look)
        show(of_data, str(data), console)
        findings = findings + of_data
    counts = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items()), highlight=False)
    if json is not None:
        write_json(Path(json), {"counts": counts, "findings": [finding.to_plain() for finding in findings]})
    return findings


def fails(result: object) -> bool:
    """Whether a verb's result is a diagnosis with faults."""
    return isinstance(result, list) and any(isinstance(one, Finding) and one.level == "fault" for one in result)


def needs_of(config: RunConfig, workers: int, devices: int) -> Needs:
    """What a run of a recipe needs."""
    method = make_method(config, World(), 0, "random")
    state = sum(tensor.nbytes for tensor in method.state_dict().values())
    moments = sum(one.nbytes for one in method.parameters() if one.requires_grad) * _MOMENTS[config.optimiser.name]
    return Needs(
        config.training.batch_size,
        devices,
        workers,
        tuple(view.size for view in config.method.plan.views),
        getattr(config.method, "group_size", None) or 1,
        getattr(config.method, "queue", None),
        state + moments,
        config.training.keep,
    )


def check_machine(needs: Needs, out: Path, on_cpu: bool) -> list[Finding]:
    """Everything about the machine and the environment."""
    processor, storage, wanted = read_processor(), read_storage(out, default_cache()), requirements()
    accelerator = read_accelerator()
    return [
        *check_builds(accelerator),
        *check_gpus(accelerator, needs.share, needs.together),
        *check_processor(processor, needs.workers * needs.devices, on_cpu),
        *check_memory(processor.memory, needs.at_once, needs.in_flight, 0),
        *check_shared_memory(storage.shared, needs.in_flight, needs.workers),
        *check_open_files(storage.open_files, needs.workers, len(needs.view_sizes)),
        *check_disk(storage, needs.checkpoint, needs.keep),
        *check_cache(storage.cache),
        *check_required(wanted),
        *check_optional(wanted),
        *check_launch(os.environ),
    ]


def check_data(data: Path, image_root: Path | None, config: RunConfig, needs: Needs, look: int) -> list[Finding]:
    """Everything about the images."""
    images, report = examine(find_images(data, image_root))
    findings = check_scan(report)
    if not len(images):
        return findings
    looks = look_at(images, config.method.plan, look)
    equal, compared = equal_files(images, [one.position for one in looks])
    near = alike(looks)
    memory = check_memory(read_processor().memory, needs.at_once, needs.in_flight, largest_image(looks))
    return [
        *findings,
        *check_damage(looks, images),
        *check_oddities(looks, images),
        *check_copies(images, equal, compared, near, len(looks)),
        *check_amount(len(images), needs),
        *check_sizes(looks, needs),
        *check_speed(looks, len(images), needs.at_once),
        *(finding for finding in memory if finding.level != "ok"),
    ]


def show(findings: list[Finding], title: str, console: Console) -> None:
    """Print findings, each with the line that mends it and a few names."""
    console.print(title, style="bold", highlight=False, markup=False)
    for finding in findings:
        level = f"[{_COLOURS[finding.level]}]{finding.level:8}[/]"
        console.print(f"  {level}{escape(finding.about)}: {escape(finding.found)}", highlight=False, soft_wrap=True)
        for name in finding.details[:_NAMED]:
            console.print(f"{'':12}{name}", highlight=False, markup=False, soft_wrap=True)
        if len(finding.details) > _NAMED:
            console.print(f"{'':12}... and {len(finding.details) - _NAMED:,} more", highlight=False)
        if finding.mend and finding.level != "ok":
            console.print(f"{'':10}> {finding.mend}", highlight=False, markup=False, soft_wrap=True)
