"""``regionssl show``: pictures of what a run, or a recipe on some images, sees and has learned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from rich.console import Console
from torch import Tensor, nn

from regionssl.backbones.encoder import Encoder
from regionssl.build import RunConfig, load_config, make_method, make_regions
from regionssl.data.batch import Batch, coloured
from regionssl.data.images import ImageList, find_images, scan
from regionssl.data.loader import EpochPlan, StepSampler, make_loader
from regionssl.data.patches import PATCH_NAMES, PatchSource
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD, normalise
from regionssl.data.views import CropDraw, ViewPlan, ViewSpec, centred_crop, cut
from regionssl.engine.log import loss_terms, read_log
from regionssl.errors import InputError
from regionssl.export.run_weights import CARD, load_backbone
from regionssl.methods.base import Method, World
from regionssl.report.curves import curves_figure
from regionssl.report.features import feature_maps_figure
from regionssl.report.views import views_figure
from regionssl.verbs.pretrain import DEFAULT_RECIPE
from regionssl.verbs.run_folder import CONFIG, FACTS
from regionssl.verbs.show_regions import draw_found_regions, draw_pairs
from regionssl.verbs.show_weights import is_weights, show_weights
from regionssl.verbs.stages import load_patches

_MAPS = ("c2", "c3", "c4", "c5")
_SHOWN_MAP = "c4"


@dataclass(frozen=True)
class Subject:
    """What is shown: settings and images, and the run folder they come from, if any."""

    name: str
    config: RunConfig
    images: ImageList
    run: Path | None
    init: str


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
    has logged, features.png once it has weights, and pairs.png where ORL has matched boxes across images. Of a file of
    weights, features.png alone.

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
    method = make_method(subject.config, World(), subject.config.training.seed, "random")
    patches = patches_of(subject)
    batch = first_batch(subject.config, subject.images, samples, patches)
    pictures = {"views.png": draw_views(subject, method, batch)}
    if patches is not None:
        title = f"{subject.name}: best pairs of boxes with the nearest images"
        pictures["pairs.png"] = draw_pairs(subject.images, patches, batch.index.tolist(), title)
    if subject.run is not None:
        log = subject.run / "log.jsonl"
        if records := read_log(log) if log.is_file() else []:
            pictures["curves.png"] = draw_curves(subject, records)
        if (subject.run / CARD).is_file():
            pictures["features.png"] = draw_features(subject, method, subject.run, batch.index.tolist())
    if regions := draw_regions(subject, method, samples):
        pictures["regions.png"] = regions
    for name, picture in pictures.items():
        picture.save(out / name)
        console.print(f"wrote {out / name}", highlight=False, markup=False, soft_wrap=True)
    return out


def open_run(run: Path, data: Path | None, image_root: Path | None) -> Subject:
    """A run, with its own settings and images.

    Args:
        data: where its images are; None for where they were.

    Raises:
        InputError: the images are gone or others, or the run's files are broken.
    """
    try:
        facts = json.loads((run / FACTS).read_text())
        recorded, fingerprint, init = facts["data"], facts["data"]["fingerprint"], facts["init"]
        place = data or Path(recorded["source"])
        root = image_root or (Path(recorded["image_root"]) if recorded["image_root"] else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{run / FACTS}, which tells where the images of the run are, cannot be read") from error
    config = load_config(str(run / CONFIG), {})
    if not place.exists():
        raise InputError(f"the images of {run} were in {place}, which does not exist; name their place with --data")
    images, _ = scan(find_images(place, root))
    if images.fingerprint != fingerprint:
        raise InputError(
            f"the images in {place} are not those that {run} was trained on: some were added, removed or changed; "
            f"name the right ones with --data, or look at these with: regionssl show {place} --recipe {run / CONFIG}"
        )
    return Subject(run.resolve().name, config, images, run, init)


def open_images(source: Path, image_root: Path | None, config: RunConfig) -> Subject:
    """Images, under the settings of a recipe.

    Raises:
        InputError: there are none.
    """
    if not source.exists():
        raise InputError(f"{source} does not exist; give the folder of a run, or images as pretrain takes them")
    images, _ = scan(find_images(source, image_root))
    return Subject(source.resolve().name, config, images, None, "random")


def make_folder(out: Path) -> None:
    """Make the folder of the pictures.

    Raises:
        InputError: it is a file or cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder --out {out}: {error.strerror}") from error


def patches_of(subject: Subject) -> PatchSource | None:
    """The correspondences that patches are drawn from; None if no view is a patch.

    Raises:
        InputError: they have not been found yet.
    """
    if not subject.config.method.plan.wants_patches:
        return None
    if subject.run is None:
        raise InputError(
            f"the patches of {subject.config.method.name} are cut by correspondences between the images, which a run "
            "finds in its second stage; give the folder of a run instead of images"
        )
    return load_patches(subject.run, subject.images)


