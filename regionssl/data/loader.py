"""From the image list to batches, the same whatever the number of workers and processes, from any step on.

The order of an epoch is one counted permutation. Step ``s`` of the run takes a fixed stretch of it, each process a
fixed share of that stretch, and a sample's crops and colours are counted by (seed, epoch, image). So there is nothing
to save but the step.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.batch import Batch
from regionssl.data.decode import UnreadableImage
from regionssl.data.images import ImageList
from regionssl.data.photometric import ColourDraws, draw, stack
from regionssl.data.views import CropDraw, ViewPlan, cut, draw_crops
from regionssl.geometry import Crops

_REPLACEMENTS = 100


@dataclass(frozen=True)
class EpochPlan:
    """Which images each step takes.

    Attributes:
        images: length of the image list.
        batch_size: images per step over all processes.
        drop_last: leave the rest of an epoch out; otherwise the last batch is filled up from the start of the epoch's
            order to a multiple of ``share``.
        share: what the last batch must be a multiple of (processes x images per group).
        seed: of the run.
    """

    images: int
    batch_size: int
    seed: int
    drop_last: bool = True
    share: int = 1

    @property
    def steps_per_epoch(self) -> int:
        whole, rest = divmod(self.images, self.batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def order(self, epoch: int) -> np.ndarray:
        """The image positions of an epoch, in order."""
        return counted.permutation(self.images, self.seed, Stream.ORDER, epoch)

    def stretch(self, order: np.ndarray, step_in_epoch: int) -> np.ndarray:
        """The images of one step over all processes."""
        start = step_in_epoch * self.batch_size
        taken = order[start : start + self.batch_size]
        missing = -len(taken) % self.share
        return np.concatenate([taken, np.resize(order, missing)]) if missing else taken


@dataclass(frozen=True)
class Sample:
    """One image to be made: its position in the list, the epoch and the step."""

    index: int
    epoch: int
    step: int


class StepSampler(Sampler[list[Sample]]):
    """The samples of one process for the steps ``first`` to ``last - 1`` of a run."""

    def __init__(self, plan: EpochPlan, first: int, last: int, rank: int = 0, processes: int = 1) -> None:
        self.plan, self.first, self.last, self.rank, self.processes = plan, first, last, rank, processes

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[Sample]]:
        order, ordered_epoch = np.empty(0, np.int64), -1
        for step in range(self.first, self.last):
            epoch, step_in_epoch = divmod(step, self.plan.steps_per_epoch)
            if epoch != ordered_epoch:
                order, ordered_epoch = self.plan.order(epoch), epoch
            stretch = self.plan.stretch(order, step_in_epoch)
            share = len(stretch) // self.processes
            yield [Sample(int(i), epoch, step) for i in stretch[self.rank * share :][:share]]


@dataclass(frozen=True)
class Views:
    """The views of one image: pixels (3, S, S) uint8, crops and colours per view, and the images that failed before.

    Without pixels, none of a hundred replacements could be read either.
    """

    pixels: list[np.ndarray]
    crops: list[CropDraw]
    colours: list[ColourDraws]
    sample: Sample
    index: int
    failures: tuple[tuple[int, str], ...]


class ViewDataset(Dataset[Views]):
    """Makes the views of an image; an unreadable image is replaced by a counted draw and reported."""

    def __init__(self, images: ImageList, plan: ViewPlan, seed: int) -> None:
        self.images, self.plan, self.seed = images, plan, seed

    def __getitem__(self, sample: Sample) -> Views:
        image, index, failures = self._load(sample)
        if image is None:
            return Views([], [], [], sample, index, tuple(failures.items()))
        rng = counted.generator(self.seed, Stream.VIEWS, sample.index, sample.epoch)
        crops = draw_crops(self.plan, image.width, image.height, rng)
        pixels = [cut(image, crop, spec) for crop, spec in zip(crops, self.plan.views, strict=True)]
        colours = [
            draw(spec.colour, counted.generator(self.seed, Stream.COLOURS, sample.index, sample.epoch, view))
            for view, spec in enumerate(self.plan.views)
        ]
        return Views(pixels, crops, colours, sample, index, tuple(failures.items()))

    def _load(self, sample: Sample) -> tuple[Image.Image | None, int, dict[int, str]]:
        """The sample's image, or the first readable of its counted replacements; its position; what failed, and why."""
        failures: dict[int, str] = {}
        index = sample.index
        for attempt in range(_REPLACEMENTS):
            if index not in failures:
                try:
                    return self.images.load(index), index, failures
                except UnreadableImage as error:
                    failures[index] = str(error)
            replacement = counted.integer(self.seed, Stream.REPLACEMENT, sample.index, sample.epoch, attempt)
            index = replacement % len(self.images)
        return None, index, failures


@dataclass(frozen=True)
class Collate:
    """Turns the views of some images into a :class:`Batch`, without views if an image had no readable replacement."""

    plan: ViewPlan
    seed: int

    def __call__(self, items: list[Views]) -> Batch:
        complete = all(item.pixels for item in items)
        numbers = range(len(self.plan.views)) if complete else ()
        return Batch(
            views=[torch.from_numpy(np.stack([item.pixels[v] for item in items])) for v in numbers],
            crops=[_crops([item.crops[v] for item in items], self.plan.views[v].size) for v in numbers],
            colours=[stack([item.colours[v] for item in items]) for v in numbers],
            index=torch.tensor([item.index for item in items]),
            seed=self.seed,
            epoch=items[0].sample.epoch,
            step=items[0].sample.step,
            first=0,
            total=len(items),
            failures=tuple(failure for item in items for failure in item.failures),
        )


def _crops(draws: list[CropDraw], size: int) -> Crops:
    box = torch.tensor([draw.box for draw in draws], dtype=torch.float64)
    return Crops(box, torch.tensor([draw.flip for draw in draws]), size)


def make_loader(
    images: ImageList, plan: ViewPlan, sampler: StepSampler, seed: int, workers: int, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Batches of one process, in the order of the sampler's steps.

    Args:
        workers: loader processes; 0 makes the views in the training process.
    """
    return DataLoader(
        ViewDataset(images, plan, seed),  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=Collate(plan, seed),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_prepare_worker if workers else None,
    )


def _prepare_worker(worker: int) -> None:
    """One thread each, and deaf to stop signals: a worker ends with the process that it works for."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
