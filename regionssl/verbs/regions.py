"""``regionssl regions``: regions of all images, made once and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console

from regionssl.backbones.encoder import Encoder
from regionssl.config import override, parse, parse_overrides
from regionssl.data.contents import content_digest
from regionssl.data.decode import UnreadableImage
from regionssl.data.images import ImageList, find_images, scan
from regionssl.data.packs import Pack
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.engine.choices import choose_device
from regionssl.errors import InputError, nearest
from regionssl.evaluation.objects import feature_clusters
from regionssl.export.run_weights import load_backbone, read_card
from regionssl.regions.annotations import LabelledObjects, Objects, read_objects
from regionssl.regions.kinds import (
    CocoBoxes,
    CocoMasks,
    Kind,
    RegionConfig,
    SelectiveSearch,
    Windows,
    annotation_digest,
    library_of,
    settings_of,
)
from regionssl.regions.proposals import opencv
from regionssl.regions.sources import RegionSource, SourceConfig, find_labels, make_source
from regionssl.regions.summary import lines, summarise
from regionssl.stores.store import Manifest, hash_names
from regionssl.verbs.stores import launched_rank, make_store, share_of, size_on_disk

KINDS: tuple[str, ...] = get_args(Kind)


def find_regions(
    data: Annotated[Path, typer.Argument(help="folder, list, COCO json, zip or tar of images")],
    out: Annotated[Path, typer.Option(help="folder of the store; an unfinished one is gone on with")],
    kind: Annotated[str, typer.Option(help=", ".join(KINDS))] = "slic",
    set: Annotated[list[str] | None, typer.Option("--set", help="key=value, such as segments=200")] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO json of the kinds coco_boxes and coco_masks")] = None,
    weights: Annotated[Path | None, typer.Option(help="run folder, for the features of the kind kmeans")] = None,
    labels: Annotated[Path | None, typer.Option(help="COCO json or folder of label PNGs to compare with")] = None,
    devices: Annotated[
        int | None, typer.Option(help="processes on this machine; torchrun works too [default: cores; 1 for kmeans]")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for kmeans")] = "auto",
    image_root: Annotated[Path | None, typer.Option(help="where the images of a COCO json lie")] = None,
) -> Path:
    """Find regions in every image and keep them, to be read at random by training.

    Interrupted, it goes on where it stopped; run again, it makes anew what changed or was damaged.

    Returns:
        The folder of the store.

    Raises:
        InputError: something given cannot be used, or the store is of other images or settings.
    """
    data, out, console = Path(data), Path(out), Console(quiet=launched_rank() != 0)
    if devices is not None and devices < 1:
        raise InputError(f"--devices counts from 1, got {devices}")
    config = region_config(kind, set or [])
    images, scanned = scan(find_images(data, image_root))
    console.print("\n".join(scanned.lines()), highlight=False, markup=False)
    if annotations is not None or labels is not None:
        check_frame(images)
    objects = labelled_objects(labels, images) if labels is not None else None
    settings: dict[str, Any] = settings_of(config)
    work = RegionWork(images, make_regions(config, images, annotations, weights, device, settings))
    manifest = Manifest(config.content, settings, hash_names(images.names), len(images), library_of(config.kind))
    store = make_store(
        out,
        manifest,
        images,
        work,
        share_of(devices, network=config.kind == "kmeans"),
        console,
        kind,
        lambda store: summarise(store, work.image_size, objects),
    )
    if (found := store.completed()) is not None:
        console.print("\n".join(lines(found["summary"])), highlight=False, markup=False, soft_wrap=True)
        console.print(f"{out}: {size_on_disk(store)}", highlight=False, soft_wrap=True)
    return out


def check_frame(images: ImageList) -> None:
    """See that annotations, which are in pixels of the original images, fit these.

    Raises:
        InputError: they are of a pack that resized them.
    """
    if isinstance(images.store, Pack) and images.store.resized:
        raise InputError(
            f"annotations are in pixels of the original images, and {images.root} is a pack of resized ones; give the "
            "images themselves, or a pack made with --short-side 0"
        )


def region_config(kind: str, assignments: list[str]) -> RegionConfig:
    """The settings of a kind of regions.

    Raises:
        InputError: an unknown kind or key, or a value that does not fit.
    """
    if kind not in KINDS:
        raise InputError(f"--kind {kind}: no such kind{nearest(kind, KINDS)}")
    tree: dict[str, Any] = {"kind": kind}
    for key, value in parse_overrides(assignments):
        override(tree, key, value)
    config = parse(RegionConfig, tree, "--set")
    unused = sorted(tree.keys() - settings_of(config).keys())
    if unused:
        raise InputError(f"--set {unused[0]}: regions of kind {kind} have no such setting{_known(config)}")
    return config


def _known(config: RegionConfig) -> str:
    known = [key for key in settings_of(config) if key != "kind"]
    return f"; theirs are {', '.join(known)}" if known else "; they have none"


def make_regions(
    config: RegionConfig,
    images: ImageList,
    annotations: Path | None,
    weights: Path | None,
    device: str,
    settings: dict[str, Any],
) -> RegionSource:
    """What makes the regions of an image; adds to ``settings`` what else decides them.

    Raises:
        InputError: a library, weights or annotations are missing.
    """
    if config.kind == "selective_search":
        opencv()
        return SelectiveSearch()
    if config.kind == "windows":
        if config.size is None:
            raise InputError("regions of kind windows need the side of a square: --set size=224")
        return Windows(config.size, config.window, config.stride)
    if config.kind in ("coco_boxes", "coco_masks"):
        settings["annotations"] = annotation_digest(annotations)
        objects = read_objects(Path(annotations or ""), images.names)
        return CocoBoxes(objects) if config.kind == "coco_boxes" else CocoMasks(objects)
    if config.kind == "kmeans":
        if weights is None or config.size is None:
            raise InputError(
                "regions of kind kmeans need the run whose features they cluster, --weights RUN, and a size"
            )
        settings["weights"] = read_card(Path(weights))["sha256"][:16]
        return FeatureClusters(Path(weights), config.clusters, config.size, config.seed, str(choose_device(device)))
    plain = {"size": config.size, **settings_of(config)}
    return make_source(SourceConfig.model_validate(plain), images.names, IMAGENET_MEAN, IMAGENET_STD)


@dataclass
class FeatureClusters:
    """K-means of the c4 features of each image, squashed to a square (R2O, section 7.4, steps 2 and 3)."""

    weights: Path
    clusters: int
    size: int
    seed: int
    device: str
    encoder: Encoder | None = None

    def start(self, worker: int) -> None:
        if self.device == "cuda":
            self.device = f"cuda:{worker % torch.cuda.device_count()}"
        self.encoder = load_backbone(self.weights, ("c4",)).to(self.device)

    def __call__(self, image: Image.Image, position: int) -> np.ndarray:
        assert self.encoder is not None
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(self.device)
        index = torch.tensor([position])
        return feature_clusters(self.encoder, pixels, index, self.clusters, self.size, self.seed)[0].cpu().numpy()


@dataclass
class RegionWork:
    """Regions of images, one at a time."""

    images: ImageList
    source: RegionSource

    @property
    def forks(self) -> bool:
        return not isinstance(self.source, FeatureClusters)

    def start(self, worker: int) -> None:
        if isinstance(self.source, FeatureClusters):
            self.source.start(worker)

    def digest(self, i: int) -> bytes:
        return content_digest(self.images, i)

    def make(self, positions: Sequence[int]) -> Iterator[np.ndarray | None]:
        for i in positions:
            try:
                image = self.images.load(i)
            except UnreadableImage:
                yield None
            else:
                yield self.source(image, i)

    def image_size(self, i: int) -> tuple[int, int] | None:
        """Width and height of an image, pixels."""
        try:
            return self.images.load(i).size
        except UnreadableImage:
            return None


def labelled_objects(labels: Path, images: ImageList) -> Objects:
    """The objects to compare regions with.

    Raises:
        InputError: neither a COCO json of these images nor a folder with a label map of each.
    """
    labels = Path(labels)
    if labels.is_dir():
        return LabelledObjects(find_labels(labels, images.names))
    return read_objects(labels, images.names)
