"""``regionssl evaluate``: one start, one task, its numbers beside the papers'."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from regionssl.config import to_plain
from regionssl.engine.checkpoint import write_json
from regionssl.engine.choices import choose_device
from regionssl.engine.distributed import process_rank
from regionssl.engine.log import duration
from regionssl.engine.lost import lost_loader, lost_process
from regionssl.errors import InputError
from regionssl.evaluation.outcome import Outcome
from regionssl.evaluation.published import published_rows
from regionssl.evaluation.saved import forget
from regionssl.evaluation.start import Start, open_start, weights_digest
from regionssl.evaluation.tasks import TASKS, ProtocolFile, Task, load_protocol, open_data
from regionssl.labels.digest import labels_digest
from regionssl.labels.sets import Split
from regionssl.proof.starts import checked_inputs, maps_of, try_out
from regionssl.verbs.claim import claimed

OUTCOME, EVIDENCE = "outcome.json", "evidence.npz"
PUBLISHED = "resnet50"
"""The backbone of all the papers' rows."""
PACKAGES = ("regionssl", "torch", "torchvision", "timm", "numpy")


def evaluate(
    weights: Annotated[str, typer.Argument(help="run folder, file of weights, random or imagenet")],
    task: Annotated[str, typer.Option(help=", ".join(TASKS))],
    data: Annotated[Path, typer.Option(help="labels: COCO, VOC, class maps or class folders")],
    out: Annotated[Path, typer.Option(help="folder for numbers, tables and pictures")],
    recipe: Annotated[
        str | None,
        typer.Option(help="protocol, by file or name (see regionssl recipes) [default: the task's small one]"),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="timm name, where the weights do not say it")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="key=value, any setting of the protocol")] = None,
    seed: Annotated[int, typer.Option(help="of everything random")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    devices: Annotated[int, typer.Option(help="processes (GPUs) that train together, each on its part of a batch")] = 1,
) -> Outcome:
    """Train and score a task from one start.

    Writes outcome.json, evidence.npz (from which the primary metric of any part of the images can be computed) and what
    the task leaves: predictions, tables, pictures.

    Returns:
        The outcome.

    Raises:
        InputError: something given cannot be used; nothing is lost.
    """
    first = devices == 1 or process_rank() == 0
    out, console = Path(out), Console(quiet=not first)
    protocol = load_protocol(task, recipe, set or ())
    place = choose_device(device)
    check_devices(task, protocol.task, devices, place)
    start = checked_inputs(open_start(weights, backbone))
    make_folder(out, OUTCOME)
    try_out(start, maps_of(protocol.settings))
    labels = open_data(protocol.task, Path(data))
    say(console, f"{task} ({protocol.name}: {protocol.about.summary}) from {start.name}, {start.config.name}, {place}")
    say(console, *described(labels))
    with claimed(out), own_folder(out, first) as folder:
        outcome = run(protocol, start, labels, folder, seed, place, devices)
        facts = {"weights": weights_digest(start), "source": start.source, "backbone": start.config.name, "seed": seed}
        source = {
            "source": str(Path(data).resolve()),
            "train": labels_digest(labels.train),
            "val": labels_digest(labels.val),
        }
        facts |= {"device": str(place), "devices": devices, "data": source}
        outcome.evidence.save(folder / EVIDENCE)
        write_json(folder / OUTCOME, facts | plain(outcome, protocol, folder))
        forget(folder)
    show_metrics(outcome, console)
    show_published(protocol, outcome, start, console)
    say(console, f"{duration(outcome.seconds)}; written to {out}")
    return outcome


def check_devices(name: str, task: Task, devices: int, place: torch.device) -> None:
    """See that so many processes can train this task here.

    Raises:
        InputError: they cannot.
    """
    if devices < 1:
        raise InputError(f"--devices counts from 1, got {devices}")
    if devices > 1 and not task.together:
        able = ", ".join(other for other, one in TASKS.items() if one.together)
        raise InputError(f"{name} runs in one process; --devices is for {able}")
    if place.type == "cuda" and devices > torch.cuda.device_count():
        raise InputError(f"--devices {devices}: this machine has {torch.cuda.device_count()} CUDA device(s)")


@contextmanager
def own_folder(out: Path, first: bool) -> Iterator[Path]:
    """Where this process writes: the first of several to ``out``, the others, who find the same, nowhere for long."""
    if first:
        yield out
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)


