"""One training loop for everything that is a torchvision detector: fixed iterations, equal to the last digit on a CPU.

One process trains on whole batches, so batch norms see what synchronised ones see on several GPUs.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from regionssl import counted
from regionssl.config import Config
from regionssl.counted import Stream
from regionssl.engine.log import duration
from regionssl.errors import InputError
from regionssl.evaluation.saved import SavedTraining

_SECONDS_BETWEEN_LINES = 30.0
_WORKERS = 8

Batch = tuple[list[int], list[Tensor], list[dict[str, Tensor]]]


class TrainingSettings(Config):
    """How a detector is trained. The defaults are detectron2's for COCO, 1x (ReSim 6.3, SCRL 6.1, PLRC 6.2, ORL 6.5).

    Attributes:
        lr: learning rate at ``batch_size`` images.
        momentum: of SGD.
        weight_decay: of everything but the norms, which have none.
        batch_size: images per iteration.
        iterations: how long; fixed, there is no early stopping.
        warmup: iterations over which the rate grows linearly from ``warmup_start`` times itself.
        drops: when the rate falls to a tenth: iterations, or below 1 shares of ``iterations``.
        clip: largest norm of the gradient over all parameters; None leaves it.
        precise_norm: before scoring, batch norms take plain means of their statistics over this many batches; 0 keeps
            the moving averages.
        precision: "bf16" computes what is safe in bfloat16.
    """

    lr: float = Field(0.02, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    batch_size: int = Field(16, ge=1)
    iterations: int = Field(90_000, ge=1)
    warmup: int = Field(1000, ge=0)
    warmup_start: float = Field(0.001, ge=0, le=1)
    drops: tuple[float, ...] = (60_000, 80_000)
    clip: float | None = Field(None, gt=0)
    precise_norm: int = Field(0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"


class TrainingSet(Protocol):
    """What :func:`fit` needs of samples (:class:`regionssl.evaluation.detection.samples.Samples` and the like)."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Of the image, for messages."""

    def draw(self, i: int, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Image (3, H, W) float32 in 0..1 and target of sample ``i`` as an epoch sees it; a pure function."""


def learning_rate(settings: TrainingSettings, iteration: int) -> float:
    """The rate of an iteration, counted from 0."""
    marks = [drop * settings.iterations if drop < 1 else drop for drop in settings.drops]
    rate = settings.lr * 0.1 ** sum(iteration >= mark for mark in marks)
    if iteration >= settings.warmup:
        return rate
    return rate * (settings.warmup_start + (1 - settings.warmup_start) * iteration / settings.warmup)


def fit(
    model: nn.Module,
    dataset: TrainingSet,
    settings: TrainingSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    saved: SavedTraining | None = None,
) -> list[float]:
    """Train a detector in place; it ends on ``device`` and in evaluation mode.

    Images come in permutations of the whole set, counted by (seed, epoch). Torch's generator, from which detectors draw
    their samples of boxes, is set at every iteration, and put back in the end.

    Args:
        model: in training mode takes lists of images and of targets and returns a dict of losses, to be added.
        saved: where its state is kept, and taken up if it was stopped before.

    Returns:
        The loss of every iteration.

    Raises:
        InputError: the loss is not finite; the message names the iteration and its images.
    """
    device = torch.device(device)
    model.to(device).train()
    optimiser = make_optimiser(model, settings)
    done, losses = saved.go_on(model, optimiser) if saved else (0, [])
    progress = _Progress(settings.iterations, done)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for iteration, batch in enumerate(_batches(dataset, settings, settings.iterations, seed, device, done), done):
            torch.manual_seed(counted.integer(seed, Stream.STEP, iteration))
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(settings, iteration)
            losses.append(_step(model, optimiser, batch, settings, device))
            if not math.isfinite(losses[-1]):
                raise InputError(_not_finite(iteration, [dataset.name(i) for i in batch[0]]))
            progress.say(iteration + 1, losses[-1])
            if saved:
                saved.keep(model, optimiser, iteration + 1, losses, iteration + 1 == settings.iterations)
        if settings.precise_norm:
            _precise_statistics(model, dataset, settings, seed, device)
    model.eval()
    return losses


def make_optimiser(model: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    """SGD over the parameters that train; norms without weight decay."""
    normed: set[nn.Parameter] = set()
    for module in model.modules():
        if isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm):
            normed |= set(module.parameters(recurse=False))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in trained if one not in normed], "weight_decay": settings.weight_decay},
        {"params": [one for one in trained if one in normed], "weight_decay": 0.0},
    ]
    return torch.optim.SGD([group for group in groups if group["params"]], settings.lr, settings.momentum)


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, settings: TrainingSettings, device: torch.device
) -> float:
    """One update, unless the loss is not finite; returns the loss."""
    loss = _loss(model, batch, settings, device)
    value = loss.item()
    if math.isfinite(value):
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
    return value


def _loss(model: nn.Module, batch: Batch, settings: TrainingSettings, device: torch.device) -> Tensor:
    _, images, targets = batch
    images = [image.to(device, non_blocking=True) for image in images]
    targets = [{key: value.to(device, non_blocking=True) for key, value in target.items()} for target in targets]
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        losses: dict[str, Tensor] = model(images, targets)
    return torch.stack([loss.float() for loss in losses.values()]).sum()


@torch.no_grad()
def _precise_statistics(
    model: nn.Module, dataset: TrainingSet, settings: TrainingSettings, seed: int, device: torch.device
) -> None:
    """Give trained batch norms the plain means of their statistics over batches (Precise-BN; ReSim 6.2)."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for iteration, batch in enumerate(_batches(dataset, settings, settings.precise_norm, seed, device)):
        torch.manual_seed(counted.integer(seed, Stream.STEP, settings.iterations + iteration))
        _loss(model, batch, settings, device)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


class _Drawn(Dataset[tuple[int, Tensor, dict[str, Tensor]]]):
    """Samples by (epoch, place), for a loader whose workers may be other processes."""

    def __init__(self, samples: TrainingSet) -> None:
        self.samples = samples

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Tensor, dict[str, Tensor]]:
        epoch, i = key
        return i, *self.samples.draw(i, epoch)


