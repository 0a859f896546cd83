"""From the image list to batches, the same whatever the number of workers and processes, from any step on.

The order of an epoch is one counted permutation. Step ``s`` of the run takes a fixed stretch of it, each process a
fixed share of that stretch, and a sample's crops and colours are counted by (seed, epoch, image). So there is nothing
to save but the step.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from regionssl import counted
from regionssl.counted import Stream
from regionssl.data.batch import Batch
from regionssl.data.images import ImageList
from regionssl.data.patches import PatchSource
from regionssl.data.samples import Collate, RegionSource, Sample, ViewDataset, Views
from regionssl.data.views import ViewPlan

PREFETCH = 4
"""Batches that each loader process holds ready."""

YIELDING = 19
"""By how much a loader process on shared cores is nicer than the training, whose threads wait for the slowest one."""


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


class _OnThreads(Dataset[Views]):
    """Makes the samples of a batch side by side, in this process."""

    def __init__(self, views: ViewDataset, threads: int) -> None:
        self.views, self.pool = views, ThreadPoolExecutor(threads)

    def __getitems__(self, samples: list[Sample]) -> list[Views]:
        return list(self.pool.map(self.views.__getitem__, samples))


def make_loader(
    images: ImageList,
    plan: ViewPlan,
    sampler: StepSampler,
    seed: int,
    workers: int,
    pin_memory: bool = False,
    regions: RegionSource | None = None,
    patches: PatchSource | None = None,
    threads: int = 1,
    yielding: bool = False,
) -> DataLoader[Batch]:
    """Batches of one process, in the order of the sampler's steps.

    Args:
        workers: loader processes; 0 makes the views in the training process, between its steps.
        regions: labels the images, if views ask for labels.
        patches: correspondences between the images, if some views are patches.
        threads: of the training process that make views, if there are no loader processes.
        yielding: loader processes take the time only that the training leaves, because it runs on the same cores.
    """
    views = ViewDataset(images, plan, seed, regions, patches)
    return DataLoader(
        views if workers or threads == 1 else _OnThreads(views, threads),  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=Collate(plan, seed),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=partial(_prepare_worker, YIELDING if yielding else 0) if workers else None,
    )


def _prepare_worker(niceness: int, worker: int) -> None:
    """One thread each, so much nicer, and deaf to stop signals: a worker ends with the process that it works for."""
    torch.set_num_threads(1)
    os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