def run(
    protocol: ProtocolFile,
    start: Start,
    labels: Split[Any],
    folder: Path,
    seed: int,
    place: torch.device,
    devices: int,
) -> Outcome:
    """Train and score, in this process or together with others that begin here.

    Raises:
        InputError: another process, or one that loads images, is gone.
    """
    fabric = Fabric(accelerator=place.type, devices=devices, strategy="ddp") if devices > 1 else None
    if fabric is not None:
        fabric.launch()
        place = fabric.device
    try:
        outcome = protocol.evaluator.run(start, labels, folder, seed, str(place))
    except RuntimeError as error:
        if (said := lost_loader(error) or lost_process(error, devices)) is None:
            raise
        raise InputError(f"{said}; run the command again to go on") from error
    if fabric is not None:
        fabric.barrier()
    return outcome


def make_folder(out: Path, result: str) -> None:
    """Make the folder of the results.

    Raises:
        InputError: it holds some, is a file, or cannot be made.
    """
    if (out / result).exists():
        raise InputError(f"{out} already holds {result}; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder --out {out}: {error.strerror}") from error


def described(labels: Split[Any]) -> list[str]:
    """Sentences on the labels and on what was found while reading them."""
    classes = labels.train.classes
    shown = ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")
    counts = f"{len(labels.train):,} images to train on, {len(labels.val):,} to score on"
    if labels.train is labels.val:
        counts = f"{len(labels.val):,} images, all to score on (nothing is trained, and no split is given)"
    return [
        f"{counts}, {len(classes)} classes ({shown})",
        *dict.fromkeys((*labels.train.findings, *labels.val.findings)),
    ]


def plain(outcome: Outcome, protocol: ProtocolFile, out: Path) -> dict[str, Any]:
    """An outcome as JSON values."""
    per_class = {name: None if math.isnan(value) else value for name, value in outcome.per_class.items()}
    return {
        "task": protocol.evaluator.task,
        "protocol": protocol.name,
        "about": to_plain(protocol.about),
        "changes": list(protocol.changes),
        "primary": outcome.primary,
        "metrics": dict(outcome.metrics),
        "per_class": per_class,
        "settings": protocol.settings,
        "artefacts": {name: path.relative_to(out).as_posix() for name, path in outcome.artefacts.items()},
        "seconds": round(outcome.seconds, 2),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def show_metrics(outcome: Outcome, console: Console) -> None:
    """Print the metrics, the primary one first, and the primary one by class."""
    table = Table("metric", "value")
    names = sorted(outcome.metrics, key=lambda name: name != outcome.primary)
    for name in names:
        table.add_row(name, f"{outcome.metrics[name]:.2f}", style="bold" if name == outcome.primary else "")
    console.print(table)
    if len(outcome.per_class) > 1:
        table = Table("class", outcome.primary)
        for name, value in outcome.per_class.items():
            table.add_row(name, "-" if math.isnan(value) else f"{value:.2f}")
        console.print(table)


def show_published(protocol: ProtocolFile, outcome: Outcome, start: Start, console: Console) -> None:
    """Print the papers' rows of the protocol beside this one, as far as they have a metric in common.

    Above them stands where the protocol's settings are from, and which of them this one departs from.
    """
    rows = [row for row in published_rows(protocol.name) if set(row.metrics) & set(outcome.metrics)]
    say(console, f"settings of {protocol.name}: {protocol.about.source}")
    changes = [
        *protocol.changes,
        *([f"backbone: {PUBLISHED} -> {start.config.name}"] if rows and start.config.name != PUBLISHED else []),
    ]
    if changes:
        apart = ", so the papers' rows are of other settings" if rows else ""
        say(console, f"changed here{apart}: {'; '.join(changes)}")
    if not rows:
        say(console, f"no paper reports {protocol.name}")
        return
    metrics = [name for name in outcome.metrics if any(name in row.metrics for row in rows)]
    table = Table("pre-training", "data", "epochs", *metrics, "verified", "source", title=f"published, {protocol.name}")
    here = [f"{outcome.metrics[name]:.1f}" for name in metrics]
    measured = "measured here, with other settings" if changes else "measured here"
    table.add_row(f"this one: {start.name}", "", "", *here, "", measured, style="bold")
    for row in rows:
        values = [f"{row.metrics[name]:g}" if name in row.metrics else "" for name in metrics]
        source = f"{row.source} ({row.note})" if row.note else row.source
        epochs = "" if row.epochs is None else str(row.epochs)
        table.add_row(row.method, row.data, epochs, *values, "yes" if row.verified else "no", source)
    console.print(table)


def say(console: Console, *lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
