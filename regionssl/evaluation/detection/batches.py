"""Batches for detectors, by iteration: every image once in an epoch, equal parts for equal processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from regionssl import counted
from regionssl.counted import Stream
from regionssl.engine.distributed import current_world
from regionssl.evaluation.inputs import worker_count

Batch = tuple[list[int], list[Tensor], list[dict[str, Tensor]]]
"""Places in the set, images and targets."""


class TrainingSet(Protocol):
    """What :func:`fit` needs of samples (:class:`regionssl.evaluation.detection.samples.Samples` and the like)."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Of the image, for messages."""

    def draw(self, i: int, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Image (3, H, W) float32 in 0..1 and target of sample ``i`` as an epoch sees it; a pure function."""


class _Drawn(Dataset[tuple[int, Tensor, dict[str, Tensor]]]):
    """Samples by (epoch, place), for a loader whose workers may be other processes."""

    def __init__(self, samples: TrainingSet) -> None:
        self.samples = samples

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Tensor, dict[str, Tensor]]:
        epoch, i = key
        return i, *self.samples.draw(i, epoch)


def batches(
    dataset: TrainingSet, batch_size: int, iterations: range, seed: int, device: torch.device
) -> Iterator[Batch]:
    """This process's equal parts of the batches of some iterations, from permutations of the set.

    A batch may begin in one permutation and end in the next.
    """
    world = current_world()
    share = batch_size // world.size
    own = slice(world.rank * share, (world.rank + 1) * share)
    every = _keys(len(dataset), batch_size, seed)
    keys = (batch[own] for batch in islice(every, iterations.start, iterations.stop))
    loader = DataLoader(
        _Drawn(dataset),
        batch_sampler=keys,
        num_workers=worker_count(device),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    return iter(loader)


def _keys(images: int, batch: int, seed: int) -> Iterator[list[tuple[int, int]]]:
    keys: list[tuple[int, int]] = []
    epoch = 0
    while True:
        while len(keys) < batch:
            order = counted.permutation(images, seed, Stream.ORDER, epoch)
            keys += [(epoch, int(i)) for i in order]
            epoch += 1
        yield keys[:batch]
        keys = keys[batch:]


def _collate(samples: list[tuple[int, Tensor, dict[str, Tensor]]]) -> Batch:
    places, images, targets = zip(*samples, strict=True)
    return list(places), list(images), list(targets)
