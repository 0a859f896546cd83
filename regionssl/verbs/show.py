"""``regionssl show``: pictures of what a run, or a recipe on some images, sees and has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console

from regionssl.build import load_config, make_method
from regionssl.data.batch import Batch
from regionssl.engine.log import LOG, loss_terms, read_log
from regionssl.errors import InputError
from regionssl.export.run_weights import CARD
from regionssl.methods.base import World
from regionssl.report.affinity import affinity_strips
from regionssl.report.curves import curves_figure
from regionssl.report.features import feature_maps_figure
from regionssl.report.nearest import nearest_strips
from regionssl.report.pairs import pairs_figure
from regionssl.report.regions import region_maps_figure
from regionssl.report.strips import strips_figure
from regionssl.verbs.learned import (
    MAP,
    START,
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
from regionssl.verbs.pretrain import DEFAULT_RECIPE
from regionssl.verbs.run_folder import CONFIG, FACTS
from regionssl.verbs.show_regions import finds_regions, found_regions, matched_pairs
from regionssl.verbs.show_weights import is_weights, show_weights
from regionssl.verbs.sights import draw_views, see
from regionssl.verbs.subject import Subject, first_batch, open_images, open_run, patches_of


def show(
    source: Annotated[Path, typer.Argument(help="run folder, file of weights, or images as pretrain takes them")],
    out: Annotated[Path, typer.Option(help="folder for the pictures")],
    recipe: Annotated[str | None, typer.Option(help=f"for images: name or file [default: {DEFAULT_RECIPE}]")] = None,
    samples: Annotated[int, typer.Option(help="images in the pictures, at most one batch")] = 6,
    size: Annotated[int | None, typer.Option(help="for images: side of the views, pixels")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="for images: key.sub=value, as in pretrain")] = None,
    data: Annotated[Path | None, typer.Option(help="for a run: its images, if moved; for weights: any")] = None,
    image_root: Annotated[Path | None, typer.Option(help="where the images of a COCO json lie")] = None,
    backbone: Annotated[str | None, typer.Option(help="for a file of weights: timm name")] = None,
) -> Path:
    """Draw the views and matched regions of step 0, and of a run also its loss curves and features before and after.

    Writes views.png; regions.png where the method finds regions by its own features; for a run also curves.png once it
    has logged, pairs.png where ORL has matched boxes across images, and once it has weights features.png, points.png,
    nearest.png and segments.png. Of a file of weights, features.png alone.

    Returns:
        The folder of the pictures.

    Raises:
        InputError: something given cannot be used.
    """
    console, source, out = Console(), Path(source), Path(out)
    is_run = (source / CONFIG).is_file() and (source / FACTS).is_file()
    if samples < 1:
        raise InputError(f"--samples counts from 1, got {samples}")
    if is_weights(source):
        if recipe or size or set:
            raise InputError(f"{source} is a file of weights; leave --recipe, --size and --set out")
        return show_weights(source, out, None if data is None else Path(data), backbone, samples, image_root)
    if backbone is not None:
        raise InputError(f"--backbone goes with a file of weights, and {source} is none; leave it out")
    if is_run and (recipe or size or set):
        raise InputError(f"{source} is a run and shows its own settings; leave --recipe, --size and --set out")
    if data is not None and not is_run:
        raise InputError(f"--data goes with a run folder, and {source} is none; leave it out")
    if is_run:
        subject = open_run(source, data, image_root)
    else:
        subject = open_images(source, image_root, load_config(recipe or DEFAULT_RECIPE, {}, set, size))
    make_folder(out)
    for name, picture in draw(subject, samples).items():
        picture.save(out / name)
        console.print(f"wrote {out / name}", highlight=False, markup=False, soft_wrap=True)
    return out


def make_folder(out: Path) -> None:
    """Make the folder of the pictures.

    Raises:
        InputError: it is a file or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder --out {out}: {error.strerror}") from error


def draw(subject: Subject, samples: int) -> dict[str, Image.Image]:
    """The pictures by their file names."""
    config, name = subject.config, subject.name
    method = make_method(config, World(), config.training.seed, "random")
    patches = patches_of(subject)
    batch = first_batch(config, subject.images, samples, patches)
    title = f"{name}: views and matched regions of {config.method.name}, step 0"
    pictures = {"views.png": draw_views(see(subject, method, batch), title)}
    if patches is not None:
        matched = matched_pairs(subject.images, patches, batch.index.tolist())
        pictures["pairs.png"] = pairs_figure(matched, f"{name}: best pairs of boxes with the nearest images")
    if subject.run is not None:
        log = subject.run / LOG
        if records := read_log(log) if log.is_file() else []:
            pictures["curves.png"] = curves_figure(records, loss_terms(records[-1]), f"{name}: {config.method.name}")
        if (subject.run / CARD).is_file():
            pictures |= draw_learned(subject, batch)
    if finds_regions(method):
        whole = first_batch(config, subject.images, config.training.batch_size)
        if found := found_regions(config, method, whole, subject.images, subject.run, samples):
            title = f"{name}: regions found by {config.method.name}"
            pictures["regions.png"] = region_maps_figure(found.images, found.rows, title)
    return pictures


def draw_learned(subject: Subject, batch: Batch) -> dict[str, Image.Image]:
    """The pictures of what a run tells apart, at twice the views' side, by name."""
    config, positions = subject.config, batch.index.tolist()
    side = config.method.plan.views[0].size
    networks, _ = networks_of(subject)
    squares = centre_squares(subject.images, positions, 2 * side)
    prepare(networks, squares)
    maps = {label: maps_of(network, squares) for label, network in networks.items()}
    pictures = [picture_of(square) for square in squares]
    begun = "" if subject.init == "random" else f", begun from {subject.init} weights"
    what = f"{subject.name}: {MAP} of {config.backbone.name}"
    figures = {"features.png": feature_maps_figure(pictures, maps, f"{what}, main directions as colours{begun}")}
    ends = {label: networks[label] for label in (START, list(networks)[-1])}
    views, cuts = point_views(subject.images, batch, 2 * side)
    points = {label: affinities(network, cuts) for label, network in ends.items()}
    figures["points.png"] = strips_figure(affinity_strips(views, points), f"{what}, what matches a point")
    if len(subject.images) > 1:
        shown = gallery(subject.images, positions, side)
        queries, near = neighbours(ends, shown)
        strips = nearest_strips(shown.pictures, shown.names, shown.boxes, queries, near)
        figures["nearest.png"] = strips_figure(strips, f"{what}, nearest regions")
    clusters = segments({label: maps[label] for label in ends}, config.training.seed)
    figures["segments.png"] = region_maps_figure(pictures, clusters, f"{what}, clusters of features")
    return figures
