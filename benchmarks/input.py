"""What a loader worker does for one image, two views of 224 pixels, by one thread: ours against the usual pipelines.

    python -m benchmarks.input --out FILE.json [--images FOLDER] [--count 64] [--repeats 5]

The row of albumentations is left out unless it can be imported. It asks for another build of OpenCV than
``regionssl[proposals]``; ``pip install --no-deps albumentations==2.0.8 albucore==0.0.24 stringzilla simsimd`` does not.

Processor time per image, files in the page cache, the ways taken in turn in each repeat. Without ``--images`` generated
JPEGs of 500 x 375 pixels (quality 90) are made.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torchvision import transforms

from benchmarks.results import command_line, facts, show, write_json
from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.batch import coloured
from regionssl.data.images import ImageList, find_images
from regionssl.data.photometric import IMAGENET_MEAN, IMAGENET_STD
from regionssl.data.samples import Collate, Sample, ViewDataset
from regionssl.data.scenes import generate as generate_scene
from regionssl.data.views import Resampler, ViewPlan, ViewSpec
from regionssl.verbs.pack import pack

BATCH = 16
CLASSIC = "PIL + torchvision, all on the CPU"
ALBUMENTATIONS = "albumentations, all on the CPU"
OURS = "ours: uint8 crops, colours left to the device"
FROM_PACK = "ours from a pack"
DECODE = "decoding alone (Pillow)"

Way = Callable[[range], object]
"""Makes the views of the images at these positions."""


@dataclass(frozen=True)
class Options:
    """What to measure: a folder of images or None for generated ones, how many of them, how often."""

    images: Path | None = None
    count: int = 64
    repeats: int = 5


def rows(options: Options) -> list[dict[str, Any]]:
    """By way: microseconds of processor time per image (median), their spread (interquartile range over
    median) and how many times as fast as the classic pipeline it is (median over the repeats)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            images = options.images or write_photographs(Path(folder) / "images", options.count)
            return _figures(_interleaved(ways(images, Path(folder)), options))
    finally:
        torch.set_num_threads(threads)


def ways(folder: Path, scratch: Path) -> dict[str, Way]:
    """All ways from files to views, by name."""
    images = find_images(folder)
    found: dict[str, Way] = {CLASSIC: classic(images)}
    other = albumentations(images)
    if other is not None:
        found[ALBUMENTATIONS] = other
    found[OURS] = ours(images)
    found[f"{OURS}; resampler=torch"] = ours(images, "torch")
    found["ours, with our colours on the CPU"] = ours(images, colours=True)
    for kind, side in (("jpeg", 448), ("jpeg", 256), ("raw", 448), ("raw", 256)):
        place = scratch / f"{kind}{side}"
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            pack(folder, place, format=kind, short_side=side, workers=1)
        for resampler in ("pillow", "torch"):
            suffix = "" if resampler == "pillow" else "; resampler=torch"
            found[f"{FROM_PACK}: {kind}, short side {side}{suffix}"] = ours(find_images(place), resampler)
    found[DECODE] = lambda rows: [images.load(i) for i in rows]
    return found


def classic(images: ImageList) -> Way:
    """The pipeline of the published codes (MoCo v2's policy)."""
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(23, (0.1, 2.0))], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def make(rows: range) -> object:
        pairs = []
        for i in rows:
            with images.open(i) as file:
                image = Image.open(file).convert("RGB")
            pairs.append((view(image), view(image)))
        return [torch.stack(views) for views in zip(*pairs, strict=True)]

    return make


def albumentations(images: ImageList) -> Way | None:
    """The same policy in albumentations; None if it is not installed."""
    try:
        import albumentations as A
        import cv2
        from albumentations.pytorch import ToTensorV2
    except ImportError:
        return None
    cv2.setNumThreads(1)
    view = A.Compose(
        [
            A.RandomResizedCrop((224, 224), scale=(0.2, 1.0)),
            A.ColorJitter((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(blur_limit=23, sigma_limit=(0.1, 2.0), p=0.5),
            A.HorizontalFlip(p=0.5),
            A.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ToTensorV2(),
        ]
    )

    def make(rows: range) -> object:
        pairs = []
        for i in rows:
            coded = np.frombuffer(images.read(i), np.uint8)
            image = cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            pairs.append([view(image=image)["image"] for _ in range(2)])
        return [torch.stack(views) for views in zip(*pairs, strict=True)]

    return make


def ours(images: ImageList, resampler: Resampler = "pillow", colours: bool = False) -> Way:
    """What a worker of ours does; ``colours`` adds what the device does after it."""
    plan = ViewPlan(views=(ViewSpec(), ViewSpec()), resampler=resampler)
    dataset, collate = ViewDataset(images, plan, seed=0), Collate(plan, seed=0)

    def make(rows: range) -> object:
        batch = collate([dataset[Sample(i, 0, 0)] for i in rows])
        return coloured(batch, plan) if colours else batch

    return make


def write_photographs(folder: Path, count: int) -> Path:
    """Generated scenes as JPEGs of 500 x 375 pixels, with the grain that makes them as large as photographs."""
    folder.mkdir()
    for i in range(count):
        rng = counted.generator(0, Stream.SCENES, i, 1)
        scene = generate_scene(i, 500).image[:375].astype(np.float32)
        grain = rng.normal(0, 8, scene.shape[:2])[..., None]
        Image.fromarray((scene + grain).clip(0, 255).astype(np.uint8)).save(folder / f"{i:04d}.jpg", quality=90)
    return folder


def _interleaved(found: dict[str, Way], options: Options) -> dict[str, list[float]]:
    """Microseconds per image of each way, by repeat; what the first round warms up does not count."""
    for way in found.values():
        way(range(min(BATCH, options.count)))
    taken: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(options.repeats):
        for name, way in found.items():
            start = time.process_time()
            for rows in _batches(options.count):
                way(rows)
            taken[name].append((time.process_time() - start) / options.count * 1e6)
    return taken


def _batches(count: int) -> Iterator[range]:
    yield from (range(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def _figures(taken: dict[str, list[float]]) -> list[dict[str, Any]]:
    found = []
    for name, times in taken.items():
        low, middle, high = np.percentile(times, [25, 50, 75])
        ratios = [classic / time for classic, time in zip(taken[CLASSIC], times, strict=True)]
        row = {
            "way": name,
            "microseconds": float(middle),
            "spread": float((high - low) / middle),
            "images_per_second": 1e6 / float(middle),
            "times_classic": statistics.median(ratios),
        }
        if ALBUMENTATIONS in taken:
            pairs = zip(taken[ALBUMENTATIONS], times, strict=True)
            row["times_albumentations"] = statistics.median(other / time for other, time in pairs)
        found.append(row)
    return found


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--images", type=Path, help="folder; generated ones if left out")
    parser.add_argument("--count", type=int, default=Options.count)
    parser.add_argument("--repeats", type=int, default=Options.repeats)
    given = parser.parse_args()
    found = rows(Options(given.images, given.count, given.repeats))
    show(f"from file to two views of 224 px, one core; libjpeg-turbo {features.version('libjpeg_turbo')}", found)
    write_json(given.out, facts("cpu"), {"input": found})


if __name__ == "__main__":
    main()