def _batches(
    dataset: TrainingSet, settings: TrainingSettings, count: int, seed: int, device: torch.device, first: int = 0
) -> Iterator[Batch]:
    """``count`` batches from permutations of the set, without those before ``first``.

    A batch may begin in one permutation and end in the next.
    """
    loader = DataLoader(
        _Drawn(dataset),
        batch_sampler=islice(_keys(len(dataset), settings.batch_size, count, seed), first, None),
        num_workers=worker_count(device),
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    return iter(loader)


def worker_count(device: torch.device) -> int:
    """Processes that read images; none on a CPU, which they would only slow down."""
    return min(_WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 0


def _keys(images: int, batch: int, count: int, seed: int) -> Iterator[list[tuple[int, int]]]:
    keys: list[tuple[int, int]] = []
    epoch = 0
    for _ in range(count):
        while len(keys) < batch:
            order = counted.permutation(images, seed, Stream.ORDER, epoch)
            keys += [(epoch, int(i)) for i in order]
            epoch += 1
        yield keys[:batch]
        keys = keys[batch:]


def _collate(samples: list[tuple[int, Tensor, dict[str, Tensor]]]) -> Batch:
    places, images, targets = zip(*samples, strict=True)
    return list(places), list(images), list(targets)


def _not_finite(iteration: int, names: list[str]) -> str:
    return (
        f"the detector's loss is not finite at iteration {iteration} (images {', '.join(names)}); "
        "lower lr, lengthen warmup or set clip, such as clip=10"
    )


class _Progress:
    """A line now and then on how far training is, on the standard error."""

    def __init__(self, iterations: int, found: int) -> None:
        self.iterations, self.found = iterations, found
        self.began = self.said = time.perf_counter()

    def say(self, done: int, loss: float) -> None:
        now = time.perf_counter()
        if now - self.said > _SECONDS_BETWEEN_LINES:
            self.said = now
            left = duration((now - self.began) / (done - self.found) * (self.iterations - done))
            print(f"training: {done:,}/{self.iterations:,}  loss {loss:.3f}  left {left}", file=sys.stderr, flush=True)
