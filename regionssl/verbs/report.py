"""``regionssl report``: one page on one run or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from regionssl.build import make_method
from regionssl.engine.checkpoint import write_text
from regionssl.engine.log import LOG, append_event
from regionssl.errors import InputError
from regionssl.methods.base import World
from regionssl.report.features import feature_rows
from regionssl.report.nearest import nearest_strips
from regionssl.report.pairs import pair_strips
from regionssl.report.regions import region_rows
from regionssl.report.run_page import LearnedPart, RunPage, run_page
from regionssl.report.strips import Strip, by_image
from regionssl.verbs.learned import (
    START,
    Networks,
    affinities,
    centre_squares,
    gallery,
    maps_of,
    neighbours,
    networks_of,
    picture_of,
    point_views,
    prepare,
    segments,
)
from regionssl.verbs.run_record import RunRecord, part_of, plots_of, read_run, state_of
from regionssl.verbs.show_regions import finds_regions, found_regions, matched_pairs
from regionssl.verbs.sights import see, strips_of
from regionssl.verbs.subject import Subject, first_batch, open_run, patches_of

PAGE = "report.html"
SAMPLES = 4

T = TypeVar("T")


def make_report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, finished or not")],
    out: Annotated[Path | None, typer.Option(help="the page [default: RUN/report.html]")] = None,
    data: Annotated[Path | None, typer.Option(help="the images of the runs, if moved")] = None,
    image_root: Annotated[Path | None, typer.Option(help="where the images of a COCO json lie")] = None,
    samples: Annotated[int, typer.Option(help="images in the pictures")] = SAMPLES,
) -> Path:
    """Make one self-contained HTML page on runs: health, curves, what they see, what they have learned, settings.

    What cannot be read is named on the page. Several runs are shown on the images of the first whose images are there.

    Returns:
        The page.

    Raises:
        InputError: a folder is not that of a run, or the page cannot be written.
    """
    runs = [Path(run) for run in runs]
    if samples < 1:
        raise InputError(f"--samples counts from 1, got {samples}")
    if out is None and len(runs) > 1:
        raise InputError("several runs have no folder in common for the page; name a file with --out report.html")
    out = runs[0] / PAGE if out is None else Path(out)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the name of a file, such as {out / PAGE}")
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    records = [read_run(run, name) for run, name in zip(runs, names, strict=True)]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder of --out {out}: {error.strerror}") from error
    write_text(out, run_page(gather(records, data, image_root, samples)))
    return out


def gather(records: list[RunRecord], data: Path | None, image_root: Path | None, samples: int) -> RunPage:
    """What the page shows; sentences on what it cannot show are added to the records."""
    subjects = []
    for record in records:
        opening = partial(open_run, record.folder, data, image_root)
        subjects.append(_tried(record, "pictures", opening))
    parts = []
    for record, subject in zip(records, subjects, strict=True):
        seen = [] if subject is None else _seen(record, subject, samples)
        parts.append(replace(part_of(record), seen=seen))
    opened = [(record, subject) for record, subject in zip(records, subjects, strict=True) if subject is not None]
    learned = _tried(opened[0][0], "features", lambda: _learned(opened, samples)) if opened else None
    title = ", ".join(record.name for record in records)
    plots, gauges = plots_of(records)
    again = f"Made of {len(records)} run(s). Make it anew, also while a run goes on: regionssl report " + " ".join(
        str(record.folder) for record in records
    )
    parts = [replace(part, missing=record.missing) for part, record in zip(parts, records, strict=True)]
    return RunPage(f"Report of {title}", parts, plots, gauges, learned, again)


def _tried(record: RunRecord, what: str, make: Callable[[], T]) -> T | None:
    """What ``make`` makes; None, and a sentence on the page, if it fails: the rest of the page is worth having."""
    try:
        return make()
    except Exception as error:
        reason = str(error).splitlines() or [type(error).__name__]
        record.missing.append(f"{what}: {reason[0]}")
        return None


def _seen(record: RunRecord, subject: Subject, samples: int) -> list[tuple[str, Sequence[Strip]]]:
    """What the method sees and finds."""
    config = subject.config
    name = config.method.name

    def views() -> list[Strip]:
        method = make_method(config, World(), config.training.seed, "random")
        batch = first_batch(config, subject.images, samples, patches_of(subject))
        return strips_of(see(subject, method, batch))

    def pairs() -> list[Strip]:
        patches = patches_of(subject)
        if patches is None:
            return []
        batch = first_batch(config, subject.images, samples, patches)
        return pair_strips(matched_pairs(subject.images, patches, batch.index.tolist()))

    def regions() -> list[Strip]:
        method = make_method(config, World(), config.training.seed, "random")
        if not finds_regions(method):
            return []
        whole = first_batch(config, subject.images, config.training.batch_size)
        found = found_regions(config, method, whole, subject.images, subject.run, samples)
        return [] if found is None else by_image(found.images, found.names, region_rows(found.images, found.rows))

    parts = [
        (f"What {name} sees", "views", views),
        ("Pairs across images", "pairs", pairs),
        ("Regions over training", "regions", regions),
    ]
    return [(heading, strips) for heading, what, make in parts if (strips := _tried(record, what, make))]


def _learned(opened: list[tuple[RunRecord, Subject]], samples: int) -> LearnedPart:
    """What the networks of all runs tell apart in images of the first."""
    subject = opened[0][1]
    images, config = subject.images, subject.config
    side = config.method.plan.views[0].size
    batch = first_batch(config, images, samples, patches_of(subject))
    positions = batch.index.tolist()
    squares = centre_squares(images, positions, 2 * side)
    networks, ends = _networks(opened)
    prepare(networks, squares)
    maps = {label: maps_of(network, squares) for label, network in networks.items()}
    pictures, names = [picture_of(square) for square in squares], [images.names[i] for i in positions]
    views, cuts = point_views(images, batch, 2 * side)
    nearest: list[Strip] = []
    if len(images) > 1:
        shown = gallery(images, positions, side)
        queries, near = neighbours({label: networks[label] for label in ends}, shown)
        nearest = nearest_strips(shown.pictures, shown.names, shown.boxes, queries, near)
    clusters = segments({label: maps[label] for label in ends}, config.training.seed)
    return LearnedPart(
        note=_note(opened, networks),
        features=by_image(pictures, names, feature_rows(maps), cells=True),
        nearest=nearest,
        clusters=by_image(pictures, names, region_rows(pictures, clusters)),
        images=views,
        affinities={label: affinities(networks[label], cuts) for label in ends},
    )


def _networks(opened: list[tuple[RunRecord, Subject]]) -> tuple[Networks, list[str]]:
    """The networks of all runs, and which of them are shown where there is room for few: a start and the latest."""
    networks: Networks = {}
    ends: list[str] = []
    for number, (record, subject) in enumerate(opened):
        own, notes = networks_of(subject)
        record.missing.extend(notes)
        if len(own) == 1:
            record.missing.append("features: the run has no weights yet; they come with its first checkpoint")
        labels = {label: f"{record.name}: {label}" if len(opened) > 1 else label for label in own}
        networks |= {labels[label]: network for label, network in own.items()}
        ends += [labels[START]] if number == 0 else []
        ends += [list(labels.values())[-1]] if len(own) > 1 else []
    return networks, ends


def _note(opened: list[tuple[RunRecord, Subject]], networks: Networks) -> str:
    """Which states are shown."""
    record, subject = opened[0]
    begun = "" if subject.init == "random" else f" The run was begun from {subject.init} weights, not from these."
    return (
        f"Images of {record.name}. States: {'; '.join(networks)}.{begun} A run keeps its latest checkpoints only "
        f"(training.keep), so states in between are those that are still there. {state_of(record)}"
    )


def leave_report(run: Path, console: Console) -> None:
    """Write the page of a run that has ended into its folder; a fault of the page is told and logged, not raised."""
    try:
        page = make_report([run])
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"no report was made: {reason}; try again with: regionssl report {run}"
        append_event(run / LOG, {"event": "report", "reason": reason})
    else:
        message = f"report: {page}"
    console.print(message, highlight=False, markup=False, soft_wrap=True)