def first_batch(config: RunConfig, images: ImageList, samples: int, patches: PatchSource | None = None) -> Batch:
    """The first images of step 0 with the views that training makes of them; uint8, colours not applied."""
    training, plan = config.training, config.method.plan
    count = min(samples, training.batch_size, len(images))
    epochs = EpochPlan(len(images), count, training.seed, drop_last=False)
    regions = make_regions(config.method, images.names, images)
    loader = make_loader(images, plan, StepSampler(epochs, 0, 1), training.seed, 0, regions=regions, patches=patches)
    batch: Batch = next(iter(loader))
    return batch


def draw_views(subject: Subject, method: Method, batch: Batch) -> Image.Image:
    """The views of a batch, coloured as the network sees them, with the regions that the method matches."""
    seen = coloured(batch, subject.config.method.plan)
    positions, plan = batch.index.tolist(), subject.config.method.plan
    others = {}
    if batch.neighbour is not None and plan.neighbour_view is not None:
        others[plan.neighbour_view] = [subject.images.load(index) for index in batch.neighbour.tolist()]
    return views_figure(
        images=[subject.images.load(index) for index in positions],
        crops=batch.crops,
        views=[to_pixels(view) for view in seen.views],
        matches=method.matches(batch),
        names=[subject.images.names[index] for index in positions],
        title=f"{subject.name}: views and matched regions of {subject.config.method.name}, step 0",
        captions=view_names(plan),
        others=others,
    )


def draw_regions(subject: Subject, method: Method, samples: int) -> Image.Image | None:
    """The regions that the method finds in the first images; None if it finds none by itself."""
    if type(method).found_regions is Method.found_regions:
        return None
    batch = first_batch(subject.config, subject.images, subject.config.training.batch_size)
    title = f"{subject.name}: regions found by {subject.config.method.name}"
    return draw_found_regions(subject.config, method, batch, subject.images, subject.run, samples, title)


def view_names(plan: ViewPlan) -> list[str]:
    """What the views are called in pictures."""
    kinds = iter(PATCH_NAMES)
    patches = [f", {next(kinds)}" if view.crop == "patch" else "" for view in plan.views]
    return [f"view {number}{patch}" for number, patch in enumerate(patches, start=1)]


def to_pixels(views: Tensor) -> Tensor:
    """Normalised views (N, 3, S, S) float as uint8."""
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return ((views * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def draw_features(subject: Subject, method: Method, run: Path, positions: list[int]) -> Image.Image:
    """Feature maps of the centres of images before and after, at twice the views' side.

    Args:
        method: with the weights that the run's seed draws.
        positions: of the images in the list.
    """
    config = subject.config
    side = 2 * config.method.plan.views[0].size
    start = Encoder(config.backbone, size=config.method.plan.views[0].size, maps=_MAPS).eval()
    start.body.load_state_dict(method.backbone.body.state_dict())
    networks = {"random start": start, "pre-trained": load_backbone(run, _MAPS)}
    squares = torch.stack([centre_square(subject.images.load(index), side) for index in positions])
    inputs = normalise(squares.float() / 255)
    take_statistics(start, inputs)
    rows = {
        label: torch.cat([network(image[None])[_SHOWN_MAP] for image in inputs]) for label, network in networks.items()
    }
    pictures = [Image.fromarray(square.permute(1, 2, 0).contiguous().numpy()) for square in squares]
    begun = "" if subject.init == "random" else f", begun from {subject.init} weights"
    title = f"{subject.name}: {_SHOWN_MAP} of {config.backbone.name}, main directions as colours{begun}"
    return feature_maps_figure(pictures, rows, title)


def take_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Give batch norms, which have seen nothing yet, the statistics of the inputs; leave all in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # a plain mean over what was seen
        norm.train()
    if norms:
        network(inputs)
    network.eval()


def centre_square(image: Image.Image, side: int) -> Tensor:
    """The largest centred square of an image, resized: (3, side, side) uint8."""
    width, height = image.size
    crop = CropDraw(*centred_crop(width, height, (1.0, 1.0)), flip=False)
    return torch.from_numpy(cut(image, crop, ViewSpec(size=side, interpolation="bicubic")))


def draw_curves(subject: Subject, records: list[dict[str, Any]]) -> Image.Image:
    """The loss terms over the steps, and the speed."""
    return curves_figure(records, loss_terms(records[-1]), f"{subject.name}: {subject.config.method.name}")
